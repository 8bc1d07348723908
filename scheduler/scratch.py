"""Owns the picture that one pass draws on: columns of the cell, and what the pass has decided so far.

The cell itself is never written to, so that a dry run and a real pass are the same thing.
"""

import numpy as np
from borgcell.priority import is_prod
from borgcell.specs import Constraint
from borgcell.types import JobKey, TaskKey
from msgspec import Struct, field
from numpy.typing import NDArray

from scheduler.cell import RANKS, SchedulerCell, rank_of
from scheduler.model import PlacedRow, Shape

Mask = NDArray[np.bool_]
Column = NDArray[np.float32]

_CPU, _RAM = 0, 1
_PROD_RANK = 2  # used[2] is what the production and monitoring bands hold


class JobSpread(Struct):
    """Where the tasks of one job are: counts by slot and by rack number."""

    on_machine: dict[int, int] = field(default_factory=dict)
    on_rack: dict[int, int] = field(default_factory=dict)


class Ask(Struct, frozen=True):
    """A shape compiled against the columns: ``static`` is where machines take tasks and hard constraints hold."""

    shape: Shape
    limit: tuple[int, int, int, int]
    rank: int
    prod: bool
    static: Mask
    soft: Column | None  # share of the soft constraints that hold; None without any

    @property
    def hard(self) -> tuple[Constraint, ...]:
        """The demands among the constraints, in their order."""
        return tuple(one for one in self.shape.constraints if not one.soft)


