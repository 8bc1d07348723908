"""Placements: accepted only while they still fit, with ports, victims and spreading."""

import pytest
from borgcell.resources import GIB, ZERO, Resources
from borgcell.specs import Constraint, Op, TaskSpec
from borgcell.types import EndReason, EvictionCause, JobKey, RuntimeKind, TaskKey, TaskState

from borgmaster.state.commands import (
    EvictTasks,
    KillJob,
    MarkMachine,
    Placed,
    PlaceTasks,
    SetDraining,
    SetMachineFacts,
)
from tests.helpers.builders import (
    ATTRIBUTES,
    World,
    a_batch_spec,
    a_limit,
    a_spec,
    a_task_spec,
)

SMALL = Resources(cpu_milli=2_000, ram_bytes=4 * GIB, disk_bytes=0)


@pytest.fixture
def world():
    """A machine with room for two tasks of 1 CPU, and 4 ports."""
    world = World()
    world.add_machine("m1", capacity=SMALL, port_last=20_003)
    return world


def placed(world, key, machine="m1", *victims):
    task = world.task(key)
    return Placed(
        task.key,
        task.current.number,
        machine,
        tuple((TaskKey.parse(victim), world.task(victim).current.number) for victim in victims),
    )


def test_a_task_that_fits_is_assigned(world):
    world.submit(a_spec())
    outcome = world.must(PlaceTasks((placed(world, "ann/web/0"),)))
    task = world.task("ann/web/0")
    assert outcome.tasks_affected == 1
    assert (task.state, task.machine) == (TaskState.ASSIGNED, "m1")
    assert task.current.scheduled_at_ms == world.now_ms
    assert world.cell.held_on("m1") == a_limit()
    assert world.kinds() == ["SCHEDULE"]


def test_a_stale_placement_is_left_for_the_next_pass(world):
    world.submit(a_spec())
    stale = Placed(TaskKey("ann", "web", 0), 7, "m1")
    unknown = Placed(TaskKey("ann", "no", 0), 1, "m1")
    nowhere = Placed(TaskKey("ann", "web", 0), 1, "m9")
    outcome = world.must(PlaceTasks((stale, unknown, nowhere)))
    assert (outcome.changed, outcome.tasks_affected) == (False, 0)
    assert world.task("ann/web/0").state is TaskState.PENDING


def test_the_same_task_twice_is_placed_once(world):
    world.add_machine("m2")
    world.submit(a_spec())
    outcome = world.must(PlaceTasks((placed(world, "ann/web/0"), placed(world, "ann/web/0", "m2"))))
    assert outcome.tasks_affected == 1
    assert world.task("ann/web/0").machine == "m1"
    assert world.cell.held_on("m2") == ZERO


def test_placements_of_one_command_see_the_room_that_the_others_took(world):
    world.submit(a_spec(task_count=3))
    all_three = tuple(placed(world, f"ann/web/{index}") for index in range(3))
    assert world.must(PlaceTasks(all_three)).tasks_affected == 2
    assert world.task("ann/web/2").state is TaskState.PENDING


def test_a_task_in_back_off_is_not_placed_before_its_time(world):
    world.submit(a_spec())
    world.start("ann/web/0")
    world.end("ann/web/0", 1)
    world.wait(9_999)
    assert world.place("ann/web/0").state is TaskState.PENDING
    world.wait(1)
    assert world.place("ann/web/0").state is TaskState.ASSIGNED


@pytest.mark.parametrize(
    "trouble",
    [
        MarkMachine("m1", up=False),
        SetDraining("m1", draining=True),
        SetMachineFacts("m1", SMALL, ATTRIBUTES, detail="disk full"),
    ],
)
def test_a_machine_that_takes_no_tasks_gets_none(world, trouble):
    world.submit(a_spec())
    world.must(trouble)
    assert world.place("ann/web/0").state is TaskState.PENDING


def test_hard_constraints_must_hold_and_soft_ones_need_not(world):
    world.submit(a_spec("ann/hard", constraints=(Constraint("arch", Op.EQUAL, "arm64"),)))
    world.submit(
        a_spec("ann/soft", constraints=(Constraint("arch", Op.EQUAL, "arm64", soft=True),))
    )
    assert world.place("ann/hard/0").state is TaskState.PENDING
    assert world.place("ann/soft/0").state is TaskState.ASSIGNED


def test_a_task_needs_a_machine_that_has_its_runtime():
    world = World()
    world.add_machine("plain", attributes={"runtime.docker": "1"})
    world.must(SetMachineFacts("plain", SMALL, {"runtime.native": "1"}))
    world.submit(a_spec(task=TaskSpec(image="nginx", limit=a_limit(), runtime=RuntimeKind.AUTO)))
    assert world.place("ann/web/0", "plain").state is TaskState.PENDING


def test_a_dimension_that_is_not_asked_for_rules_no_machine_out(world):
    world.submit(a_spec("ann/disk", task=a_task_spec(limit=a_limit(disk_bytes=1))))
    world.submit(a_spec("ann/none"))
    assert world.place("ann/disk/0").state is TaskState.PENDING
    assert world.place("ann/none/0").state is TaskState.ASSIGNED


