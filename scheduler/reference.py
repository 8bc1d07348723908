"""Owns the slow, obvious form of the scheduler: what the fast one is tested and measured against.

No columns, no classes, no caches: one task against one machine at a time, by the functions that the state
machine uses too. It shares no code with the fast form but the values.
"""

from collections.abc import Iterable

from borgcell.priority import BAND_RANKS, band_of, is_prod, may_preempt
from borgcell.resources import ZERO, Resources, fits, lacking, total
from borgcell.types import JobKey, TaskKey
from msgspec.structs import replace

from scheduler.model import RACK_ATTRIBUTE, MachineRow, PendingRow, PlacedRow, Shape
from scheduler.scoring import Weights

REASONS = {"cpu_milli": "cpu", "ram_bytes": "ram", "disk_bytes": "disk", "ports": "ports"}


class World:
    """A cell as plain values: machines by name, placed tasks by key, and the same tasks by machine and by job."""

    def __init__(self, machines: dict[str, MachineRow], placed: dict[TaskKey, PlacedRow]) -> None:
        self.machines = machines
        self.placed: dict[TaskKey, PlacedRow] = {}
        self.evicted: set[TaskKey] = set()  # in this pass
        self._by_machine: dict[str, dict[TaskKey, PlacedRow]] = {}
        self._by_job: dict[JobKey, dict[TaskKey, PlacedRow]] = {}
        for row in placed.values():
            self._put(row)

    def tasks_on(self, machine: str) -> Iterable[PlacedRow]:
        """The tasks that are on a machine."""
        return self._by_machine.get(machine, {}).values()

    def siblings(self, job: JobKey) -> list[PlacedRow]:
        """The tasks of a job that count for its spread: those with room, and those evicted in this pass."""
        return [
            row
            for row in self._by_job.get(job, {}).values()
            if row.held != ZERO or row.key in self.evicted
        ]

    def place(self, pending: PendingRow, machine: str, victims: Iterable[TaskKey] = ()) -> None:
        """Do as the state machine does: victims stop and hold nothing, the task holds its limit."""
        for key in victims:
            self.evicted.add(key)
            self._put(replace(self.placed[key], held=ZERO, stopping=True))
        shape = pending.shape
        self._put(PlacedRow(pending.key, pending.incarnation, machine, shape.limit, shape.priority))

    def _put(self, row: PlacedRow) -> None:
        self.placed[row.key] = row
        self._by_machine.setdefault(row.machine, {})[row.key] = row
        self._by_job.setdefault(row.key.job_key, {})[row.key] = row


def rack_of(machine: MachineRow) -> tuple[str, str]:
    """Where a machine stands; without a rack it is its own."""
    rack = machine.attributes.get(RACK_ATTRIBUTE)
    return ("rack", rack) if rack else ("machine", machine.name)


def evictable(world: World, priority: int, machine: str) -> list[PlacedRow]:
    """Tasks that one of this priority may evict, lowest priority first."""
    return sorted(
        (
            row
            for row in world.tasks_on(machine)
            if may_preempt(priority, row.priority) and not row.stopping
        ),
        key=lambda row: (row.priority, row.key),
    )


def free_on(world: World, machine: str, without: Iterable[PlacedRow] = ()) -> Resources:
    """What is free on a machine once some tasks are gone."""
    gone = {row.key for row in without}
    held = total(row.held for row in world.tasks_on(machine) if row.key not in gone)
    return world.machines[machine].capacity - held


def first_failure(
    world: World, job: JobKey, shape: Shape, machine: str, *, evicting: bool
) -> tuple[str, str] | None:
    """Reason and detail of the first check a machine fails, or None if it is feasible."""
    row = world.machines[machine]
    if not row.takes_tasks:
        if row.reason in ("down", "draining"):
            return row.reason, ""
        return "not_ready", row.reason.removeprefix("not ready").removeprefix(":").strip()
    for constraint in shape.constraints:
        if not constraint.soft and not constraint.holds(row.attributes):
            return "constraint", str(constraint)
    leaving = evictable(world, shape.priority, machine) if evicting else []
    free = free_on(world, machine, leaving)
    if not fits(shape.limit, free):
        return REASONS[lacking(shape.limit, free)[0]], ""
    if shape.max_per_machine and _count_here(world, job, row) >= shape.max_per_machine:
        return "max_per_machine", ""
    if shape.max_per_rack and _count_in_rack(world, job, row) >= shape.max_per_rack:
        return "max_per_rack", ""
    return None


def _count_here(world: World, job: JobKey, machine: MachineRow) -> int:
    return sum(row.machine == machine.name for row in world.siblings(job))


def _count_in_rack(world: World, job: JobKey, machine: MachineRow) -> int:
    return sum(
        rack_of(world.machines[row.machine]) == rack_of(machine)
        for row in world.siblings(job)
        if row.machine in world.machines
    )


