"""Owns whom a machine would have to give up for a task: the lowest priorities, and nobody in vain (B15 §3.2)."""

from collections.abc import Sequence
from typing import NamedTuple

from scheduler.model import PlacedRow


class Eviction(NamedTuple):
    """Victims on one machine; sorts by cost: fewest, then lowest priority, then the better place for the task."""

    victim_count: int
    highest_priority: int
    priority_sum: int
    badness: float
    slot: int
    rank: int  # victims are below this band rank
    victims: tuple[PlacedRow, ...]

    @classmethod
    def of(cls, victims: tuple[PlacedRow, ...], badness: float, slot: int, rank: int) -> "Eviction":
        """The eviction with its cost worked out."""
        priorities = [row.priority for row in victims]
        return cls(len(victims), max(priorities), sum(priorities), badness, slot, rank, victims)


def cheapest_eviction(
    limit: Sequence[int], free: Sequence[int], evictable: Sequence[PlacedRow]
) -> tuple[PlacedRow, ...] | None:
    """Tasks to evict so that ``limit`` fits into ``free``, highest priority last; None when all are not enough.

    Lowest priority first, and inside one priority the most helpful first. Then victims that turned out
    unnecessary are spared, highest priority first: without any one of the rest the task would not fit.
    """
    lacks = [
        max(wanted - here, 0) if wanted else 0 for wanted, here in zip(limit, free, strict=True)
    ]
    helpful = sorted(
        (row.priority, -_help(row.held.as_tuple(), lacks), row.key, row)
        for row in evictable
        if _help(row.held.as_tuple(), lacks) > 0
    )
    chosen: list[PlacedRow] = []
    left = list(lacks)
    for _, _, _, row in helpful:
        if max(left) <= 0:
            break
        chosen.append(row)
        left = [lack - held for lack, held in zip(left, row.held.as_tuple(), strict=True)]
    if max(left) > 0:
        return None
    return _spare_unneeded(chosen, lacks, left)


def _help(held: Sequence[int], lacks: Sequence[int]) -> float:
    """How much of what lacks a task would give: 1 per dimension that it covers whole."""
    return sum(min(have, lack) / lack for have, lack in zip(held, lacks, strict=True) if lack)


def _spare_unneeded(
    chosen: list[PlacedRow], lacks: Sequence[int], left: list[int]
) -> tuple[PlacedRow, ...]:
    """``left`` is what lacks with all chosen evicted: at most 0 where something lacked."""
    kept: list[PlacedRow] = []
    for row in reversed(chosen):
        without = [
            here + held if lack else 0
            for here, held, lack in zip(left, row.held.as_tuple(), lacks, strict=True)
        ]
        if max(without) > 0:
            kept.append(row)
        else:
            left = without
    return tuple(reversed(kept))
