"""Owns the answer to "where could this task go, or why nowhere?"."""

from typing import Final

import numpy as np

from scheduler.candidates import Candidates
from scheduler.cell import SchedulerCell
from scheduler.engine import as_victims
from scheduler.misfit import why_not
from scheduler.model import PendingRow
from scheduler.plan import Explanation, Feasible
from scheduler.scoring import DEFAULT_POLICY, POLICIES
from scheduler.scratch import Scratch

FEASIBLE_SHOWN_MAX: Final = 5


def explain(
    cell: SchedulerCell, pending: PendingRow, now_ms: int, *, policy: str = DEFAULT_POLICY
) -> Explanation:
    """Where a task could go now if it were next in the queue, best first; or the reason why nowhere."""
    scratch = Scratch(cell, np.random.default_rng(0))
    job = pending.key.job_key
    candidates = Candidates(scratch, job, pending.shape, FEASIBLE_SHOWN_MAX, POLICIES[policy])
    wait_ms = max(pending.not_before_ms - now_ms, 0)
    names = [row.name for row in cell.rows]
    if candidates.feasible_count:
        feasible = tuple(
            Feasible(names[slot], candidates.score(slot))
            for slot in candidates.ranking(FEASIBLE_SHOWN_MAX)
        )
        return Explanation(feasible, candidates.feasible_count, wait_ms=wait_ms)
    evictions = candidates.cheapest_of_all(FEASIBLE_SHOWN_MAX)
    if not evictions:
        return Explanation(misfit=why_not(candidates), wait_ms=wait_ms)
    count = int(np.count_nonzero(candidates.evictable_mask(candidates.ask.rank)))
    feasible = tuple(
        Feasible(names[one.slot], candidates.score(one.slot), as_victims(one)) for one in evictions
    )
    return Explanation(feasible, count, wait_ms=wait_ms)
