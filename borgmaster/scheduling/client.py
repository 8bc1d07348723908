"""Owns the scheduler's process as the master sees it: starts it, feeds it, asks it, starts it anew when it dies.

All methods belong to one event loop. Feeds are sent in their order and before any later question; what waits
is merged. After a crash the source is asked for the whole cell again.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Callable
from typing import Final

from borgcell.types import TaskKey

from borgmaster.errors import BorgmasterError
from borgmaster.scheduling.messages import (
    HEADER_BYTES,
    Answer,
    AskDryRun,
    AskExplanation,
    AskPlan,
    Explained,
    Feed,
    Planned,
    Request,
    Reset,
    body_length,
    decode_answer,
    encode,
)
from scheduler.engine import PLACEMENTS_MAX
from scheduler.model import Delta, PendingRow, merge, split
from scheduler.plan import Explanation, Plan

log = logging.getLogger(__name__)

PLAN_DEADLINE_S: Final = 60.0
ASK_DEADLINE_S: Final = 20.0  # dry runs and explanations: a person waits
STUCK_S: Final = 60.0  # a process that is silent for so long while asked is killed
CLOSE_S: Final = 2.0
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0
HEALTHY_S: Final = 30.0  # a process that lived so long starts the next one without delay
FEED_ROWS_MAX: Final = 200_000  # more waiting rows are dropped for a new picture of the whole cell
FRAME_ROWS: Final = 5_000  # per frame, so that encoding never holds the event loop for long

Source = Callable[[], Delta]


class SchedulerUnavailable(BorgmasterError):
    """The scheduler's process did not answer: it is starting, has died, or has no picture of the cell yet."""


