"""Updating jobs: what moves at once, what must restart, what comes and goes with the count."""

import pytest
from borgcell.specs import Constraint
from borgcell.types import EndReason, JobKey, TaskKey, TaskState
from msgspec.structs import replace

from borgmaster.state.commands import (
    KillJob,
    SubmitJob,
    UpdateTasks,
)
from tests.helpers.builders import World, a_batch_spec, a_limit, a_spec, a_task_spec

WEB = JobKey("ann", "web")


@pytest.fixture
def world():
    world = World()
    world.add_machine("m1")
    return world


def test_a_larger_count_adds_tasks_and_touches_no_other(world):
    world.submit(a_spec(task_count=1))
    before = world.start("ann/web/0")
    outcome = world.must(SubmitJob(a_spec(task_count=3)))
    assert (outcome.tasks_added, outcome.tasks_restarted, outcome.created) == (2, 0, False)
    after = world.task("ann/web/0")
    assert after.current == replace(before.current, version=2)
    assert world.task("ann/web/2").state is TaskState.PENDING


def test_a_smaller_count_forgets_waiting_tasks_and_stops_placed_ones(world):
    world.submit(a_spec(task_count=3))
    world.start("ann/web/1")
    outcome = world.must(SubmitJob(a_spec(task_count=1)))
    assert outcome.tasks_removed == 2
    assert world.kinds("ann/web/2") == ["KILL"]
    assert TaskKey("ann", "web", 2) not in world.cell.tasks
    leaving = world.task("ann/web/1")
    assert leaving.state is TaskState.STOPPING
    assert leaving.stopping.detail == "scaled down"
    assert world.end("ann/web/1", 143) is None  # forgotten with its end
    assert world.kinds() == ["KILL"]


def test_a_task_that_was_leaving_comes_back_when_the_count_grows_again(world):
    world.submit(a_spec(task_count=2))
    world.start("ann/web/1")
    world.submit(a_spec(task_count=1))
    outcome = world.must(SubmitJob(a_spec(task_count=2, priority=201)))
    assert outcome.tasks_added == 1
    task = world.end("ann/web/1", 143)
    assert (task.state, task.current.number, task.current.version) == (TaskState.PENDING, 2, 3)
    assert world.kinds("ann/web/1") == ["KILL", "SUBMIT"]


def test_an_index_that_was_forgotten_never_reuses_an_incarnation(world):
    world.submit(a_spec(task_count=2))
    for _ in range(3):
        world.start("ann/web/1")
        world.end("ann/web/1", 1)
        world.wait(300_000)
    assert world.task("ann/web/1").current.number == 4
    world.submit(a_spec(task_count=1))
    world.submit(a_spec(task_count=2))
    assert world.task("ann/web/1").current.number == 5


def test_waiting_tasks_move_to_the_new_version_at_once(world):
    world.submit(a_spec())
    world.must(SubmitJob(a_spec(priority=300, task=a_task_spec(limit=a_limit(cpu_milli=2_000)))))
    task = world.task("ann/web/0")
    assert (task.current.version, task.current.number) == (2, 1)
    assert (task.priority, task.limit.cpu_milli) == (300, 2_000)
    assert world.kinds() == ["UPDATE_PENDING", "UPDATE_PENDING"]  # the job, the task
    assert not world.cell.jobs[WEB].older


def test_a_crash_looping_task_is_tried_at_once_with_a_repaired_spec(world):
    world.submit(a_spec())
    world.start("ann/web/0")
    world.end("ann/web/0", 1)
    world.submit(a_spec(task=a_task_spec(("/bin/repaired",))))
    task = world.task("ann/web/0")
    assert (task.not_before_ms, task.backoff_ms, task.failures) == (0, 0, 0)


def test_a_new_priority_does_not_end_a_back_off(world):
    world.submit(a_spec())
    world.start("ann/web/0")
    world.end("ann/web/0", 1)
    world.submit(a_spec(priority=201))
    assert world.task("ann/web/0").not_before_ms == world.now_ms + 10_000


