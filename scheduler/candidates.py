"""Owns the candidates of one equivalence class during a pass: one look at all columns, then a heap.

Scores in the heap go stale as the pass places tasks; the top is rescored before it is used. Only the best are
kept: once the top falls below the best that was left out, the columns are looked at again.
"""

import heapq
from typing import Final

import numpy as np
from borgcell.types import JobKey
from numpy.typing import NDArray

from scheduler.cell import TOP_RANK
from scheduler.model import Shape
from scheduler.plan import Score
from scheduler.preemption import Eviction, cheapest_eviction
from scheduler.scoring import Weights, score_at, score_column
from scheduler.scratch import Mask, Scratch

KEPT_MIN: Final = 16  # candidates kept for a class of one task
KEPT_PER_TASK: Final = 2
KEPT_MAX: Final = 4_096
EVICTIONS_KEPT_MIN: Final = 32  # machines whose victims are worked out exactly, at 10-20 us each
EVICTIONS_KEPT_MAX: Final = 256

Stamp = tuple[int, int]  # (changes of the slot, tasks of the job in its rack)


class Candidates:
    """Machines for the tasks of one class, best first, as the pass goes on."""

    def __init__(
        self, scratch: Scratch, job: JobKey, shape: Shape, tasks: int, weights: Weights
    ) -> None:
        self.scratch = scratch
        self.job = job
        self.ask = scratch.ask(shape)
        self.spread = scratch.spread(job)
        self._weights = weights
        self._tasks = tasks
        self._reopened_seen = 0
        self._cutoff = -np.inf  # score below which machines were left out of the heap
        self._complete = True  # nothing was left out
        self._heap: list[tuple[float, int, Stamp]] = []
        self._evictions: list[tuple[Eviction, Stamp]] = []
        self.feasible_count = self._fill()

    def best(self) -> int | None:
        """The best slot where a task fits without an eviction."""
        self._look_at_reopened()
        while True:
            slot = self._fresh_top()
            if self._complete or (slot is not None and -self._heap[0][0] >= self._cutoff):
                return slot
            self._fill()

    def ranking(self, count: int) -> list[int]:
        """The best slots where a task fits without an eviction, best first; of the first look."""
        return [slot for _, slot, _ in heapq.nsmallest(count, self._heap)]

    def cheapest(self) -> Eviction | None:
        """The machine with the cheapest victims, for a task that fits nowhere without."""
        while self._evictions:
            eviction, stamp = self._evictions[0]
            if stamp == self._stamp(eviction.slot):
                return eviction
            heapq.heappop(self._evictions)
            self._push_eviction(eviction.slot, eviction.rank)
        self._fill_evictions()
        return self._evictions[0][0] if self._evictions else None

    def cheapest_of_all(self, count: int) -> list[Eviction]:
        """The machines with the cheapest victims, cheapest first."""
        if not self._evictions:
            self._fill_evictions()
        return [eviction for eviction, _ in heapq.nsmallest(count, self._evictions)]

    def score(self, slot: int) -> Score:
        """The score of a slot now, part by part."""
        return score_at(self.scratch, self.ask, self.spread, self._weights, slot)

    def evictable_mask(self, rank: int) -> Mask:
        """Where a task fits once everything below ``rank`` is evicted, all other checks included."""
        mask = self.ask.static & self.scratch.fits(self.ask, rank)
        for within in self.scratch.limit_masks(self.ask, self.spread).values():
            mask &= within
        return mask

    def _stamp(self, slot: int) -> Stamp:
        rack = int(self.scratch.cell.rack[slot])
        return self.scratch.versions.get(slot, 0), self.spread.on_rack.get(rack, 0)

    def _fill(self) -> int:
        """Look at all columns; returns how many machines are feasible."""
        self._reopened_seen = len(self.scratch.reopened)
        slots = np.flatnonzero(self.evictable_mask(0))
        scores = score_column(self.scratch, self.ask, self.spread, self._weights)[slots]
        kept = min(max(KEPT_MIN, KEPT_PER_TASK * self._tasks), KEPT_MAX)
        feasible_count = len(slots)
        self._complete = feasible_count <= kept
        if not self._complete:
            best = np.argpartition(scores, feasible_count - kept)
            self._cutoff = float(scores[best[: feasible_count - kept]].max())
            best = best[feasible_count - kept :]
            slots, scores = slots[best], scores[best]
        self._heap = [
            (-score, slot, self._stamp(slot))
            for score, slot in zip(scores.tolist(), slots.tolist(), strict=True)
        ]
        heapq.heapify(self._heap)
        return feasible_count

    def _fresh_top(self) -> int | None:
        """The top of the heap once it is known to be up to date, or None when the heap is empty."""
        while self._heap:
            _, slot, stamp = self._heap[0]
            if stamp == self._stamp(slot):
                return slot
            entry = self._entry(slot)
            if entry is None:
                heapq.heappop(self._heap)
            else:
                heapq.heapreplace(self._heap, entry)
        return None

    def _entry(self, slot: int) -> tuple[float, int, Stamp] | None:
        if not self.scratch.fits_at(self.ask, 0, slot):
            return None
        if not self.scratch.within_limits_at(self.ask, self.spread, slot):
            return None
        return -self.score(slot).total, slot, self._stamp(slot)

    def _look_at_reopened(self) -> None:
        """Evictions may have left room on machines where there was none at the last look."""
        reopened = self.scratch.reopened
        if self._reopened_seen == len(reopened):
            return
        slots = set(reopened[self._reopened_seen :])
        self._reopened_seen = len(reopened)
        slots.difference_update([slot for _, slot, _ in self._heap])
        for slot in sorted(slots):
            entry = self._entry(slot) if self.ask.static[slot] else None
            if entry is not None:
                heapq.heappush(self._heap, entry)

    def _fill_evictions(self) -> None:
        for rank in _ranks_to_evict_below(self.ask.rank):
            slots = np.flatnonzero(self.evictable_mask(rank))
            for slot in self._least_lacking(slots):
                self._push_eviction(slot, rank)
            if self._evictions:
                return

    def _least_lacking(self, slots: NDArray[np.intp]) -> list[int]:
        kept = min(max(EVICTIONS_KEPT_MIN, self._tasks), EVICTIONS_KEPT_MAX)
        if len(slots) <= kept:
            everyone: list[int] = slots.tolist()
            return everyone
        limit = np.array(self.ask.limit, dtype=np.int64)[:, None]
        lack = np.maximum(limit - self.scratch.available[0][:, slots], 0)
        lack_share = (lack * self.scratch.cell.inverse[:, slots]).sum(axis=0)
        order = lack_share + 0.01 * self.scratch.dice[slots]
        chosen: list[int] = slots[np.argpartition(order, kept)[:kept]].tolist()
        return chosen

    def _push_eviction(self, slot: int, rank: int) -> None:
        if not self.scratch.within_limits_at(self.ask, self.spread, slot):
            return
        free: list[int] = self.scratch.available[0, :, slot].tolist()
        victims = cheapest_eviction(self.ask.limit, free, self.scratch.evictable(slot, rank))
        if victims is None:
            return
        score = self.score(slot)
        badness = -(score.spread_machine + score.spread_rack + score.soft + score.dice)
        eviction = Eviction.of(victims, badness, slot, rank)
        heapq.heappush(self._evictions, (eviction, self._stamp(slot)))


def _ranks_to_evict_below(rank: int) -> tuple[int, ...]:
    """Which bands may be touched, in order: monitoring takes production's room only when batch's is not enough."""
    if rank == TOP_RANK:
        return (rank - 1, rank)
    return (rank,) if rank else ()