# --- spreading


def test_no_more_tasks_of_a_job_share_a_machine_than_it_allows(world):
    world.add_machine("m2")
    world.submit(a_spec(task_count=2, max_per_machine=1))
    world.submit(a_spec("ann/other"))
    world.place("ann/other/0", "m2")
    both = (placed(world, "ann/web/0", "m2"), placed(world, "ann/web/1", "m2"))
    assert world.must(PlaceTasks(both)).tasks_affected == 1
    assert world.place("ann/web/1", "m1").state is TaskState.ASSIGNED


def test_no_more_tasks_of_a_job_share_a_rack_than_it_allows():
    world = World()
    for name, rack in (("m1", "r1"), ("m2", "r1"), ("m3", "r2")):
        world.add_machine(name, attributes={"rack": rack})
    world.submit(a_spec(task_count=3, max_per_rack=1))
    assert world.place("ann/web/0", "m1").state is TaskState.ASSIGNED
    assert world.place("ann/web/1", "m2").state is TaskState.PENDING
    assert world.place("ann/web/1", "m3").state is TaskState.ASSIGNED


def test_machines_that_do_not_name_their_rack_are_racks_of_their_own():
    world = World()
    world.add_machine("m1")
    world.add_machine("m2")
    world.submit(a_spec(task_count=3, max_per_rack=1))
    assert world.place("ann/web/0", "m1").state is TaskState.ASSIGNED
    assert world.place("ann/web/1", "m1").state is TaskState.PENDING
    assert world.place("ann/web/1", "m2").state is TaskState.ASSIGNED


# --- preemption


def busy(world):
    """Two batch tasks fill the machine, and a prod task waits."""
    world.submit(a_batch_spec(task_count=2))
    world.start("bob/count/0")
    world.start("bob/count/1")
    world.submit(a_spec())


def test_both_sides_of_a_preemption_name_each_other(world):
    busy(world)
    task = world.place("ann/web/0", victims=["bob/count/1"])
    schedule, stop = (
        next(line.note for line in world.last.recorded if line.note.kind == kind)
        for kind in ("SCHEDULE", "STOP")
    )
    assert task.state is TaskState.ASSIGNED
    assert (schedule.counterpart, schedule.detail) == ("bob/count/1", "preempts bob/count/1")
    assert (stop.counterpart, stop.cause) == ("ann/web/0", EvictionCause.PREEMPTION)
    victim = world.task("bob/count/1")
    assert victim.state is TaskState.STOPPING
    assert victim.stopping.by == task.key

    world.end("bob/count/1", 143)
    evict, submit = (line.note for line in world.last.recorded)
    assert (evict.kind, submit.kind) == ("EVICT", "SUBMIT")
    assert (evict.counterpart, evict.cause) == ("ann/web/0", EvictionCause.PREEMPTION)
    assert world.task("bob/count/1").failures == 0


def test_the_room_of_a_victim_belongs_to_its_preemptor_at_once(world):
    busy(world)
    world.place("ann/web/0", victims=["bob/count/1"])
    assert world.task("bob/count/1").held == ZERO
    assert world.cell.held_on("m1") == a_limit(2_000, 2 * a_limit().ram_bytes)


def test_a_preemption_that_frees_too_little_evicts_nobody(world):
    busy(world)
    world.submit(a_spec("ann/big", task=a_task_spec(limit=a_limit(2_000))))
    world.place("ann/big/0", victims=["bob/count/1"])
    assert world.task("bob/count/1").state is TaskState.RUNNING


def test_a_victim_named_twice_frees_its_room_once(world):
    busy(world)
    world.submit(a_spec("ann/big", task=a_task_spec(limit=a_limit(2_000))))
    task = world.place("ann/big/0", victims=["bob/count/1", "bob/count/1"])
    assert task.state is TaskState.PENDING


def test_a_victim_cannot_be_evicted_for_two_tasks(world):
    busy(world)
    world.submit(a_spec("ann/more"))
    both = (
        placed(world, "ann/web/0", "m1", "bob/count/1"),
        placed(world, "ann/more/0", "m1", "bob/count/1"),
    )
    assert world.must(PlaceTasks(both)).tasks_affected == 1
    assert world.task("ann/more/0").state is TaskState.PENDING


def test_room_that_was_given_away_cannot_be_given_away_again_even_where_there_is_enough(world):
    world.add_machine("big")
    world.submit(a_batch_spec())
    world.start("bob/count/0", "big")
    world.submit(a_spec(task_count=2))
    world.place("ann/web/0", "big", victims=["bob/count/0"])
    assert world.place("ann/web/1", "big", victims=["bob/count/0"]).state is TaskState.PENDING
    assert world.task("bob/count/0").stopping.by == TaskKey("ann", "web", 0)


def test_prod_never_preempts_prod(world):
    world.submit(a_spec("ann/first", task_count=2, priority=120))
    world.start("ann/first/0")
    world.start("ann/first/1")
    world.submit(a_spec(priority=359))
    assert world.place("ann/web/0", victims=["ann/first/0"]).state is TaskState.PENDING
    world.submit(a_spec("mon/itor", priority=360))
    assert world.place("mon/itor/0", victims=["ann/first/0"]).state is TaskState.ASSIGNED


