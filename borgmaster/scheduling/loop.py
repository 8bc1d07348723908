"""Owns when the leader schedules: after changes and on timers, pass after pass while there is something to place."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from borgcell.types import TaskKey

from borgmaster.errors import BorgmasterError, NotLeader
from borgmaster.ports import Clock
from borgmaster.replica import Replica
from borgmaster.scheduling import feed
from borgmaster.scheduling.client import SchedulerClient, SchedulerUnavailable
from borgmaster.state.cell import CellState
from borgmaster.state.commands import Command, Placed, PlaceTasks
from borgmaster.state.core import Applied
from borgmaster.state.events import Event
from borgmaster.state.outcome import Accepted, Outcome
from scheduler.model import PendingRow
from scheduler.plan import Explanation, Placement, Plan

log = logging.getLogger(__name__)

RETRY_MS: Final = 5_000  # tasks that fit nowhere are tried again so often, whatever changed
PAUSE_AFTER_ERROR_S: Final = 0.5
PLACEMENTS_PER_COMMAND: Final = 200
TASKS_PER_PASS: Final = 20_000

Propose = Callable[[list[Command]], Coroutine[Any, Any, tuple[Outcome, ...]]]


class SchedulingLoop:
    """Schedules for one leadership; ``pending_reasons`` is why tasks wait, from the last pass."""

    def __init__(
        self, *, replica: Replica, client: SchedulerClient, propose: Propose, clock: Clock
    ) -> None:
        self.pending_reasons: dict[TaskKey, str] = {}
        self._replica = replica
        self._client = client
        self._propose = propose
        self._clock = clock
        self._events: list[Event] = []
        self._replaced = False
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="scheduling")

    def take(self, applied: Applied | None) -> None:
        """Follow an applied entry. None: the whole state was replaced."""
        if applied is None:
            self._replaced = True
        elif applied.events:
            self._events.extend(applied.events)
        else:
            return
        self._news.set()

    async def dry_run(
        self, pending: tuple[PendingRow, ...], removed: tuple[TaskKey, ...], now_ms: int
    ) -> Plan:
        """What a pass would do with hypothetical tasks. Raises SchedulerUnavailable."""
        await self._feed()
        seed = self._replica.read(lambda cell: cell.applied_index)
        return await self._client.dry_run(pending, removed=removed, seed=seed, now_ms=now_ms)

    async def explain(self, row: PendingRow, now_ms: int) -> Explanation:
        """Where a pending task could go, or why nowhere. Raises SchedulerUnavailable."""
        await self._feed()
        return await self._client.explain(row, now_ms=now_ms)

    async def close(self) -> None:
        """Stop scheduling; the scheduler's process is kept for the next leadership."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._client.set_source(None)

    async def _run(self) -> None:
        self._client.set_source(lambda: self._replica.read(feed.full))
        await self._client.reset(self._replica.read(feed.full))
        wait_ms = 0
        while True:
            await self._wait_news(wait_ms)
            try:
                wait_ms = await self._schedule()
            except NotLeader:
                wait_ms = RETRY_MS  # the lease is gone: close() comes
            except (BorgmasterError, SchedulerUnavailable) as error:
                log.warning("scheduling_retry", extra={"detail": str(error)})
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)
                wait_ms = 0
            except Exception:  # the loop's top: one bad pass must not end scheduling
                log.exception("scheduling_bug")
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)
                wait_ms = RETRY_MS

    async def _wait_news(self, wait_ms: int) -> None:
        if wait_ms > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._news.wait()

    async def _feed(self) -> None:
        """Tell the scheduler what has changed since it was last told."""
        self._news.clear()
        events, self._events = self._events, []
        if self._replaced:  # a feed removes nothing: what vanished must not stay in the copy
            self._replaced = False
            await self._client.reset(self._replica.read(feed.full))
        elif events:
            self._client.feed(self._replica.read(lambda cell: feed.delta(cell, tuple(events))))

    async def _schedule(self) -> int:
        """One pass; how long to wait for the next if nothing changes, in ms (0: go on at once)."""
        await self._feed()
        seed, is_pending = self._replica.read(_standing)
        if not is_pending:
            self.pending_reasons = {}
            return RETRY_MS
        now_ms = self._clock.wall_ms()
        plan = await self._client.plan_pass(seed=seed, now_ms=now_ms, tasks_max=TASKS_PER_PASS)
        self.pending_reasons = {
            TaskKey(group.job.user, group.job.name, index): group.misfit.summary
            for group in plan.unplaced
            for index in group.indexes
        }
        placed = await self._place(plan.placements)
        if plan.left and placed:
            return 0
        if plan.wake_at_ms:
            return max(1, min(RETRY_MS, plan.wake_at_ms - self._clock.wall_ms()))
        return RETRY_MS

    async def _place(self, placements: tuple[Placement, ...]) -> int:
        """Propose the placements; how many the state accepted."""
        if not placements:
            return 0
        commands: list[Command] = [
            PlaceTasks(
                tuple(_placed(one) for one in placements[start : start + PLACEMENTS_PER_COMMAND])
            )
            for start in range(0, len(placements), PLACEMENTS_PER_COMMAND)
        ]
        outcomes = await self._propose(commands)
        accepted = sum(one.tasks_affected for one in outcomes if isinstance(one, Accepted))
        if accepted < len(placements):  # stale by design now and then (B15 §3.4); often is a bug
            log.info(
                "placements_refused",
                extra={"refused": len(placements) - accepted, "of": len(placements)},
            )
        return accepted


def _standing(cell: CellState) -> tuple[int, bool]:
    return cell.applied_index, bool(cell.indexes.pending)


def _placed(placement: Placement) -> Placed:
    return Placed(
        task=placement.key,
        incarnation=placement.incarnation,
        machine=placement.machine,
        victims=tuple((victim.key, victim.incarnation) for victim in placement.victims),
    )