class Scratch:
    """Columns of a pass. ``available[r]`` int64[dimensions, slots] is free once all below rank r is evicted.

    ``share``, float32[dimensions, slots]: free part of the capacity, 1 where there is none to ask for.
    ``stranded``: part of cpu and ram that another dimension makes unusable. ``lean``: cpu share of non-prod
    minus that of prod. ``dice`` in [0, 1). ``versions`` counts the changes of a slot in this pass.
    """

    def __init__(self, cell: SchedulerCell, dice: np.random.Generator) -> None:
        self.cell = cell
        self.size = cell.size
        size = self.size
        self.available = cell.capacity[:, :size] - cell.used[:, :, :size]
        self.versions: dict[int, int] = {}
        self.evicted: set[TaskKey] = set()
        self.reopened: list[int] = []  # slots where an eviction may have left room, in order
        self._spreads: dict[JobKey, JobSpread] = {}
        self.dice = dice.random(size, dtype=np.float32)
        self.share = np.empty((cell.capacity.shape[0], size), dtype=np.float32)
        self.stranded = np.empty(size, dtype=np.float32)
        self.lean = np.empty(size, dtype=np.float32)
        self._refresh(slice(0, size))

    def ask(self, shape: Shape) -> Ask:
        """Compile a shape."""
        cell, size = self.cell, self.size
        static = cell.takes[:size] & cell.known[:size]
        wishes = [cell.mask(one) for one in shape.constraints if one.soft]
        for constraint in shape.constraints:
            if not constraint.soft:
                static &= cell.mask(constraint)
        soft = None
        if wishes:
            soft = np.add.reduce([wish.astype(np.float32) for wish in wishes])
            soft *= np.float32(1 / len(wishes))
        return Ask(
            shape=shape,
            limit=shape.limit.as_tuple(),
            rank=rank_of(shape.priority),
            prod=is_prod(shape.priority),
            static=static,
            soft=soft,
        )

    def spread(self, job: JobKey) -> JobSpread:
        """Where the tasks of a job are, as the pass goes on."""
        found = self._spreads.get(job)
        if found is None:
            found = JobSpread(self.cell.job_slots(job))
            for slot, count in found.on_machine.items():
                rack = int(self.cell.rack[slot])
                found.on_rack[rack] = found.on_rack.get(rack, 0) + count
            self._spreads[job] = found
        return found

    def by_rack(self, on_rack: dict[int, int]) -> Column:
        """A count per rack, spread over its machines: float32[slots]."""
        table = np.zeros(self.cell.rack_count, dtype=np.float32)
        table[list(on_rack)] = list(on_rack.values())
        return table[self.cell.rack[: self.size]]

    def fits(self, ask: Ask, rank: int) -> Mask:
        """Where the limit fits once everything below ``rank`` is evicted: exact, as ``borgcell.resources.fits``."""
        mask: Mask | None = None
        for dimension, wanted in enumerate(ask.limit):
            if wanted:
                enough = self.available[rank, dimension] >= wanted
                mask = enough if mask is None else np.logical_and(mask, enough, out=mask)
        return np.ones(self.size, dtype=np.bool_) if mask is None else mask

    def fits_at(self, ask: Ask, rank: int, slot: int) -> bool:
        """``fits`` for one slot."""
        free = self.available[rank, :, slot].tolist()
        return all(
            not wanted or wanted <= here for wanted, here in zip(ask.limit, free, strict=True)
        )

    def limit_masks(self, ask: Ask, spread: JobSpread) -> dict[str, Mask]:
        """Where one more task keeps max_per_machine and max_per_rack, for those that are set."""
        masks: dict[str, Mask] = {}
        if ask.shape.max_per_machine:
            masks["max_per_machine"] = np.ones(self.size, dtype=np.bool_)
            masks["max_per_machine"][_full(spread.on_machine, ask.shape.max_per_machine)] = False
        if ask.shape.max_per_rack:
            open_racks = np.ones(self.cell.rack_count, dtype=np.bool_)
            open_racks[_full(spread.on_rack, ask.shape.max_per_rack)] = False
            masks["max_per_rack"] = open_racks[self.cell.rack[: self.size]]
        return masks

    def within_limits_at(self, ask: Ask, spread: JobSpread, slot: int) -> bool:
        """Whether ``limit_masks`` all hold for one slot."""
        shape = ask.shape
        if shape.max_per_machine and spread.on_machine.get(slot, 0) >= shape.max_per_machine:
            return False
        if not shape.max_per_rack:
            return True
        return spread.on_rack.get(int(self.cell.rack[slot]), 0) < shape.max_per_rack

    def evictable(self, slot: int, rank: int) -> list[PlacedRow]:
        """Tasks below ``rank`` whose room on a machine could be taken, in no order."""
        return [
            row
            for row in self.cell.tasks_on(slot)
            if not row.stopping and row.key not in self.evicted and rank_of(row.priority) < rank
        ]

    def evict(self, slot: int, victims: tuple[PlacedRow, ...]) -> None:
        """Take the room of victims. They count for their job's spread until the next pass."""
        for row in victims:
            self.available[: rank_of(row.priority) + 1, :, slot] += np.array(row.held.as_tuple())
            self.evicted.add(row.key)
        self.reopened.append(slot)
        self._touch(slot)

    def place(self, ask: Ask, spread: JobSpread, slot: int) -> None:
        """Give room on a machine to one task."""
        self.available[: ask.rank + 1, :, slot] -= np.array(ask.limit)
        rack = int(self.cell.rack[slot])
        spread.on_machine[slot] = spread.on_machine.get(slot, 0) + 1
        spread.on_rack[rack] = spread.on_rack.get(rack, 0) + 1
        self._touch(slot)

    def _touch(self, slot: int) -> None:
        self.versions[slot] = self.versions.get(slot, 0) + 1
        self._refresh(slice(slot, slot + 1))

    def _refresh(self, rows: slice) -> None:
        """Bring the float columns of some slots up to the integer truth."""
        capacity = self.cell.capacity[:, : self.size][:, rows]
        inverse = self.cell.inverse[:, : self.size][:, rows]
        share = (self.available[0][:, rows] * inverse + (capacity == 0)).astype(np.float32)
        self.share[:, rows] = share
        mean = (share[_CPU] + share[_RAM]) * np.float32(0.5)
        self.stranded[rows] = mean - np.minimum.reduce(share)
        free, prod_free = self.available[0, _CPU, rows], self.available[_PROD_RANK, _CPU, rows]
        self.lean[rows] = (2 * prod_free - free - capacity[_CPU]) * inverse[_CPU]


assert RANKS > _PROD_RANK


def _full(counts: dict[int, int], most: int) -> list[int]:
    return [place for place, count in counts.items() if count >= most]