def feasible(world: World, job: JobKey, shape: Shape, *, evicting: bool) -> list[str]:
    """The machines that could take a task."""
    return [
        name
        for name in world.machines
        if first_failure(world, job, shape, name, evicting=evicting) is None
    ]


def counts(world: World, job: JobKey, shape: Shape) -> dict[tuple[str, str], int]:
    """Machines by the first check they fail, evictions included."""
    found: dict[tuple[str, str], int] = {}
    for name in world.machines:
        failure = first_failure(world, job, shape, name, evicting=True)
        if failure is not None:
            found[failure] = found.get(failure, 0) + 1
    return found


def victims(world: World, shape: Shape, machine: str) -> tuple[PlacedRow, ...] | None:
    """A minimal set to evict, lowest priority first; None when evicting all is not enough."""
    chosen: list[PlacedRow] = []
    for row in evictable(world, shape.priority, machine):
        if fits(shape.limit, free_on(world, machine, chosen)):
            break
        chosen.append(row)
    if not fits(shape.limit, free_on(world, machine, chosen)):
        return None
    for row in sorted(chosen, key=lambda row: -row.priority):
        rest = [one for one in chosen if one is not row]
        if fits(shape.limit, free_on(world, machine, rest)):
            chosen = rest
    return tuple(chosen)


def score(world: World, job: JobKey, shape: Shape, machine: str, weights: Weights) -> float:
    """The score of a machine for a task, without dice."""
    row = world.machines[machine]
    capacity = row.capacity
    free = free_on(world, machine)
    before = _shares(free, capacity)
    after = _shares(free - shape.limit, capacity, asked=shape.limit, unasked=before)
    held = {
        True: 0,
        False: 0,
    }  # cpu by whether the holder is prod, or stopping, which counts as prod
    for one in world.tasks_on(machine):
        held[one.stopping or is_prod(one.priority)] += one.held.cpu_milli
    own = is_prod(shape.priority)
    lean = (held[not own] - held[own]) / capacity.cpu_milli if capacity.cpu_milli else 0.0
    soft = [one.holds(row.attributes) for one in shape.constraints if one.soft]
    return (
        -weights.stranded * (_stranded(after) - _stranded(before))
        + weights.fit * (1 - (after[0] + after[1]) / 2)
        + weights.mix * max(lean, 0.0)
        + weights.soft * (sum(soft) / len(soft) if soft else 0.0)
        - weights.spread_machine * _count_here(world, job, row)
        - weights.spread_rack * _count_in_rack(world, job, row)
    )


def _shares(
    free: Resources,
    capacity: Resources,
    *,
    asked: Resources | None = None,
    unasked: list[float] | None = None,
) -> list[float]:
    """Free parts of the capacity; where nothing is asked for, those of ``unasked``."""
    shares = [
        here / most if most else 1.0
        for here, most in zip(free.as_tuple(), capacity.as_tuple(), strict=True)
    ]
    if asked is None or unasked is None:
        return shares
    return [
        share if wanted else old
        for share, wanted, old in zip(shares, asked.as_tuple(), unasked, strict=True)
    ]


def _stranded(shares: list[float]) -> float:
    return (shares[0] + shares[1]) / 2 - min(shares)


def plan(
    world: World, pending: Iterable[PendingRow], weights: Weights
) -> list[tuple[TaskKey, str, tuple[TaskKey, ...]]]:
    """Place tasks one by one, highest priority first: (task, machine, victims). Changes ``world``.

    Users take no turns here; cost: tasks x machines x tasks per machine.
    """
    placements = []
    for row in sorted(pending, key=lambda row: (-row.shape.priority, row.submitted_at_ms, row.key)):
        machine, leaving = _choose(world, row, weights)
        if machine:
            keys = tuple(victim.key for victim in leaving)
            world.place(row, machine, keys)
            placements.append((row.key, machine, keys))
    return placements


def _choose(world: World, row: PendingRow, weights: Weights) -> tuple[str, tuple[PlacedRow, ...]]:
    job, shape = row.key.job_key, row.shape
    machines = feasible(world, job, shape, evicting=False)
    if machines:
        return max(machines, key=lambda name: score(world, job, shape, name, weights)), ()
    options = [
        (found, name)
        for name in feasible(world, job, shape, evicting=True)
        if (found := victims(world, shape, name)) is not None
    ]
    if not options:
        return "", ()
    found, name = min(options, key=_cost)
    return name, found


def _cost(option: tuple[tuple[PlacedRow, ...], str]) -> tuple[int, int, int, str]:
    found, name = option
    ranks = [BAND_RANKS[band_of(row.priority)] for row in found]
    return len(found), max(ranks), sum(row.priority for row in found), name