class SchedulerClient:
    """The scheduler's process; started by the first ``reset``."""

    def __init__(self, source: Source | None = None) -> None:
        self._source = source
        self._child: _Child | None = None
        self._ready = asyncio.Event()  # a child runs and has the whole cell
        self._writing = asyncio.Lock()
        self._outbox: list[Delta] = []
        self._outbox_rows = 0
        self._overflowed = False  # rows were dropped: only a new picture helps
        self._news = asyncio.Event()
        self._given: Delta | None = None  # picture by ``reset`` that was not sent yet
        self._picture_index = 0  # of the last picture: older changes are in it
        self._wanted = asyncio.Event()  # there is, or may be, somebody to get a picture from
        self._keeper: asyncio.Task[None] | None = None
        self._ids = itertools.count(1)
        self.restarts = 0

    def set_source(self, source: Source | None) -> None:
        """Who is asked for the whole cell after a crash or an overflow; None: nobody, until the next ``reset``."""
        self._source = source
        self._wanted.set()

    async def reset(self, delta: Delta) -> None:
        """Start from this picture of the cell; starts the process if none runs. Older changes that wait are dropped."""
        self._cover(delta)
        child = self._child
        if child is not None and self._ready.is_set():
            try:
                await self._send_picture(child, delta)
            except SchedulerUnavailable:
                self._given = delta  # for its successor
                self._wanted.set()
            return
        self._given = delta
        self._wanted.set()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_running(), name="scheduler")

    def feed(self, delta: Delta) -> None:
        """Tell of a change. Returns at once; it is sent before any question asked later."""
        if delta.index < self._picture_index:
            return
        self._outbox.append(delta)
        self._outbox_rows += delta.row_count()
        if self._outbox_rows > FEED_ROWS_MAX:
            log.warning("scheduler_feed_overflow", extra={"rows": self._outbox_rows})
            self._outbox, self._outbox_rows = [], 0
            self._overflowed = True
        self._news.set()

    async def plan_pass(
        self,
        *,
        seed: int,
        now_ms: int,
        tasks_max: int = PLACEMENTS_MAX,
        deadline_s: float = PLAN_DEADLINE_S,
    ) -> Plan:
        """A plan for what is pending. Raises SchedulerUnavailable."""
        answer = await self._ask(AskPlan(next(self._ids), seed, now_ms, tasks_max), deadline_s)
        assert isinstance(answer, Planned), f"asked for a plan, got {answer}"
        return answer.plan

    async def dry_run(
        self,
        pending: tuple[PendingRow, ...],
        *,
        removed: tuple[TaskKey, ...] = (),
        seed: int,
        now_ms: int,
        tasks_max: int = PLACEMENTS_MAX,
        deadline_s: float = ASK_DEADLINE_S,
    ) -> Plan:
        """What a pass would do with hypothetical tasks, with ``removed`` ones gone. Raises SchedulerUnavailable."""
        question = AskDryRun(next(self._ids), pending, removed, seed, now_ms, tasks_max)
        answer = await self._ask(question, deadline_s)
        assert isinstance(answer, Planned), f"asked for a plan, got {answer}"
        return answer.plan

    async def explain(
        self, pending: PendingRow, *, now_ms: int, deadline_s: float = ASK_DEADLINE_S
    ) -> Explanation:
        """Where a task could go, or why nowhere. Raises SchedulerUnavailable."""
        answer = await self._ask(AskExplanation(next(self._ids), pending, now_ms), deadline_s)
        assert isinstance(answer, Explained), f"asked for an explanation, got {answer}"
        return answer.explanation

    @property
    def pid(self) -> int:
        """Process id of the child; 0 when none runs."""
        return 0 if self._child is None else self._child.pid

    async def close(self) -> None:
        """End the process. Idempotent; a later ``reset`` starts a new one."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        self._outbox, self._outbox_rows, self._given = [], 0, None

    async def _ask(
        self, question: AskPlan | AskDryRun | AskExplanation, deadline_s: float
    ) -> Answer:
        if self._keeper is None:
            raise SchedulerUnavailable("it has not been started")
        child: _Child | None = None
        try:
            async with asyncio.timeout(deadline_s):
                child = await self._ready_child()
                answer = child.expect(question.id)
                await self._send(child, question)
                return await answer
        except TimeoutError:
            if child is not None and child.silent_s() > STUCK_S:
                log.warning("scheduler_stuck", extra={"pid": child.pid})
                child.kill()
            raise SchedulerUnavailable(f"no answer within {deadline_s:g} s") from None
        finally:
            if child is not None:
                child.forget(question.id)

    async def _ready_child(self) -> "_Child":
        while self._child is None or not self._ready.is_set():
            await self._ready.wait()
        return self._child

    async def _send(self, child: "_Child", question: Request | None) -> None:
        """Send what waits, then the question. Raises SchedulerUnavailable."""
        async with self._writing:
            if self._overflowed:
                await self._write_picture(child, self._picture())
            waiting, self._outbox, self._outbox_rows = self._outbox, [], 0
            self._news.clear()
            if waiting:
                for part in split(merge(waiting), FRAME_ROWS):
                    await child.write(Feed(part))
            if question is not None:
                await child.write(question)

    async def _send_picture(self, child: "_Child", delta: Delta) -> None:
        async with self._writing:
            await self._write_picture(child, delta)

    async def _write_picture(self, child: "_Child", delta: Delta) -> None:
        for number, part in enumerate(split(delta, FRAME_ROWS)):
            await child.write(Feed(part) if number else Reset(part))
            await asyncio.sleep(0)  # let others run between frames

    def _picture(self) -> Delta:
        """The whole cell, from ``reset`` or the source. Raises SchedulerUnavailable when there is neither."""
        given, self._given = self._given, None
        if given is None:
            if self._source is None:
                raise SchedulerUnavailable("it has no picture of the cell")
            given = self._source()
            self._cover(given)
        return given

    def _cover(self, picture: Delta) -> None:
        """Drop waiting changes that a picture holds already: merged with newer ones they would undo it."""
        self._picture_index = picture.index
        self._overflowed = False
        self._outbox = [delta for delta in self._outbox if delta.index > picture.index]
        self._outbox_rows = sum(delta.row_count() for delta in self._outbox)

    async def _keep_running(self) -> None:
        """One child after the other, with back-off, until cancelled."""
        loop = asyncio.get_running_loop()
        backoff_s = 0.0
        while True:
            while self._given is None and self._source is None:
                self._wanted.clear()
                await self._wanted.wait()
            started_s = loop.time()
            try:
                await self._run_child()
            except OSError as error:
                log.warning("scheduler_not_started", extra={"detail": str(error)})
            except Exception:  # the loop's top: a failing source must not end scheduling
                log.exception("scheduler_bug")
            self.restarts += 1
            if loop.time() - started_s > HEALTHY_S:
                backoff_s = 0.0
            backoff_s = min(max(2 * backoff_s, BACKOFF_FIRST_S), BACKOFF_MAX_S)
            await asyncio.sleep(backoff_s)

    async def _run_child(self) -> None:
        child = await _Child.start()
        self._child = child
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child.read_answers())
                group.create_task(self._feed_child(child))
        except* SchedulerUnavailable as errors:
            details = "; ".join(str(error) for error in errors.exceptions)
            log.warning("scheduler_ended", extra={"pid": child.pid, "detail": details})
        finally:
            self._ready.clear()
            self._child = None
            await child.end()

    async def _feed_child(self, child: "_Child") -> None:
        await self._send_picture(child, self._picture())
        while self._given is not None:  # a ``reset`` came meanwhile
            await self._send_picture(child, self._picture())
        self._ready.set()
        log.info("scheduler_started", extra={"pid": child.pid})
        while True:
            await self._news.wait()
            await self._send(child, None)


class _Child:
    """One process and the questions it has not answered yet."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None, "stdin is a pipe"
        assert process.stdout is not None, "stdout is a pipe"
        self.pid = process.pid
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._expected: dict[int, asyncio.Future[Answer]] = {}
        self._heard_s = asyncio.get_running_loop().time()

    @classmethod
    async def start(cls) -> "_Child":
        """Start a process. Raises OSError."""
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "borgmaster.scheduling.worker",
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )

    def expect(self, id: int) -> "asyncio.Future[Answer]":
        """The answer to a question that is about to be asked."""
        loop = asyncio.get_running_loop()
        if not self._expected:
            self._heard_s = loop.time()
        return self._expected.setdefault(id, loop.create_future())

    def forget(self, id: int) -> None:
        """Nobody waits for this answer any more."""
        future = self._expected.pop(id, None)
        if future is not None and not future.cancel() and not future.cancelled():
            future.exception()  # seen: the loop need not complain about it

    def silent_s(self) -> float:
        """For how long it has been asked and has answered nothing."""
        return asyncio.get_running_loop().time() - self._heard_s

    async def write(self, message: Request) -> None:
        """Send a message once there is room for it. Raises SchedulerUnavailable."""
        try:
            self._stdin.write(encode(message))
            await self._stdin.drain()
        except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError on a closed transport
            raise SchedulerUnavailable(f"its pipe is closed: {error}") from error

    async def read_answers(self) -> None:
        """Hand answers to those who wait, until the process ends; always raises SchedulerUnavailable."""
        try:
            while True:
                header = await self._stdout.readexactly(HEADER_BYTES)
                body = await self._stdout.readexactly(body_length(header))
                answer = decode_answer(body)
                self._heard_s = asyncio.get_running_loop().time()
                future = self._expected.pop(answer.id, None)
                if future is not None and not future.done():
                    future.set_result(answer)
        except (asyncio.IncompleteReadError, OSError, ValueError) as error:
            raise SchedulerUnavailable(f"its process {self.pid} ended") from error

    def kill(self) -> None:
        """Kill the process; the reader notices."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Close its stdin, wait, kill it if that does not help; whoever waits for an answer learns of it."""
        for future in self._expected.values():
            if not future.done():
                future.set_exception(SchedulerUnavailable("its process ended before it answered"))
        self._stdin.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
