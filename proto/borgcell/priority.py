"""Owns priorities: the bands of B15 §2.5 with the numbers of 2019 (NG20), and who may preempt whom."""

from enum import StrEnum
from typing import Final


class Band(StrEnum):
    """A range of priorities; bands do not overlap."""

    MONITORING = "monitoring"
    PRODUCTION = "production"
    BATCH = "batch"
    BEST_EFFORT = "best_effort"


PRIORITY_MAX: Final = 450
# Highest first; each band starts at its number. Differs from Borg: mid (116..119) counts as batch here.
BAND_FLOORS: Final[tuple[tuple[Band, int], ...]] = (
    (Band.MONITORING, 360),
    (Band.PRODUCTION, 120),
    (Band.BATCH, 100),
    (Band.BEST_EFFORT, 0),
)
# Number of a band, growing with importance: what numpy columns hold.
BAND_RANKS: Final = {Band.BEST_EFFORT: 0, Band.BATCH: 1, Band.PRODUCTION: 2, Band.MONITORING: 3}


def band_of(priority: int) -> Band:
    """The band of a priority from 0 to ``PRIORITY_MAX``."""
    assert 0 <= priority <= PRIORITY_MAX, f"priority {priority} is outside 0..{PRIORITY_MAX}"
    return next(band for band, floor in BAND_FLOORS if priority >= floor)


def band_floor(priority: int) -> int:
    """The lowest priority of the band that ``priority`` is in: it may preempt all below, and only those."""
    return next(floor for _, floor in BAND_FLOORS if priority >= floor)


def may_preempt(priority: int, victim_priority: int) -> bool:
    """Whether a task may evict another: only across bands, so that prod never preempts prod (B15 §2.5).

    Differs from Borg: B15 forbids it inside the production band only; we forbid it inside every band, which
    cuts the cascades that made Google reduce its priority levels (AP20 §2.3).
    """
    return victim_priority < band_floor(priority)


def is_prod(priority: int) -> bool:
    """Whether the priority is in the production or monitoring band."""
    return band_of(priority) in (Band.PRODUCTION, Band.MONITORING)
