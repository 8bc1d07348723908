"""Owns the scheduler's copy of the cell: machines as columns, placed tasks, job spread, and the pending queue.

Only ``apply`` changes it. Room is kept per band, cumulatively: ``used[r]`` is what tasks of band rank r and
above hold, so that "free once every lower band is evicted" is one subtraction of columns. A task that is
stopping counts as the highest rank: nobody can evict it any more.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from borgcell.priority import BAND_RANKS, band_of
from borgcell.resources import DIMENSIONS, ZERO
from borgcell.specs import Constraint
from borgcell.types import JobKey, TaskKey
from numpy.typing import NDArray

from scheduler.masks import AttributeMasks
from scheduler.model import (
    RACK_ATTRIBUTE,
    Delta,
    MachineRow,
    PendingRow,
    PlacedRow,
    Shape,
)

RANKS: Final = len(BAND_RANKS)
TOP_RANK: Final = RANKS - 1
RACKS_SPARE: Final = 1_024  # numbers of racks that are gone are kept up to so many
_SLOTS_MIN: Final = 16
_NOBODY: Final = MachineRow("", ZERO, {}, takes_tasks=False)

ClassKey = tuple[JobKey, Shape]


def rank_of(priority: int) -> int:
    """The rank of a priority's band, growing with importance."""
    return BAND_RANKS[band_of(priority)]


