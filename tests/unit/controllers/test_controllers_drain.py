"""Draining: machines are emptied, few tasks of a service at a time."""

import pytest
from borgcell.types import EvictionCause, TaskKey, TaskState

from borgmaster.controllers.drain import EVICTIONS_MAX, reconcile_drains
from borgmaster.state.commands import EvictTasks, MarkMachine, SetDraining
from tests.helpers.builders import World, a_batch_spec, a_limit, a_spec, a_task_spec


@pytest.fixture
def world():
    world = World()
    world.add_machine("m1")
    world.add_machine("m2")
    return world


def run_on_m1(world, spec):
    world.submit(spec)
    for index in range(spec.task_count):
        world.start(f"{spec.key}/{index}")


def drain(world, name="m1"):
    world.must(SetDraining(name, draining=True))


def chosen(world):
    return [
        str(key)
        for command in reconcile_drains(world.cell, world.now_ms)
        for key, _ in command.tasks
    ]


def obey(world):
    keys = chosen(world)
    commands = reconcile_drains(world.cell, world.now_ms)
    if commands:
        world.must(*commands)
    return keys


def test_machines_that_do_not_drain_keep_their_tasks(world):
    run_on_m1(world, a_spec(task_count=2))
    assert reconcile_drains(world.cell, world.now_ms) == []


def test_a_service_loses_one_task_at_a_time_and_the_next_when_it_is_back(world):
    run_on_m1(world, a_spec(task_count=3))
    drain(world)
    (command,) = reconcile_drains(world.cell, world.now_ms)
    assert command == EvictTasks(
        ((TaskKey("ann", "web", 0), 1),), EvictionCause.MAINTENANCE, "m1 is draining"
    )
    world.must(command)
    assert chosen(world) == []  # it stops
    world.end("ann/web/0", 143)
    assert chosen(world) == []  # it waits
    world.place("ann/web/0", "m2")
    assert chosen(world) == []  # it starts
    world.report("ann/web/0", "running")
    assert chosen(world) == ["ann/web/1"]


def test_of_a_large_service_a_tenth_moves_at_a_time(world):
    tiny = a_task_spec(limit=a_limit(cpu_milli=100, ram_bytes=1 << 20))
    run_on_m1(world, a_spec(task_count=25, task=tiny))
    drain(world)
    assert obey(world) == ["ann/web/0", "ann/web/1"]
    assert chosen(world) == []


def test_batch_tasks_are_evicted_all_at_once(world):
    run_on_m1(world, a_batch_spec(task_count=4))
    drain(world)
    assert len(obey(world)) == 4
    assert chosen(world) == []


def test_a_job_that_is_down_for_other_reasons_does_not_block_the_drain(world):
    run_on_m1(world, a_spec(task_count=2))
    world.end("ann/web/1", 1)
    drain(world)
    assert chosen(world) == ["ann/web/0"]


def test_two_draining_machines_share_the_budget_of_a_job(world):
    world.submit(a_spec(task_count=2))
    world.start("ann/web/0", "m1")
    world.start("ann/web/1", "m2")
    drain(world, "m1")
    drain(world, "m2")
    assert obey(world) == ["ann/web/0"]


def test_tasks_that_nobody_can_reach_are_not_moved(world):
    run_on_m1(world, a_spec())
    drain(world)
    world.must(MarkMachine("m1", up=False))
    assert world.task("ann/web/0").state is TaskState.PARTITIONED
    assert chosen(world) == []


def test_a_drained_machine_asks_for_nothing_more(world):
    run_on_m1(world, a_spec(task_count=2))
    drain(world)
    for _ in range(2):
        (key,) = obey(world)
        world.end(key, 143)
        world.start(key, "m2")
    assert not world.cell.tasks_on("m1")
    assert chosen(world) == []


def test_the_number_of_evictions_per_call_is_bounded():
    world = World()
    world.add_machine("m1")
    tiny = a_task_spec(limit=a_limit(cpu_milli=10, ram_bytes=1 << 20))
    run_on_m1(world, a_batch_spec(task_count=EVICTIONS_MAX + 5, task=tiny))
    drain(world)
    assert len(obey(world)) == EVICTIONS_MAX
    assert len(obey(world)) == 5