def test_a_victim_must_be_where_room_is_wanted_and_be_current(world):
    busy(world)
    world.add_machine("m2", capacity=Resources(cpu_milli=500))
    assert world.place("ann/web/0", "m2", victims=["bob/count/0"]).state is TaskState.PENDING
    stale = Placed(TaskKey("ann", "web", 0), 1, "m1", ((TaskKey("bob", "count", 0), 9),))
    assert not world.must(PlaceTasks((stale,))).changed
    assert world.task("bob/count/0").state is TaskState.RUNNING


def test_a_task_that_leaves_anyway_can_give_its_room_to_someone(world):
    busy(world)
    world.must(EvictTasks(((TaskKey("bob", "count", 0), 1),), EvictionCause.MAINTENANCE, "drain"))
    assert world.place("ann/web/0", victims=["bob/count/0"]).state is TaskState.ASSIGNED
    stopping = world.task("bob/count/0").stopping
    assert (stopping.cause, stopping.by) == (EvictionCause.MAINTENANCE, TaskKey("ann", "web", 0))
    assert stopping.detail == "drain; its room goes to ann/web/0"


def test_a_killed_victim_does_not_take_its_room_back(world):
    busy(world)
    world.place("ann/web/0", victims=["bob/count/1"])
    world.must(KillJob(JobKey("bob", "count")))
    victim = world.task("bob/count/1")
    assert (victim.stopping.reason, victim.held) == (EndReason.KILLED, ZERO)
    assert world.end("bob/count/1", 143).state is TaskState.DEAD


# --- ports


def ports_of(world, key):
    return world.task(key).current.ports


def test_each_port_of_a_task_gets_a_number_of_its_own(world):
    world.submit(a_spec(task_count=2, task=a_task_spec(ports=("http", "admin"))))
    world.place("ann/web/0")
    world.place("ann/web/1")
    assert ports_of(world, "ann/web/0") == {"http": 20_000, "admin": 20_001}
    assert ports_of(world, "ann/web/1") == {"http": 20_002, "admin": 20_003}
    assert world.cell.held_on("m1").ports == 4


def test_a_port_is_not_used_again_at_once(world):
    world.submit(a_spec(task=a_task_spec(ports=("http",))))
    seen = []
    for _ in range(5):
        world.start("ann/web/0")
        seen.append(ports_of(world, "ann/web/0")["http"])
        world.end("ann/web/0", 1)
        world.wait(300_000)
    assert seen == [20_000, 20_001, 20_002, 20_003, 20_000]


def test_a_leaving_task_keeps_its_port_until_it_has_ended(world):
    world.submit(a_spec("ann/old", task_count=1, task=a_task_spec(ports=("a", "b", "c"))))
    old = world.start("ann/old/0")
    world.must(EvictTasks(((old.key, 1),), EvictionCause.MAINTENANCE))
    world.submit(a_spec(task=a_task_spec(ports=("http",))))
    world.place("ann/web/0")
    assert ports_of(world, "ann/web/0") == {"http": 20_003}


def test_ports_of_victims_are_taken_only_when_no_others_are_left(world):
    world.submit(a_batch_spec(task_count=1, task=a_task_spec(ports=("a", "b", "c"))))
    world.start("bob/count/0")
    world.submit(a_spec(task=a_task_spec(ports=("http", "admin"), limit=a_limit(2_000))))
    world.place("ann/web/0", victims=["bob/count/0"])
    assert ports_of(world, "ann/web/0") == {"http": 20_003, "admin": 20_000}


def test_ports_that_another_preemptors_victim_still_uses_are_not_free(world):
    """By count there is room; by number there is none until the victim has ended."""
    world.submit(a_batch_spec(task_count=1, task=a_task_spec(ports=("a", "b"))))
    world.start("bob/count/0")
    world.submit(a_spec("ann/first", task=a_task_spec(ports=("x", "y"))))
    world.place("ann/first/0", victims=["bob/count/0"])
    assert ports_of(world, "ann/first/0") == {"x": 20_002, "y": 20_003}
    world.submit(a_spec("ann/next", task=a_task_spec(ports=("z",))))
    assert world.place("ann/next/0").state is TaskState.PENDING
    world.end("bob/count/0", 143)
    assert world.place("ann/next/0").state is TaskState.ASSIGNED


def test_a_machine_without_ports_takes_no_task_that_needs_one():
    world = World()
    world.add_machine("m1", port_first=0, port_last=-1)
    world.submit(a_spec(task=a_task_spec(ports=("http",))))
    assert world.place("ann/web/0").state is TaskState.PENDING


def test_the_search_for_ports_survives_a_change_of_the_range(world):
    world.submit(a_spec(task_count=2, task=a_task_spec(ports=("http",))))
    world.place("ann/web/0")
    world.must(SetMachineFacts("m1", SMALL, ATTRIBUTES, 30_000, 30_001))
    world.place("ann/web/1")
    assert ports_of(world, "ann/web/1") == {"http": 30_000}
