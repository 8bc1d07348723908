"""Builders of scheduler rows, and hypothesis strategies of small, crowded worlds."""

from borgcell.resources import GIB, Resources, fits
from borgcell.specs import Constraint, Op
from borgcell.types import TaskKey
from hypothesis import strategies as st

from scheduler.cell import SchedulerCell
from scheduler.model import Delta, MachineRow, PendingRow, PlacedRow, Shape
from scheduler.reference import World

PRIORITIES = (0, 50, 100, 110, 120, 200, 360, 400)


def room(cpu: float = 0, ram_gib: float = 0, disk_gib: float = 0, ports: int = 0) -> Resources:
    return Resources(int(cpu * 1000), int(ram_gib * GIB), int(disk_gib * GIB), ports)


def a_machine(name: str = "m1", capacity: Resources | None = None, **fields) -> MachineRow:
    if "reason" in fields:
        fields["takes_tasks"] = False
    return MachineRow(name, capacity or room(8, 16, 100, 100), **fields)


def a_placed(
    name: str = "bob/batch/0",
    machine: str = "m1",
    held: Resources | None = None,
    priority: int = 100,
    **fields,
) -> PlacedRow:
    return PlacedRow(TaskKey.parse(name), 1, machine, held or room(1, 1), priority, **fields)


def a_pending(
    name: str = "ann/web/0", limit: Resources | None = None, priority: int = 200, **fields
) -> PendingRow:
    row = {one: fields.pop(one) for one in ("submitted_at_ms", "not_before_ms") if one in fields}
    return PendingRow(TaskKey.parse(name), 1, Shape(limit or room(1, 1), priority, **fields), **row)


def a_job(name: str, count: int, **fields) -> list[PendingRow]:
    return [a_pending(f"{name}/{index}", **fields) for index in range(count)]


def a_cell(machines=(), placed=(), pending=(), *, index: int = 1) -> SchedulerCell:
    cell = SchedulerCell()
    cell.apply(Delta(index, tuple(machines), tuple(placed), tuple(pending)))
    return cell


def a_world(machines=(), placed=()) -> World:
    return World({row.name: row for row in machines}, {row.key: row for row in placed})


limits = st.builds(
    room,
    cpu=st.sampled_from((0.5, 1, 2, 3, 5)),
    ram_gib=st.sampled_from((0.25, 1, 2, 4)),
    disk_gib=st.sampled_from((0, 0, 1, 2)),
    ports=st.sampled_from((0, 0, 1, 2)),
)
attributes = st.fixed_dictionaries(
    {},
    optional={
        "arch": st.sampled_from(("x86_64", "arm64")),
        "rack": st.sampled_from(("r1", "r2", "")),
        "speed": st.sampled_from(("2.5", "10", "fast", "-1")),
        "ssd": st.just("1"),
    },
)
constraints = st.lists(
    st.builds(
        Constraint,
        attribute=st.sampled_from(("arch", "speed", "ssd", "rack")),
        op=st.sampled_from(tuple(Op)),
        value=st.sampled_from(("arm64", "x86_64", "3", "2.5", "r1", "")),
        soft=st.booleans(),
    ),
    max_size=2,
).map(tuple)


@st.composite
def machine_rows(draw, name: str) -> MachineRow:
    capacity = room(
        draw(st.integers(0, 8)),
        draw(st.integers(0, 8)),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 4)),
    )
    reason = draw(st.sampled_from(("",) * 8 + ("down", "draining", "not ready: no cgroups")))
    return MachineRow(name, capacity, draw(attributes), not reason, reason)


@st.composite
def shapes(draw) -> Shape:
    return Shape(
        limit=draw(limits),
        priority=draw(st.sampled_from(PRIORITIES)),
        constraints=draw(st.one_of(st.just(()), constraints)),
        max_per_machine=draw(st.sampled_from((0, 0, 0, 1, 2))),
        max_per_rack=draw(st.sampled_from((0, 0, 0, 1, 2))),
    )


@st.composite
def placed_rows(draw, key: TaskKey, machines: tuple[str, ...]) -> PlacedRow:
    leaving = draw(st.sampled_from(("", "", "", "", "stopping", "preempted")))
    held = room() if leaving == "preempted" else draw(limits)
    priority = draw(st.sampled_from(PRIORITIES[:-2]))
    return PlacedRow(key, 1, draw(st.sampled_from(machines)), held, priority, bool(leaving))


@st.composite
def worlds(draw):
    """Machines, placed rows and pending rows of a small crowded cell."""
    names = tuple(f"m{number}" for number in range(draw(st.integers(0, 6))))
    machines = [draw(machine_rows(name)) for name in names]
    users = ("ann", "bob", "eve")
    placed = []
    for number in range(draw(st.integers(0, 10)) if names else 0):
        key = TaskKey(draw(st.sampled_from(users)), draw(st.sampled_from(("a", "b"))), number)
        placed.append(draw(placed_rows(key, names)))
    pending = []
    for number in range(draw(st.integers(1, 6))):
        user, job, shape = (
            draw(st.sampled_from(users)),
            draw(st.sampled_from("abc")),
            draw(shapes()),
        )
        for index in range(draw(st.integers(1, 4))):
            key = TaskKey(user, job, 100 + 10 * number + index)
            waits = draw(st.sampled_from((0, 0, 0, 0, 5_000)))
            pending.append(PendingRow(key, 1, shape, draw(st.integers(0, 3)), waits))
    return machines, placed, pending


@st.composite
def crowded_worlds(draw):
    """One or two large machines, packed with small low tasks, and larger, higher ones that want in."""
    names = tuple(f"m{number}" for number in range(draw(st.integers(1, 2))))
    free = dict.fromkeys(names, room(8, 8, 8, 4))
    machines = [a_machine(name, capacity) for name, capacity in free.items()]
    placed = []
    for number in range(draw(st.integers(2, 14))):
        held = room(draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 3)))
        machine = draw(st.sampled_from(names))
        priority = draw(st.sampled_from((0, 10, 50, 100, 110)))
        stopping = draw(st.integers(0, 5)) == 0
        if fits(held, free[machine]):
            key = TaskKey("bob", "low", number)
            placed.append(PlacedRow(key, 1, machine, held, priority, stopping))
            free[machine] -= held
    pending = []
    for number in range(draw(st.integers(1, 3))):
        shape = Shape(
            limit=room(draw(st.integers(1, 6)), draw(st.integers(1, 6))),
            priority=draw(st.sampled_from((0, 100, 200, 210))),
            max_per_machine=draw(st.sampled_from((0, 0, 1, 2))),
        )
        pending.extend(
            PendingRow(TaskKey("ann", f"job{number}", index), 1, shape)
            for index in range(draw(st.integers(1, 4)))
        )
    return machines, placed, pending


any_worlds = st.one_of(worlds(), crowded_worlds())
