"""Submitting jobs and versions, starting ended ones anew, killing and forgetting."""

import pytest
from borgcell.resources import Resources
from borgcell.types import EndReason, EvictionCause, JobKey, JobKind, TaskState

from borgmaster.state import jobs
from borgmaster.state.commands import (
    EvictTasks,
    ForgetJobs,
    KillJob,
    SetDraining,
    SubmitJob,
)
from borgmaster.state.core import decide
from borgmaster.state.outcome import Accepted, Code, Rejected
from tests.helpers.builders import World, a_batch_spec, a_limit, a_spec, a_task_spec

WEB = JobKey("ann", "web")


@pytest.fixture
def world():
    world = World()
    world.add_machine("m1")
    return world


# --- submit


def test_a_new_job_is_recorded_and_its_tasks_wait(world):
    outcome = world.run(SubmitJob(a_spec(task_count=3)))
    assert outcome == Accepted(index=2, version=1, created=True, tasks_added=3)
    assert [task.state for task in world.cell.tasks_of(WEB)] == [TaskState.PENDING] * 3
    assert world.kinds() == ["SUBMIT"] * 4
    assert world.task("ann/web/2").limit == a_limit()
    assert world.task("ann/web/2").priority == 200


def test_each_override_counts_for_its_own_task(world):
    big = a_task_spec(limit=a_limit(cpu_milli=4_000))
    world.submit(a_spec(task_count=2, overrides={1: big}))
    assert world.task("ann/web/0").limit.cpu_milli == 1_000
    assert world.task("ann/web/1").limit.cpu_milli == 4_000


def test_a_bad_spec_is_refused_with_every_problem_and_nothing_changes(world):
    outcome = world.run(SubmitJob(a_spec(task_count=1_000_001, priority=999)))
    assert isinstance(outcome, Rejected)
    assert outcome.code is Code.INVALID_ARGUMENT
    assert [problem.field for problem in outcome.problems] == ["priority", "task_count"]
    assert "999 is not in 0..450" in outcome.detail
    assert not world.cell.jobs
    assert not world.cell.tasks


def test_the_detail_of_a_refusal_names_three_problems_and_counts_the_others(world):
    task = a_task_spec(
        argv=(), limit=Resources(cpu_milli=0, ram_bytes=0, disk_bytes=-1), pids_max=-1
    )
    outcome = world.run(SubmitJob(a_spec(task=task)))
    assert len(outcome.problems) == 5
    assert outcome.detail.endswith("; and 2 more")


def test_a_version_below_any_is_no_version(world):
    outcome = world.run(SubmitJob(a_spec(), expected_version=-2))
    assert (outcome.code, outcome.problems[0].field) == (Code.INVALID_ARGUMENT, "expected_version")


def test_create_only_refuses_a_job_that_exists(world):
    world.submit(a_spec())
    outcome = world.run(SubmitJob(a_spec(), expected_version=0))
    assert outcome == Rejected(Code.FAILED_PRECONDITION, "ann/web exists already, at version 1")


def test_create_only_starts_a_job_that_has_ended(world):
    world.submit(a_spec())
    world.must(KillJob(WEB))
    assert world.must(SubmitJob(a_spec(), expected_version=0)).created


def test_an_update_that_expects_another_version_is_refused(world):
    world.submit(a_spec())
    world.submit(a_spec(priority=210))
    outcome = world.run(SubmitJob(a_spec(priority=220), expected_version=1))
    assert outcome == Rejected(
        Code.FAILED_PRECONDITION, "ann/web is at version 2, but version 1 was expected"
    )
    assert world.must(SubmitJob(a_spec(priority=220), expected_version=2)).version == 3


def test_an_update_of_what_does_not_exist_is_refused(world):
    outcome = world.run(SubmitJob(a_spec(), expected_version=4))
    assert outcome.code is Code.FAILED_PRECONDITION
    assert "there is no such job" in outcome.detail


def test_the_same_spec_again_changes_nothing(world):
    world.submit(a_spec(task_count=2))
    outcome = world.run(SubmitJob(a_spec(task_count=2)))
    assert outcome == Accepted(index=3, changed=False, version=1)
    assert not world.last.events


def test_a_running_job_keeps_its_kind(world):
    world.submit(a_spec())
    outcome = world.run(SubmitJob(a_spec(kind=JobKind.BATCH)))
    assert outcome.code is Code.FAILED_PRECONDITION
    assert outcome.problems[0].field == "kind"
    world.must(KillJob(WEB))
    assert world.must(SubmitJob(a_spec(kind=JobKind.BATCH))).created


def test_a_cell_that_is_full_says_so(world):
    world.cell.tasks.update(
        dict.fromkeys(range(jobs.CELL_TASKS_MAX - 1))
    )  # only counted, never read
    outcome = decide(world.cell, SubmitJob(a_spec(task_count=2)), world.now_ms)
    assert outcome.code is Code.RESOURCE_EXHAUSTED
    assert "at most 1000000" in outcome.detail


# --- anew


def test_an_ended_job_starts_anew_with_higher_incarnations(world):
    world.submit(a_spec(task_count=2))
    world.must(KillJob(WEB))
    outcome = world.must(SubmitJob(a_spec(task_count=3)))
    assert (outcome.version, outcome.created, outcome.tasks_added) == (2, True, 3)
    tasks = world.cell.tasks_of(WEB)
    assert [task.current.number for task in tasks] == [2, 2, 1]
    assert {task.state for task in tasks} == {TaskState.PENDING}
    assert tasks[0].finished[0].end_reason is EndReason.KILLED
    assert not world.cell.jobs[WEB].ended


