"""Owns a scheduling pass: the queue in order, each task to its best machine, a reason for every other one."""

from typing import Final

import numpy as np

from scheduler.candidates import Candidates
from scheduler.cell import ClassKey, SchedulerCell
from scheduler.misfit import brief_misfit, why_not
from scheduler.plan import Placement, Plan, Unplaced, Victim
from scheduler.preemption import Eviction
from scheduler.queue import PendingClass, Queue
from scheduler.scoring import DEFAULT_POLICY, POLICIES
from scheduler.scratch import Scratch

PLACEMENTS_MAX: Final = (
    10_000  # of one pass, so that the plan fits a log entry and news are not waited for
)
MISFITS_MAX: Final = (
    256  # classes that get a full reason in one pass, at 0.2 ms each for 10,000 machines
)

_SEED_MASK: Final = (1 << 64) - 1


def plan_pass(
    cell: SchedulerCell,
    *,
    seed: int,
    now_ms: int,
    tasks_max: int = PLACEMENTS_MAX,
    policy: str = DEFAULT_POLICY,
) -> Plan:
    """What to do about the pending tasks. Reads the cell, never changes it; the same seed gives the same plan.

    At most ``tasks_max`` tasks are placed. Tasks that fit nowhere do not count against it, so that they never
    keep others from their turn. Cost: classes x machines, and a little per placement.
    """
    dice = np.random.default_rng(seed & _SEED_MASK)
    queue = Queue(cell, now_ms, dice)
    plan = _Pass(Scratch(cell, dice), policy)
    left = 0
    for level in queue.levels():
        for pending in level.classes():
            if len(plan.placements) >= tasks_max:
                break
            plan.place_next(pending)
        left += level.left()
    return Plan(
        index=cell.index,
        seed=seed,
        placements=tuple(plan.placements),
        unplaced=tuple(plan.unplaced),
        left=left,
        waiting=queue.waiting,
        wake_at_ms=queue.wake_at_ms,
    )


class _Pass:
    """A plan in the making."""

    def __init__(self, scratch: Scratch, policy: str) -> None:
        self.placements: list[Placement] = []
        self.unplaced: list[Unplaced] = []
        self._scratch = scratch
        self._weights = POLICIES[policy]
        self._candidates: dict[ClassKey, Candidates] = {}

    def place_next(self, pending: PendingClass) -> None:
        """Place the first task of a class, or give up all of them: they are alike."""
        candidates = self._candidates.get(pending.key)
        if candidates is None:
            job, shape = pending.key
            candidates = Candidates(self._scratch, job, shape, len(pending.rows), self._weights)
            self._candidates[pending.key] = candidates
        slot = candidates.best()
        if slot is not None:
            self._place(pending, candidates, slot, ())
        elif eviction := candidates.cheapest():
            self._evict_and_place(pending, candidates, eviction)
        else:
            self._give_up(pending, candidates)
        if not pending.rows:
            del self._candidates[pending.key]

    def _evict_and_place(
        self, pending: PendingClass, candidates: Candidates, eviction: Eviction
    ) -> None:
        self._scratch.evict(eviction.slot, eviction.victims)
        self._place(pending, candidates, eviction.slot, as_victims(eviction))

    def _place(
        self,
        pending: PendingClass,
        candidates: Candidates,
        slot: int,
        victims: tuple[Victim, ...],
    ) -> None:
        row = pending.rows.popleft()
        score = candidates.score(slot)
        self._scratch.place(candidates.ask, candidates.spread, slot)
        machine = self._scratch.cell.rows[slot].name
        self.placements.append(Placement(row.key, row.incarnation, machine, score, victims))

    def _give_up(self, pending: PendingClass, candidates: Candidates) -> None:
        explained = len(self.unplaced) < MISFITS_MAX
        misfit = why_not(candidates) if explained else brief_misfit(candidates)
        indexes = tuple(row.key.index for row in pending.rows)
        self.unplaced.append(Unplaced(pending.key[0], indexes, misfit))
        pending.rows.clear()


def as_victims(eviction: Eviction) -> tuple[Victim, ...]:
    """The victims of an eviction as a plan names them."""
    return tuple(Victim(row.key, row.incarnation, row.priority) for row in eviction.victims)
