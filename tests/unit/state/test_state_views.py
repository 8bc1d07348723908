"""Questions about a cell: what a machine should run, and why a task is where it is."""

import pytest
from borgcell.types import EvictionCause, JobKey, TaskKey, TaskPhase, TaskState

from borgmaster.state.commands import EvictTasks, KillJob, MarkMachine
from borgmaster.state.views import desired_tasks, machine_used, state_counts, why_summary
from tests.helpers.builders import World, a_batch_spec, a_limit, a_spec, a_task_spec

WEB0 = TaskKey("ann", "web", 0)


@pytest.fixture
def world():
    world = World()
    world.add_machine("m1")
    world.submit(a_spec(task_count=12))
    return world


def why(world, key="ann/web/0"):
    return why_summary(world.cell, TaskKey.parse(key), world.now_ms)


def test_a_machine_should_run_what_is_placed_on_it_by_key_and_at_its_version(world):
    for index in (5, 3, 1):
        world.start(f"ann/web/{index}")
    world.must(EvictTasks(((TaskKey("ann", "web", 3), 1),), EvictionCause.MAINTENANCE))
    world.submit(a_spec(task_count=12, task=a_task_spec(("/bin/other",))))
    world.end("ann/web/1", 1)
    world.wait(10_000)
    world.place("ann/web/1")
    desired = desired_tasks(world.cell, "m1")
    assert [(task.key.index, spec.argv[0]) for task, spec in desired] == [
        (1, "/bin/other"),
        (3, "/bin/server"),
        (5, "/bin/server"),
    ]
    assert [task.stopping is not None for task, _ in desired] == [False, True, False]


def test_a_machine_that_nobody_knows_should_run_nothing(world):
    assert desired_tasks(world.cell, "m9") == ()


def test_room_given_away_is_used_until_the_victim_has_ended(world):
    world.submit(a_batch_spec())
    world.start("bob/count/0")
    world.place("ann/web/0", victims=["bob/count/0"])
    assert world.cell.held_on("m1") == a_limit()
    assert machine_used(world.cell, "m1") == a_limit() + a_limit()


def test_every_state_has_a_count(world):
    world.start("ann/web/0")
    counts = state_counts(world.cell)
    assert list(counts) == list(TaskState)
    assert (counts[TaskState.PENDING], counts[TaskState.RUNNING], counts[TaskState.DEAD]) == (
        11,
        1,
        0,
    )


def test_why_follows_a_task_through_its_life(world):
    assert why(world) == "waits for a machine"
    world.place("ann/web/0")
    assert why(world) == "assigned to m1, which has not started it yet"
    world.report("ann/web/0", TaskPhase.STARTING)
    assert why(world) == "starting on m1"
    world.report("ann/web/0", TaskPhase.RUNNING)
    assert why(world) == "runs on m1"
    world.report("ann/web/0", TaskPhase.RUNNING, healthy=False)
    assert why(world) == "runs on m1, but is unhealthy"
    world.must(MarkMachine("m1", up=False))
    assert why(world) == "m1 does not answer; the task may still run there"
    world.end("ann/web/0", 3)
    assert why(world) == "waits 10 s before it is tried again: exited with status 3"
    world.wait(10_000)
    world.must(MarkMachine("m1", up=True))
    world.start("ann/web/0")
    world.must(KillJob(JobKey("ann", "web")))
    assert why(world) == "stopping on m1: killed"
    world.end("ann/web/0", 143)
    assert why(world) == "killed"
    assert why(world, "no/such/0") == ""