def test_tasks_still_leaving_follow_the_job_that_started_anew_once_they_ended(world):
    world.submit(a_spec(task_count=2))
    world.start("ann/web/0")
    world.start("ann/web/1")
    world.must(KillJob(WEB))
    world.submit(a_spec(task_count=1))
    assert world.task("ann/web/0").stopping.resubmit
    task = world.end("ann/web/0", 143)
    assert (task.state, task.current.number, task.current.version) == (TaskState.PENDING, 2, 2)
    assert world.end("ann/web/1", 143) is None  # the new life has one task only


def test_dead_tasks_beyond_the_count_of_the_new_life_are_forgotten(world):
    world.submit(a_spec(task_count=3))
    world.must(KillJob(WEB))
    world.submit(a_spec(task_count=1))
    assert [task.key.index for task in world.cell.tasks_of(WEB)] == [0]


def test_a_batch_job_submitted_again_after_its_end_runs_again_without_old_failures(world):
    world.submit(a_batch_spec(max_failures=0))
    world.start("bob/count/0")
    world.end("bob/count/0", 1)
    world.submit(a_batch_spec(max_failures=0))
    task = world.task("bob/count/0")
    assert (task.state, task.failures, task.not_before_ms) == (TaskState.PENDING, 0, 0)


# --- kill


def test_killing_what_does_not_exist_is_refused(world):
    assert world.run(KillJob(WEB)) == Rejected(Code.NOT_FOUND, "there is no job ann/web")
    world.submit(a_spec(task_count=2))
    outcome = world.run(KillJob(WEB, (1, 2)))
    assert outcome == Rejected(Code.NOT_FOUND, "there is no task ann/web/2")
    assert world.task("ann/web/1").state is TaskState.PENDING


def test_a_killed_job_has_ended_and_its_placed_tasks_stop_for_good(world):
    world.submit(a_spec(task_count=3))
    world.start("ann/web/0")
    world.place("ann/web/1")
    outcome = world.must(KillJob(WEB))
    assert (outcome.changed, outcome.tasks_affected) == (True, 3)
    assert [task.state for task in world.cell.tasks_of(WEB)] == [
        TaskState.STOPPING,
        TaskState.STOPPING,
        TaskState.DEAD,
    ]
    assert world.cell.jobs[WEB].ended_at_ms == world.now_ms
    task = world.end("ann/web/0", 143)
    assert (task.state, task.current.end_reason) == (TaskState.DEAD, EndReason.KILLED)
    assert task.current.exit_code == 143
    assert world.kinds() == ["KILL"]


def test_killing_a_dead_job_again_changes_nothing(world):
    world.submit(a_spec())
    world.start("ann/web/0")
    world.must(KillJob(WEB))
    assert world.must(KillJob(WEB)) == Accepted(index=6, changed=False)
    assert not world.last.events


def test_a_killed_task_of_a_service_is_not_submitted_again(world):
    world.submit(a_spec(task_count=2))
    world.start("ann/web/0")
    outcome = world.must(KillJob(WEB, (0, 0)))
    assert outcome.tasks_affected == 1
    assert world.end("ann/web/0", 0).state is TaskState.DEAD
    assert not world.cell.jobs[WEB].ended
    assert not world.must(KillJob(WEB, (0,))).changed


def test_a_batch_job_whose_tasks_were_all_killed_has_ended(world):
    world.submit(a_batch_spec(task_count=2))
    world.must(KillJob(JobKey("bob", "count"), (0,)))
    world.must(KillJob(JobKey("bob", "count"), (1,)))
    assert world.cell.jobs[JobKey("bob", "count")].ended
    assert world.last.recorded[-1].note.detail == "2 killed"


def test_a_kill_overrides_an_eviction_that_would_have_brought_the_task_back(world):
    world.submit(a_spec())
    task = world.start("ann/web/0")
    world.must(EvictTasks(((task.key, 1),), EvictionCause.MAINTENANCE))
    assert world.must(KillJob(WEB)).tasks_affected == 1
    assert world.kinds("ann/web/0") == ["STOP"]
    task = world.end("ann/web/0", 143)
    assert (task.state, task.current.end_reason) == (TaskState.DEAD, EndReason.KILLED)


# --- forget


def test_only_jobs_that_ended_with_all_their_tasks_are_forgotten(world):
    world.submit(a_spec("ann/alive"))
    world.submit(a_spec("ann/leaving"))
    world.start("ann/leaving/0")
    world.must(KillJob(JobKey("ann", "leaving")))
    world.submit(a_spec("ann/over"))
    world.must(KillJob(JobKey("ann", "over")))
    keys = tuple(JobKey("ann", name) for name in ("alive", "leaving", "over", "over", "unknown"))
    assert world.must(ForgetJobs(keys)).changed
    assert sorted(world.cell.jobs) == [keys[0], keys[1]]
    assert not world.must(ForgetJobs(keys)).changed


def test_a_forgotten_job_that_is_submitted_again_never_reuses_an_incarnation(world):
    world.submit(a_spec(task_count=2))
    world.must(KillJob(WEB))
    world.submit(a_spec(task_count=2))
    world.must(KillJob(WEB))
    world.must(ForgetJobs((WEB,)))
    assert world.submit(a_spec()).version == 1
    assert world.task("ann/web/0").current.number == 3


def test_answers_are_forgotten_by_their_age(world):
    world.run(SetDraining("m1", True), request_id="old")
    world.wait(10)
    world.run(SetDraining("m1", False), request_id="new")
    assert world.must(ForgetJobs(requests_before_ms=world.now_ms)).changed
    assert list(world.cell.requests) == ["new"]
    assert not world.must(ForgetJobs(requests_before_ms=world.now_ms)).changed
