"""Rolling updates: never more of a job down than it allows, and a broken job can be repaired."""

import pytest
from borgcell.specs import UpdatePolicy
from borgcell.types import JobKey, TaskPhase

from borgmaster.controllers.update import reconcile_updates
from borgmaster.state.commands import KillJob
from tests.helpers.builders import World, a_batch_spec, a_spec, a_task_spec


@pytest.fixture
def world():
    world = World()
    world.add_machine("m1")
    return world


def web(program="/bin/old", *, count=4, in_flight=1, **fields):
    policy = UpdatePolicy(max_in_flight=in_flight)
    return a_spec(task_count=count, task=a_task_spec((program,)), update=policy, **fields)


def run(world, spec):
    world.submit(spec)
    for index in range(spec.task_count):
        world.start(f"{spec.key}/{index}")


def chosen(world):
    return [
        key.index
        for command in reconcile_updates(world.cell, world.now_ms)
        for key, _ in command.tasks
    ]


def obey(world):
    indexes = chosen(world)
    commands = reconcile_updates(world.cell, world.now_ms)
    if commands:
        world.must(*commands)
    return indexes


def come_back(world, index):
    world.end(f"ann/web/{index}", 143)
    world.start(f"ann/web/{index}")


def test_a_job_at_its_version_is_left_alone(world):
    run(world, web())
    assert reconcile_updates(world.cell, world.now_ms) == []


def test_an_update_walks_through_the_job_one_task_at_a_time(world):
    run(world, web())
    world.submit(web("/bin/new"))
    for index in range(4):
        assert obey(world) == [index]
        assert chosen(world) == []  # it stops
        world.end(f"ann/web/{index}", 143)
        assert chosen(world) == []  # it waits
        world.place(f"ann/web/{index}")
        world.report(f"ann/web/{index}", TaskPhase.STARTING)
        assert chosen(world) == []  # it starts
        world.report(f"ann/web/{index}", TaskPhase.RUNNING)
    assert chosen(world) == []
    assert {task.current.version for task in world.cell.tasks.values()} == {2}
    assert not world.cell.jobs[JobKey("ann", "web")].older


def test_as_many_are_in_flight_as_the_job_allows(world):
    run(world, web(in_flight=3))
    world.submit(web("/bin/new", in_flight=3))
    assert obey(world) == [0, 1, 2]
    come_back(world, 1)
    assert obey(world) == [3]
    assert chosen(world) == []


def test_an_update_that_makes_a_task_unhealthy_stops_there(world):
    run(world, web())
    world.submit(web("/bin/new"))
    obey(world)
    come_back(world, 0)
    world.report("ann/web/0", TaskPhase.RUNNING, healthy=False)
    assert chosen(world) == []
    world.report("ann/web/0", TaskPhase.RUNNING, healthy=True)
    assert chosen(world) == [1]


def test_an_update_that_crashes_stops_there(world):
    run(world, web())
    world.submit(web("/bin/new"))
    obey(world)
    come_back(world, 0)
    world.end("ann/web/0", 1)
    assert chosen(world) == []


def test_no_healthy_task_is_taken_down_while_another_is_down_for_any_reason(world):
    run(world, web())
    world.end("ann/web/3", 1)  # its next incarnation is at the old version until the submission
    world.submit(web("/bin/new"))
    assert chosen(world) == []


def test_tasks_that_never_became_healthy_are_replaced_first(world):
    world.submit(web())
    for index in range(4):
        world.place(f"ann/web/{index}")
        world.report(f"ann/web/{index}", TaskPhase.STARTING)
    world.report("ann/web/0", TaskPhase.RUNNING)
    world.submit(web("/bin/repaired"))
    assert obey(world) == [1]
    assert chosen(world) == []  # one at a time, although all are down
    come_back(world, 1)
    assert obey(world) == [2]


def test_sick_and_healthy_tasks_together_are_no_more_than_allowed(world):
    run(world, web(in_flight=2))
    world.report("ann/web/3", TaskPhase.RUNNING, healthy=False)
    world.submit(web("/bin/new", in_flight=2))
    assert obey(world) == [3, 0]
    assert chosen(world) == []


def test_dead_tasks_are_not_waited_for(world):
    run(world, web())
    world.must(KillJob(JobKey("ann", "web"), (0,)))
    world.end("ann/web/0", 143)
    world.submit(web("/bin/new"))
    assert chosen(world) == [1]


def test_an_ended_job_is_not_updated(world):
    run(world, web())
    world.submit(web("/bin/new"))
    world.must(KillJob(JobKey("ann", "web")))
    assert chosen(world) == []


def test_jobs_update_independently(world):
    run(world, web(count=1))
    run(world, a_batch_spec(task_count=1))
    world.submit(web("/bin/new", count=1))
    world.submit(a_batch_spec(task_count=1, task=a_task_spec(("/bin/new",))))
    commands = reconcile_updates(world.cell, world.now_ms)
    assert [str(command.tasks[0][0]) for command in commands] == ["ann/web/0", "bob/count/0"]
