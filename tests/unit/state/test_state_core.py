"""Applying entries: request ids, time, refusals, and that nothing can make it raise."""

import pytest
from borgcell.types import TaskKey
from msgspec import msgpack

from borgmaster.state.cell import HISTORY_MAX, REQUESTS_MAX, RETIRED_MAX, CellState
from borgmaster.state.checkpoint import digest
from borgmaster.state.commands import AddMachine, ForgetJobs, KillJob, SetDraining, SubmitJob
from borgmaster.state.core import Decided, apply_bytes, apply_entry, decide
from borgmaster.state.entry import Entry, Proposal, encode_entry
from borgmaster.state.events import JobChanged, RequestAnswered, TaskChanged
from borgmaster.state.model import Job
from borgmaster.state.outcome import Accepted, Code, Rejected
from tests.helpers.builders import START_MS, World, a_cell, a_job, a_machine, a_spec, a_task


def test_deciding_changes_nothing():
    cell = a_cell(a_machine(), a_job(spec=a_spec(task_count=1)), a_task())
    before = digest(cell)
    decided = decide(cell, KillJob(a_spec().key), START_MS)
    assert isinstance(decided, Decided)
    assert [type(event) for event in decided.events] == [TaskChanged, JobChanged]
    assert digest(cell) == before


def test_the_outcome_carries_the_index_of_its_entry():
    cell = CellState("test")
    entry = Entry(START_MS, (Proposal(AddMachine("m1", "h:1")), Proposal(AddMachine("m2", "h:2"))))
    applied = apply_entry(cell, 41, entry)
    assert [outcome.index for outcome in applied.outcomes] == [41, 41]
    assert cell.applied_index == 41
    assert [(line.sequence, line.index, line.key) for line in applied.recorded] == [
        (1, 41, "m1"),
        (2, 41, "m2"),
    ]


def test_a_retry_gets_the_first_answer_and_does_nothing():
    world = World()
    world.add_machine()
    first = world.run(SubmitJob(a_spec()), request_id="r1")
    world.wait(5_000)
    assert world.run(SubmitJob(a_spec(priority=300)), request_id="r1") == first
    assert not world.last.events
    assert world.cell.jobs[a_spec().key].version == 1


def test_two_proposals_with_one_request_id_in_one_entry_are_one():
    world = World()
    world.run(SubmitJob(a_spec()), SubmitJob(a_spec(priority=300)), request_id="r1")
    first, second = world.last.outcomes
    assert first == second
    assert world.cell.jobs[a_spec().key].spec.priority == 200


def test_refusals_are_remembered_too():
    world = World()
    first = world.run(KillJob(a_spec().key), request_id="r1")
    world.submit(a_spec())
    assert world.run(KillJob(a_spec().key), request_id="r1") == first
    assert isinstance(first, Rejected)


def test_a_refusal_without_a_request_id_leaves_no_event():
    world = World()
    world.run(KillJob(a_spec().key))
    assert not world.last.events
    world.run(KillJob(a_spec().key), request_id="r1")
    assert [type(event) for event in world.last.events] == [RequestAnswered]


def test_time_never_goes_back():
    world = World()
    world.must(AddMachine("m1", "h:1"))
    world.wait(-10_000)
    world.must(AddMachine("m2", "h:1"))
    assert world.cell.machines["m2"].added_at_ms == START_MS
    assert world.cell.now_ms == START_MS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"not an entry",
        msgpack.encode({"at_ms": 1, "proposals": [{"command": {"type": "FromTheFuture"}}]}),
        msgpack.encode({"at_ms": "noon", "proposals": []}),
        msgpack.encode([1, 2, 3]),
    ],
)
def test_bytes_that_are_no_entry_are_refused_and_change_nothing_but_the_index(data):
    cell = a_cell(a_machine())
    expected = a_cell(a_machine())
    expected.applied_index = 9
    (outcome,) = apply_bytes(cell, 9, data).outcomes
    assert outcome.code is Code.UNIMPLEMENTED
    assert digest(cell) == digest(expected)


def test_an_entry_of_a_newer_version_is_refused_once_per_proposal():
    cell = CellState("test")
    proposals = (Proposal(AddMachine("m1", "h:1"), "r1"), Proposal(AddMachine("m2", "h:1")))
    applied = apply_bytes(cell, 1, encode_entry(Entry(START_MS, proposals, version=2)))
    assert [outcome.code for outcome in applied.outcomes] == [Code.UNIMPLEMENTED] * 2
    assert not cell.machines
    assert not cell.requests


def test_a_bug_of_ours_becomes_a_refusal_and_the_next_proposal_goes_on():
    cell = a_cell(a_task())  # a job at version 1 ...
    job = cell.jobs[a_spec().key]
    cell.jobs[job.key] = Job(
        job.spec, 5, START_MS, START_MS
    )  # ... that lost it: a broken invariant
    before = cell.tasks[TaskKey("ann", "web", 0)]
    proposals = (Proposal(SubmitJob(a_spec(priority=300)), "r1"), Proposal(AddMachine("m1", "h:1")))
    applied = apply_entry(cell, 1, Entry(START_MS, proposals))
    broken, fine = applied.outcomes
    assert broken == Rejected(Code.INTERNAL, "KeyError in SubmitJob: this is a bug")
    assert isinstance(fine, Accepted)
    assert cell.tasks[TaskKey("ann", "web", 0)] is before
    assert "KeyError" in applied.faults[0]
    assert cell.requests["r1"][1] == broken


def test_running_out_of_memory_is_not_hidden():
    class Exhausted(dict):
        def get(self, *_):
            raise MemoryError

    cell = CellState("test")
    cell.jobs = Exhausted()
    with pytest.raises(MemoryError):
        apply_entry(cell, 1, Entry(START_MS, (Proposal(KillJob(a_spec().key)),)))


# --- bounds


def test_the_history_keeps_the_latest_lines_and_their_numbers():
    world = World()
    world.submit(a_spec(task_count=HISTORY_MAX + 10))
    assert len(world.last.recorded) == HISTORY_MAX + 11
    assert len(world.cell.history) == HISTORY_MAX
    assert world.cell.history[-1].sequence == world.cell.sequence == HISTORY_MAX + 11


def test_too_many_answers_lose_the_oldest_tenth():
    cell = CellState("test")
    for number in range(REQUESTS_MAX + 1):
        cell.put_request(str(number), number, Accepted())
    assert len(cell.requests) == REQUESTS_MAX + 1 - REQUESTS_MAX // 10
    assert next(iter(cell.requests)) == str(REQUESTS_MAX // 10)


def test_retired_incarnations_that_are_dropped_still_bound_new_ones():
    cell = a_cell(a_task("ann/first/0", incarnation=7))
    cell.drop_job(a_spec("ann/first").key)
    assert cell.first_incarnation(a_spec("ann/first").key) == 8
    assert cell.first_incarnation(a_spec("ann/other").key) == 1
    for number in range(RETIRED_MAX):
        cell.retired[a_spec(f"ann/j{number}").key] = 1
    key = a_spec("ann/last").key
    cell.jobs[key] = a_job("ann/last")
    cell.put_task(a_task("ann/last/0"))
    cell.drop_job(key)
    assert a_spec("ann/first").key not in cell.retired
    assert cell.first_incarnation(a_spec("ann/first").key) == 8


def test_forgetting_nothing_changes_nothing():
    world = World()
    world.add_machine()
    world.run(SetDraining("m1", draining=True), request_id="r")
    assert world.must(ForgetJobs()) == Accepted(index=3, changed=False)