@pytest.mark.parametrize(
    "fields", [{"priority": 300}, {"labels": {"a": "b"}}, {"max_failures": 9}, {"task_count": 2}]
)
def test_running_tasks_live_through_changes_that_do_not_touch_them(world, fields):
    world.submit(a_spec())
    world.start("ann/web/0")
    outcome = world.must(SubmitJob(a_spec(**fields)))
    task = world.task("ann/web/0")
    assert outcome.tasks_restarted == 0
    assert (task.state, task.healthy) == (TaskState.RUNNING, True)
    assert (task.current.version, task.current.number) == (2, 1)
    assert task.priority == fields.get("priority", 200)
    assert world.kinds("ann/web/0") == ["UPDATE_RUNNING"]
    assert not world.cell.jobs[WEB].older


@pytest.mark.parametrize(
    "fields",
    [
        {"task": a_task_spec(("/bin/other",))},
        {"task": a_task_spec(limit=a_limit(cpu_milli=1_001))},
        {"constraints": (Constraint("arch", value="amd64"),)},
    ],
)
def test_running_tasks_keep_running_their_version_until_they_are_restarted(world, fields):
    world.submit(a_spec())
    world.start("ann/web/0")
    outcome = world.must(SubmitJob(a_spec(**fields)))
    task, job = world.task("ann/web/0"), world.cell.jobs[WEB]
    assert outcome.tasks_restarted == 1
    assert (task.state, task.current.version) == (TaskState.RUNNING, 1)
    assert job.spec_at(1) == a_spec()

    world.must(UpdateTasks(((task.key, 1),)))
    task = world.task("ann/web/0")
    assert task.stopping.reason is EndReason.KILLED
    assert task.stopping.detail == "update to version 2"
    task = world.end("ann/web/0", 143)
    assert (task.state, task.current.number, task.current.version) == (TaskState.PENDING, 2, 2)
    assert world.kinds("ann/web/0") == ["KILL", "SUBMIT"]
    assert (task.not_before_ms, task.failures) == (0, 0)
    assert not world.cell.jobs[WEB].older


def test_going_back_to_what_a_task_still_runs_restarts_nothing(world):
    world.submit(a_spec())
    world.start("ann/web/0")
    world.submit(a_spec(task=a_task_spec(("/bin/other",))))
    outcome = world.must(SubmitJob(a_spec()))
    assert (outcome.version, outcome.tasks_restarted) == (3, 0)
    assert world.task("ann/web/0").current.version == 3
    assert not world.cell.jobs[WEB].older


def test_a_task_of_an_older_version_that_fails_comes_back_at_the_new_one(world):
    world.submit(a_spec())
    world.start("ann/web/0")
    world.submit(a_spec(task=a_task_spec(("/bin/other",))))
    task = world.end("ann/web/0", 1)
    assert task.current.version == 2
    assert (task.not_before_ms, task.failures) == (0, 0)


def test_a_batch_job_whose_last_live_task_is_scaled_away_has_ended(world):
    world.submit(a_batch_spec(task_count=2))
    world.start("bob/count/0")
    world.end("bob/count/0", 0)
    assert not world.cell.jobs[JobKey("bob", "count")].ended
    world.submit(a_batch_spec(task_count=1))
    assert world.cell.jobs[JobKey("bob", "count")].ended


def test_a_killed_task_stays_dead_through_an_update(world):
    world.submit(a_spec(task_count=2))
    world.must(KillJob(WEB, (1,)))
    world.submit(a_spec(task_count=2, task=a_task_spec(("/bin/other",))))
    assert world.task("ann/web/1").state is TaskState.DEAD
    assert world.cell.jobs[WEB].task_spec(1, 1) == a_task_spec()  # what it ran can still be shown
