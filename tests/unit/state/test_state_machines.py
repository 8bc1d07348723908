"""Machines: known, up, draining, and what they offer."""

import pytest
from borgcell.resources import GIB, Resources
from borgcell.types import TaskState
from msgspec.structs import replace

from borgmaster.state import machines
from borgmaster.state.commands import (
    AddMachine,
    MarkMachine,
    RemoveMachine,
    SetDraining,
    SetMachineFacts,
)
from borgmaster.state.core import decide
from borgmaster.state.outcome import Accepted, Code, Rejected
from tests.helpers.builders import ATTRIBUTES, MACHINE_CAPACITY, World, a_spec, a_task_spec


@pytest.fixture
def world():
    world = World()
    world.add_machine("m1")
    return world


def facts(**fields):
    given = {"capacity": MACHINE_CAPACITY, "attributes": ATTRIBUTES}
    return SetMachineFacts("m1", **{**given, **fields})


def test_a_new_machine_is_known_and_down_until_it_answers():
    world = World()
    assert world.run(AddMachine("m1", "host:9100")).created
    machine = world.cell.machines["m1"]
    assert (machine.address, machine.up, machine.takes_tasks) == ("host:9100", False, False)
    assert machine.added_at_ms == world.now_ms
    assert world.kinds() == ["ADD"]


def test_adding_a_known_machine_changes_its_address(world):
    outcome = world.must(AddMachine("m1", "elsewhere:9100"))
    assert (outcome.changed, outcome.created) == (True, False)
    assert world.cell.machines["m1"].address == "elsewhere:9100"
    assert world.cell.machines["m1"].up
    assert not world.must(AddMachine("m1", "elsewhere:9100")).changed


@pytest.mark.parametrize(
    ("name", "address", "field"),
    [("", "h:1", "name"), ("a b", "h:1", "name"), ("m", "", "address"), ("m", "h\n:1", "address")],
)
def test_bad_names_and_addresses_are_refused(world, name, address, field):
    outcome = world.run(AddMachine(name, address))
    assert outcome.code is Code.INVALID_ARGUMENT
    assert [problem.field for problem in outcome.problems] == [field]


def test_a_cell_with_too_many_machines_says_so(world):
    world.cell.machines.update(dict.fromkeys(map(str, range(machines.MACHINES_MAX))))
    outcome = decide(world.cell, AddMachine("new", "h:1"), world.now_ms)
    assert outcome == Rejected(Code.RESOURCE_EXHAUSTED, "the cell has 50000 machines already")


@pytest.mark.parametrize(
    "command",
    [
        RemoveMachine("m9"),
        SetDraining("m9", draining=True),
        MarkMachine("m9", up=True),
        SetMachineFacts("m9", MACHINE_CAPACITY),
    ],
)
def test_an_unknown_machine_is_not_found(world, command):
    assert world.run(command) == Rejected(Code.NOT_FOUND, "there is no machine m9")


def test_a_machine_with_tasks_is_removed_only_by_force(world):
    world.submit(a_spec())
    world.place("ann/web/0")
    outcome = world.run(RemoveMachine("m1"))
    assert outcome.code is Code.FAILED_PRECONDITION
    assert "m1 has 1 tasks" in outcome.detail
    world.must(RemoveMachine("m1", force=True))
    assert world.task("ann/web/0").state is TaskState.PENDING


def test_an_empty_machine_is_removed_without_force(world):
    assert world.must(RemoveMachine("m1")).tasks_affected == 0
    assert world.kinds() == ["REMOVE"]


def test_draining_begins_and_ends(world):
    world.submit(a_spec())
    world.place("ann/web/0")
    world.wait(5)
    assert world.must(SetDraining("m1", draining=True)).tasks_affected == 1
    machine = world.cell.machines["m1"]
    assert (machine.draining, machine.since_ms, machine.takes_tasks) == (True, world.now_ms, False)
    assert world.task("ann/web/0").state is TaskState.ASSIGNED  # the controller moves it
    assert not world.must(SetDraining("m1", draining=True)).changed
    world.must(SetDraining("m1", draining=False))
    assert world.cell.machines["m1"].takes_tasks


def test_a_machine_goes_down_with_a_reason_and_comes_up_without(world):
    world.wait(5)
    world.must(MarkMachine("m1", up=False, detail="connection refused"))
    machine = world.cell.machines["m1"]
    assert (machine.up, machine.detail, machine.since_ms) == (
        False,
        "connection refused",
        world.now_ms,
    )
    assert not world.must(MarkMachine("m1", up=False, detail="other")).changed
    world.must(MarkMachine("m1", up=True))
    assert world.cell.machines["m1"].takes_tasks
    assert not world.must(MarkMachine("m1", up=True)).changed


def test_a_machine_that_is_not_ready_takes_no_tasks(world):
    world.must(facts(detail="disk full"))
    assert not world.cell.machines["m1"].takes_tasks
    assert "not ready: disk full" in world.last.recorded[0].note.detail
    world.must(facts())
    assert world.cell.machines["m1"].takes_tasks
    assert world.last.recorded[0].note.detail == "ready"


def test_facts_show_that_a_machine_is_up_whether_it_is_marked_before_or_after(world):
    world.must(MarkMachine("m1", up=False))
    world.must(facts(detail="disk full"), MarkMachine("m1", up=True))
    machine = world.cell.machines["m1"]
    assert (machine.up, machine.detail) == (True, "disk full")


def test_facts_that_are_known_change_nothing(world):
    world.must(facts(port_first=30_000, port_last=30_009))
    again = world.must(facts(port_first=30_000, port_last=30_009))
    assert again == Accepted(index=3, changed=False)


def test_the_ports_offered_are_the_range_whatever_the_capacity_says(world):
    wrong = replace(MACHINE_CAPACITY, ports=7)
    world.must(facts(capacity=wrong, port_first=30_000, port_last=30_009))
    assert world.cell.machines["m1"].capacity.ports == 10
    world.must(facts(capacity=wrong))
    assert world.cell.machines["m1"].capacity.ports == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"capacity": Resources(cpu_milli=-1)}, "capacity.cpu_milli"),
        ({"capacity": Resources(ram_bytes=1 << 61)}, "capacity.ram_bytes"),
        ({"port_first": 0, "port_last": 9}, "port_first"),
        ({"port_first": 65_000, "port_last": 70_000}, "port_first"),
        ({"attributes": {"": "x"}}, "attributes['']"),
        ({"attributes": {"a": "x" * 257}}, "attributes['a']"),
        ({"attributes": {str(n): "" for n in range(257)}}, "attributes"),
        ({"detail": "x" * 1_025}, "detail"),
    ],
)
def test_absurd_facts_are_refused(world, fields, field):
    outcome = world.run(facts(**fields))
    assert outcome.code is Code.INVALID_ARGUMENT
    assert [problem.field for problem in outcome.problems] == [field]


def test_a_capacity_that_shrinks_below_what_is_held_is_noted_until_it_fits_again(world):
    world.submit(a_spec(task_count=2, task=a_task_spec(ports=("http",))))
    world.start("ann/web/0")
    world.start("ann/web/1")
    small = Resources(cpu_milli=1_500, ram_bytes=16 * GIB, disk_bytes=0)
    world.must(facts(capacity=small, port_first=20_000, port_last=20_099))
    assert world.cell.shrunk == {"m1"}
    world.end("ann/web/0", 1)
    assert not world.cell.shrunk
