"""Owns the language in which the state machine tells the scheduler's copy of the cell what changed.

A row is the whole truth about one machine or task; a task is placed, pending, or absent. Deltas are
level-triggered: applying one twice, or a newer one first after a full picture, does no harm.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from borgcell.resources import Resources
from borgcell.specs import Constraint
from borgcell.types import JobKey, TaskKey
from msgspec import Struct, field

RACK_ATTRIBUTE: Final = "rack"


class MachineRow(Struct, frozen=True, gc=False, array_like=True):
    """A machine. ``reason`` says why it takes no tasks: "down", "draining" or "not ready: …"; else ""."""

    name: str
    capacity: Resources
    attributes: dict[str, str] = field(default_factory=dict)
    takes_tasks: bool = True
    reason: str = ""


class PlacedRow(Struct, frozen=True, gc=False, array_like=True):
    """A task that is on a machine. ``stopping`` ones are never victims: they leave anyway.

    One that holds ``ZERO`` has lost its room to a preemptor; it no longer counts for max_per_machine and max_per_rack.
    """

    key: TaskKey
    incarnation: int
    machine: str
    held: Resources
    priority: int
    stopping: bool = False


class Shape(Struct, frozen=True, gc=False, array_like=True):
    """What a task asks for; tasks of one job with equal shapes are equivalent (B15 §3.4)."""

    limit: Resources
    priority: int
    constraints: tuple[Constraint, ...] = ()
    max_per_machine: int = 0  # 0: any number
    max_per_rack: int = 0  # 0: any number


class PendingRow(Struct, frozen=True, gc=False, array_like=True):
    """A task that waits for a machine, not to be placed before ``not_before_ms``."""

    key: TaskKey
    incarnation: int
    shape: Shape
    submitted_at_ms: int = 0
    not_before_ms: int = 0


class Delta(Struct, frozen=True, array_like=True):
    """Rows that changed up to ``index`` of the log. Removals are applied before the rows."""

    index: int
    machines: tuple[MachineRow, ...] = ()
    placed: tuple[PlacedRow, ...] = ()
    pending: tuple[PendingRow, ...] = ()
    removed_machines: tuple[str, ...] = ()
    removed_tasks: tuple[TaskKey, ...] = ()
    removed_jobs: tuple[JobKey, ...] = ()  # all their tasks are gone
    ended_jobs: tuple[JobKey, ...] = ()  # their pending tasks are gone

    def row_count(self) -> int:
        """How many rows and removals it carries."""
        return sum(len(part) for part in self._parts())

    def _parts(self) -> tuple[tuple[object, ...], ...]:
        return (
            self.machines,
            self.placed,
            self.pending,
            self.removed_machines,
            self.removed_tasks,
            self.removed_jobs,
            self.ended_jobs,
        )


def merge(deltas: Iterable[Delta]) -> Delta:
    """One delta with the effect of all, applied in their order; later rows replace earlier ones."""
    index = 0
    machines: dict[str, MachineRow | None] = {}
    tasks: dict[TaskKey, PlacedRow | PendingRow | None] = {}
    gone: dict[JobKey, None] = {}
    ended: dict[JobKey, None] = {}
    for delta in deltas:
        index = max(index, delta.index)
        if delta.removed_jobs or delta.ended_jobs:
            gone.update(dict.fromkeys(delta.removed_jobs))
            ended.update(dict.fromkeys(delta.ended_jobs))
            tasks = _without_jobs(tasks, frozenset(delta.removed_jobs), frozenset(delta.ended_jobs))
        tasks.update(dict.fromkeys(delta.removed_tasks))
        machines.update(dict.fromkeys(delta.removed_machines))
        machines.update((row.name, row) for row in delta.machines)
        tasks.update((row.key, row) for row in delta.placed)
        tasks.update((row.key, row) for row in delta.pending)
    return Delta(
        index=index,
        machines=tuple(row for row in machines.values() if row is not None),
        placed=tuple(row for row in tasks.values() if isinstance(row, PlacedRow)),
        pending=tuple(row for row in tasks.values() if isinstance(row, PendingRow)),
        removed_machines=tuple(name for name, row in machines.items() if row is None),
        removed_tasks=tuple(key for key, row in tasks.items() if row is None),
        removed_jobs=tuple(gone),
        ended_jobs=tuple(ended),
    )


def _without_jobs(
    tasks: dict[TaskKey, PlacedRow | PendingRow | None],
    removed: frozenset[JobKey],
    ended: frozenset[JobKey],
) -> dict[TaskKey, PlacedRow | PendingRow | None]:
    """Rows that survive: all but those of removed jobs and pending ones of ended jobs, which stay as removals."""
    kept: dict[TaskKey, PlacedRow | PendingRow | None] = {}
    for key, row in tasks.items():
        job = key.job_key
        if job in removed:
            continue
        kept[key] = None if job in ended and isinstance(row, PendingRow) else row
    return kept


def split(delta: Delta, rows_max: int) -> Iterator[Delta]:
    """The same change in parts of at most ``rows_max`` rows each; all removals travel in the first part."""
    first = Delta(
        index=delta.index,
        removed_machines=delta.removed_machines,
        removed_tasks=delta.removed_tasks,
        removed_jobs=delta.removed_jobs,
        ended_jobs=delta.ended_jobs,
    )
    yield first
    for start in range(0, len(delta.machines), rows_max):
        yield Delta(delta.index, machines=delta.machines[start : start + rows_max])
    for start in range(0, len(delta.placed), rows_max):
        yield Delta(delta.index, placed=delta.placed[start : start + rows_max])
    for start in range(0, len(delta.pending), rows_max):
        yield Delta(delta.index, pending=delta.pending[start : start + rows_max])
