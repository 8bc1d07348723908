"""Owns one link to a master: its polls wait here for news, its assignments go to the agent.

Every poll is answered by exactly one report, in order: at once with news, otherwise when its hold is over.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

from borgcell.v1 import borglet_pb2

from borglet import wire
from borglet.agent import Agent, Published
from borglet.report import changes
from borglet.runtime.port import ContainerId
from borglet.values import Facts, Status

log = logging.getLogger(__name__)

HOLD_MS_MAX: Final = 60_000
POLLS_MAX: Final = 16  # waiting at a time; a master that sends more is broken


class TooManyPolls(Exception):
    """The master polls faster than it reads."""


class MasterLink:
    """State of one link from its Hello on."""

    def __init__(self, agent: Agent, *, term: int, leader: str) -> None:
        self.term = term
        self.leader = leader
        self.superseded = asyncio.Event()
        self._agent = agent
        self._polls: asyncio.Queue[borglet_pb2.Poll | None] = asyncio.Queue(POLLS_MAX)
        self._stir = asyncio.Event()  # something happened that a held poll may care for
        self._sent: Mapping[ContainerId, Status] | None = None
        self._sent_facts: tuple[Facts, str] | None = None
        self._sent_revision = 0
        self._revision = 0  # of the last assignment that came on this link

    def supersede(self) -> None:
        """A newer link takes over."""
        self.superseded.set()
        self._stir.set()

    async def listen(self, requests: AsyncIterator[borglet_pb2.LinkRequest]) -> None:
        """Take the master's messages until it sends no more."""
        async for request in requests:
            match request.WhichOneof("message"):
                case "poll":
                    self._put(request.poll)
                case "assignment" if not self.superseded.is_set():
                    self._assign(request.assignment)
                case _:
                    log.warning("link_message_ignored", extra={"leader": self.leader})
        self._put(None)

    def _put(self, poll: borglet_pb2.Poll | None) -> None:
        try:
            self._polls.put_nowait(poll)
        except asyncio.QueueFull:
            raise TooManyPolls(f"{POLLS_MAX} polls wait for their reports") from None

    def _assign(self, message: borglet_pb2.Assignment) -> None:
        assignment = wire.assignment_from_wire(message)
        if self._agent.assign(assignment):
            self._revision = max(self._revision, assignment.revision)

    async def reports(self) -> AsyncGenerator[borglet_pb2.LinkResponse, None]:
        """One report per poll, until the master sends no more or a newer link takes over."""
        unlisten = self._agent.listen(self._stir.set)
        try:
            await self._agent.ready.wait()
            while not self.superseded.is_set():
                poll = await self._next_poll()
                if poll is None:
                    return
                await self._hold(min(poll.hold_ms, HOLD_MS_MAX) / 1000)
                if not self.superseded.is_set():
                    yield self._report(poll.sequence)
        finally:
            unlisten()

    async def _next_poll(self) -> borglet_pb2.Poll | None:
        getter = asyncio.create_task(self._polls.get())
        superseded = asyncio.create_task(self.superseded.wait())
        try:
            await asyncio.wait((getter, superseded), return_when=asyncio.FIRST_COMPLETED)
            return getter.result() if getter.done() else None
        finally:
            getter.cancel()
            superseded.cancel()

    async def _hold(self, hold_s: float) -> None:
        """Wait for news, at most so long."""
        try:
            async with asyncio.timeout(hold_s):
                while not self._has_news() and not self.superseded.is_set():
                    self._stir.clear()
                    await self._stir.wait()
        except TimeoutError:
            return

    def _has_news(self) -> bool:
        now = self._agent.published
        return (
            self._sent is None
            or (now.facts, now.not_ready) != self._sent_facts
            or self._taken_revision(now) != self._sent_revision
            or bool(changes(now.statuses, self._sent))
        )

    def _taken_revision(self, now: Published) -> int:
        """Of the last assignment of this link that the agent has taken into account; 0 if none yet."""
        term, revision = now.assigned
        return min(revision, self._revision) if term == self.term else 0

    def _report(self, sequence: int) -> borglet_pb2.LinkResponse:
        now = self._agent.published
        full = self._sent is None
        facts = (now.facts, now.not_ready)
        response = wire.report_to_wire(
            sequence=sequence,
            full=full,
            tasks=changes(now.statuses, self._sent or {}),
            facts=None if facts == self._sent_facts else now.facts,
            revision=self._taken_revision(now),
            not_ready=now.not_ready,
        )
        self._sent, self._sent_facts = now.statuses, facts
        self._sent_revision = self._taken_revision(now)
        return response