class SchedulerCell:
    """A cell as of ``index``. A slot is the position of a machine in all columns; slots are reused.

    Columns: ``capacity`` int64[dimensions, slots]; ``used`` int64[ranks, dimensions, slots]; ``inverse``
    float32[dimensions, slots] is 1/capacity or 0; ``takes`` and ``known`` bool[slots]; ``rack`` int32[slots]
    numbers racks, a machine without one being its own.
    """

    def __init__(self) -> None:
        self.index = 0
        self.slots: dict[str, int] = {}
        self.rows: list[MachineRow] = []  # by slot; a nameless one where no machine is
        self.placed: dict[TaskKey, PlacedRow] = {}
        self.pending: dict[TaskKey, PendingRow] = {}
        self.classes: dict[ClassKey, dict[TaskKey, PendingRow]] = {}
        self._on_machine: dict[str, dict[TaskKey, PlacedRow]] = {}
        self._job_slots: dict[JobKey, dict[int, int]] = {}  # tasks of a job by slot
        self._free_slots: list[int] = []
        self._rack_numbers: dict[tuple[str, str], int] = {}
        self._masks = AttributeMasks()
        self._attributes: list[dict[str, str]] = []
        self.capacity = np.zeros((len(DIMENSIONS), _SLOTS_MIN), dtype=np.int64)
        self.used = np.zeros((RANKS, len(DIMENSIONS), _SLOTS_MIN), dtype=np.int64)
        self.inverse = np.zeros((len(DIMENSIONS), _SLOTS_MIN), dtype=np.float32)
        self.takes = np.zeros(_SLOTS_MIN, dtype=np.bool_)
        self.known = np.zeros(_SLOTS_MIN, dtype=np.bool_)
        self.rack = np.zeros(_SLOTS_MIN, dtype=np.int32)

    @property
    def size(self) -> int:
        """Number of slots, empty ones included."""
        return len(self.rows)

    @property
    def rack_count(self) -> int:
        """Upper bound of the numbers in ``rack``."""
        return len(self._rack_numbers)

    def apply(self, delta: Delta) -> None:
        """Take over a change. One that is older than the cell is ignored: the cell has seen later truth."""
        if delta.index < self.index:
            return
        self.index = delta.index
        self._drop_jobs(delta)
        for key in delta.removed_tasks:
            self._drop_task(key)
        for name in delta.removed_machines:
            self._drop_machine(name)
        for machine in delta.machines:
            self._put_machine(machine)
        for placed in delta.placed:
            self._put_placed(placed)
        for pending in delta.pending:
            self._put_pending(pending)

    def clone(self) -> "SchedulerCell":
        """An independent copy, for questions of the form "what if"."""
        copy = SchedulerCell()
        copy.index = self.index
        copy.slots = dict(self.slots)
        copy.rows = list(self.rows)
        copy.placed = dict(self.placed)
        copy.pending = dict(self.pending)
        copy.classes = {key: dict(rows) for key, rows in self.classes.items()}
        copy._on_machine = {name: dict(rows) for name, rows in self._on_machine.items()}
        copy._job_slots = {job: dict(counts) for job, counts in self._job_slots.items()}
        copy._free_slots = list(self._free_slots)
        copy._rack_numbers = dict(self._rack_numbers)
        copy._attributes = list(self._attributes)
        copy.capacity = self.capacity.copy()
        copy.used = self.used.copy()
        copy.inverse = self.inverse.copy()
        copy.takes = self.takes.copy()
        copy.known = self.known.copy()
        copy.rack = self.rack.copy()
        return copy

    def mask(self, constraint: Constraint) -> NDArray[np.bool_]:
        """Where a constraint holds: bool[slots]. Remembered until an attribute it looks at changes."""
        return self._masks.mask(constraint, self._attributes)

    def tasks_on(self, slot: int) -> Iterator[PlacedRow]:
        """The tasks that hold room on a machine."""
        return iter(self._on_machine.get(self.rows[slot].name, {}).values())

    def job_slots(self, job: JobKey) -> dict[int, int]:
        """How many tasks of a job are on each machine, by slot. A fresh copy."""
        return dict(self._job_slots.get(job, {}))

    def _grow(self) -> None:
        more = len(self.takes)
        self.capacity = np.pad(self.capacity, ((0, 0), (0, more)))
        self.used = np.pad(self.used, ((0, 0), (0, 0), (0, more)))
        self.inverse = np.pad(self.inverse, ((0, 0), (0, more)))
        self.takes = np.pad(self.takes, (0, more))
        self.known = np.pad(self.known, (0, more))
        self.rack = np.pad(self.rack, (0, more))

    def _put_machine(self, row: MachineRow) -> None:
        slot = self.slots.get(row.name)
        new = slot is None
        if slot is None:
            slot = self._new_slot()
            self.slots[row.name] = slot
        self.rows[slot] = row
        self._attributes[slot] = row.attributes
        self._masks.machine_changed(slot, row.attributes)
        capacity = np.array(row.capacity.as_tuple(), dtype=np.int64)
        self.capacity[:, slot] = capacity
        self.inverse[:, slot] = np.where(capacity > 0, 1.0 / np.maximum(capacity, 1), 0.0)
        self.takes[slot] = row.takes_tasks
        self.known[slot] = True
        self.rack[slot] = self._rack_number(row)
        if new:
            for task in self._on_machine.get(row.name, {}).values():
                self._account(task, slot, 1)

    def _new_slot(self) -> int:
        if self._free_slots:
            return self._free_slots.pop()
        if self.size == len(self.takes):
            self._grow()
        self.rows.append(_NOBODY)
        self._attributes.append({})
        return self.size - 1

    def _rack_number(self, row: MachineRow) -> int:
        rack = row.attributes.get(RACK_ATTRIBUTE, "")
        place = (RACK_ATTRIBUTE, rack) if rack else ("machine", row.name)
        if place not in self._rack_numbers and len(self._rack_numbers) > RACKS_SPARE + self.size:
            self._renumber_racks()
        return self._rack_numbers.setdefault(place, len(self._rack_numbers))

    def _renumber_racks(self) -> None:
        """Forget racks that no machine stands in any more."""
        self._rack_numbers.clear()
        for slot in self.slots.values():
            self.rack[slot] = self._rack_number(self.rows[slot])

    def _drop_machine(self, name: str) -> None:
        slot = self.slots.pop(name, None)
        if slot is None:
            return
        for task in self._on_machine.get(name, {}).values():
            self._account(task, slot, -1)
        assert not self.used[:, :, slot].any(), f"room of {name} is held by nobody known"
        self.rows[slot] = _NOBODY
        self._attributes[slot] = {}
        self._masks.machine_changed(slot, {})
        self.capacity[:, slot] = 0
        self.inverse[:, slot] = 0
        self.takes[slot] = False
        self.known[slot] = False
        self._free_slots.append(slot)

    def _put_placed(self, row: PlacedRow) -> None:
        self._drop_task(row.key)
        self.placed[row.key] = row
        self._on_machine.setdefault(row.machine, {})[row.key] = row
        slot = self.slots.get(row.machine)
        if slot is not None:
            self._account(row, slot, 1)

    def _put_pending(self, row: PendingRow) -> None:
        self._drop_task(row.key)
        self.pending[row.key] = row
        self.classes.setdefault((row.key.job_key, row.shape), {})[row.key] = row

    def _drop_task(self, key: TaskKey) -> None:
        pending = self.pending.pop(key, None)
        if pending is not None:
            self._drop_from_class(pending)
        placed = self.placed.pop(key, None)
        if placed is None:
            return
        here = self._on_machine[placed.machine]
        del here[key]
        if not here:
            del self._on_machine[placed.machine]
        slot = self.slots.get(placed.machine)
        if slot is not None:
            self._account(placed, slot, -1)

    def _drop_from_class(self, row: PendingRow) -> None:
        class_key = (row.key.job_key, row.shape)
        rows = self.classes[class_key]
        del rows[row.key]
        if not rows:
            del self.classes[class_key]

    def _drop_jobs(self, delta: Delta) -> None:
        if delta.removed_jobs:
            removed = frozenset(delta.removed_jobs)
            for key in [key for key in self.placed if key.job_key in removed]:
                self._drop_task(key)
        quiet = frozenset(delta.removed_jobs) | frozenset(delta.ended_jobs)
        if quiet:
            for key in [key for key in self.pending if key.job_key in quiet]:
                self._drop_task(key)

    def _account(self, row: PlacedRow, slot: int, sign: int) -> None:
        rank = TOP_RANK if row.stopping else rank_of(row.priority)
        self.used[: rank + 1, :, slot] += sign * np.array(row.held.as_tuple(), dtype=np.int64)
        if row.held == ZERO:
            return  # its room belongs to a preemptor: it no longer counts for the spread of its job
        counts = self._job_slots.setdefault(row.key.job_key, {})
        counts[slot] = counts.get(slot, 0) + sign
        if not counts[slot]:
            del counts[slot]
        if not counts:
            del self._job_slots[row.key.job_key]
