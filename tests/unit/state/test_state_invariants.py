"""The invariants: a sound cell has none broken, and each way to break one is found."""

import pytest
from borgcell.types import EndReason, EvictionCause, JobKey, TaskKey, TaskState
from msgspec.structs import replace

from borgmaster.state.events import Note, Recorded
from borgmaster.state.invariants import check
from borgmaster.state.model import Stopping
from tests.helpers.builders import (
    START_MS,
    World,
    a_cell,
    a_job,
    a_limit,
    a_machine,
    a_spec,
    a_task,
    a_task_spec,
)

WEB, WEB0, WEB1 = JobKey("ann", "web"), TaskKey("ann", "web", 0), TaskKey("ann", "web", 1)


def sound():
    """Task 0 runs on m1, task 1 waits."""
    job = a_job(spec=a_spec(task_count=2, task=a_task_spec(ports=("http",))))
    return a_cell(a_machine(), job, a_task(job=job, machine="m1"), a_task("ann/web/1", job=job))


def change(cell, key, *, current=None, **fields):
    task = cell.tasks[key]
    if current:
        fields["current"] = replace(task.current, **current)
    cell.put_task(replace(task, **fields))


def change_job(cell, **fields):
    cell.jobs[WEB] = replace(cell.jobs[WEB], **fields)


def evicted(**fields):
    return Stopping(EndReason.EVICTED, START_MS, **{"cause": EvictionCause.MAINTENANCE, **fields})


def put_elsewhere(cell):
    cell.tasks[WEB1] = cell.tasks[WEB0]


def share_a_port(cell):
    ports = cell.tasks[WEB0].current.ports
    change(
        cell,
        WEB1,
        state=TaskState.STARTING,
        current={"machine": "m1", "ports": ports},
    )


def add_history(cell, *sequences):
    for sequence in sequences:
        cell.history.append(Recorded(sequence, 1, START_MS, "job", "a/b", Note("SUBMIT")))
    cell.sequence = 9


BREAKS = {
    "index held": lambda cell: cell.indexes.held.clear(),
    "index pending": lambda cell: cell.indexes.pending.clear(),
    "is stored as": put_elsewhere,
    "has no job": lambda cell: cell.jobs.clear(),
    "which ann/web does not have": lambda cell: change(cell, WEB0, current={"version": 9}),
    "waits for version 1 of 2": lambda cell: change_job(
        cell, version=2, older={1: cell.jobs[WEB].spec}
    ),
    "another limit or priority": lambda cell: change(cell, WEB0, priority=7),
    "which do not grow": lambda cell: change(
        cell, WEB0, finished=(replace(cell.tasks[WEB0].current, end_reason=EndReason.LOST),)
    ),
    "keeps 11 finished": lambda cell: change(
        cell, WEB0, finished=(replace(cell.tasks[WEB0].current, number=0),) * 11
    ),
    "without an end": lambda cell: change(
        cell, WEB0, finished=(replace(cell.tasks[WEB0].current, number=0),)
    ),
    "which the cell does not have": lambda cell: cell.machines.clear(),
    "which is down": lambda cell: cell.put_machine(replace(cell.machines["m1"], up=False)),
    "holds 1 ports but was given": lambda cell: change(cell, WEB0, current={"ports": {}}),
    "PENDING, but has a machine": lambda cell: change(cell, WEB1, current={"machine": "m1"}),
    "with end reason": lambda cell: change(cell, WEB0, current={"end_reason": EndReason.LOST}),
    "is healthy, but": lambda cell: change(cell, WEB1, healthy=True),
    "RUNNING since never": lambda cell: change(cell, WEB0, current={"running_at_ms": 0}),
    "in the future": lambda cell: change(cell, WEB0, current={"submitted_at_ms": START_MS + 1}),
    "STOPPING for no reason": lambda cell: change(
        cell, WEB0, state=TaskState.STOPPING, healthy=False
    ),
    "but ann/web has ended": lambda cell: change_job(cell, ended=True, ended_at_ms=1),
    "but ann/web has 1 tasks": lambda cell: change_job(
        cell, spec=replace(cell.jobs[WEB].spec, task_count=1)
    ),
    "RUNNING and being stopped": lambda cell: change(cell, WEB0, stopping=evicted()),
    "stopped to be LOST": lambda cell: change(
        cell,
        WEB0,
        state=TaskState.STOPPING,
        healthy=False,
        stopping=Stopping(EndReason.LOST, START_MS),
    ),
    "as EVICTED with cause None": lambda cell: change(
        cell, WEB0, state=TaskState.STOPPING, healthy=False, stopping=evicted(cause=None)
    ),
    "but nobody wants it": lambda cell: (
        change(cell, WEB0, state=TaskState.STOPPING, healthy=False, stopping=evicted()),
        change_job(cell, ended=True, ended_at_ms=1),
    ),
    "which no task is at": lambda cell: change_job(cell, older={0: cell.jobs[WEB].spec}),
    "calls 7 older": lambda cell: change_job(cell, older={7: cell.jobs[WEB].spec}),
    "lacks tasks [1]": lambda cell: cell.drop_task(WEB1),
    "ended False at 5": lambda cell: change_job(cell, ended_at_ms=5),
    "its tasks hold": lambda cell: cell.machines.update(
        m1=replace(cell.machines["m1"], capacity=replace(a_limit(10), ports=100))
    ),
    "not the size of its range": lambda cell: cell.put_machine(
        replace(cell.machines["m1"], port_last=20_001)
    ),
    "is given to ann/web/0 and ann/web/1": share_a_port,
    "but the sequence is": lambda cell: add_history(cell, 1),
    "has gaps": lambda cell: add_history(cell, 7, 9),
    "history ends in the future": lambda cell: (
        add_history(cell, 9),
        setattr(cell, "now_ms", START_MS - 1),
    ),
    "requests are not in the order": lambda cell: cell.requests.update(a=(2, None), b=(1, None)),
    "requests holds 200001": lambda cell: cell.requests.update(
        dict.fromkeys(range(200_001), (0, None))
    ),
    "is shrunk, but not a machine": lambda cell: cell.shrunk.add("m9"),
}


def test_a_sound_cell_has_no_fault():
    assert check(sound()) == []


@pytest.mark.parametrize("fault", BREAKS)
def test_each_broken_invariant_is_named(fault):
    cell = sound()
    BREAKS[fault](cell)
    found = check(cell)
    assert any(fault in line for line in found), found


def test_a_batch_job_with_only_dead_tasks_should_have_ended():
    world = World()
    world.submit(a_spec(kind="batch"))
    cell = world.cell
    change(
        cell,
        WEB0,
        state=TaskState.DEAD,
        current={"end_reason": EndReason.FINISHED},
    )
    assert any("whose tasks are all dead" in line for line in check(cell))
