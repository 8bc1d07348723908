"""Owns the link to one machine: one stream, the master's pace, the machine's desired state at once.

Order on a new stream: Hello, Poll, full report, its differences committed, and only then the first
Assignment. So a task that the machine has forgotten is recorded as lost before it could be started twice.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import grpc
from borgcell.convert import WireError
from borgcell.types import TaskKey
from borgcell.v1 import borglet_pb2, borglet_pb2_grpc

from borgmaster.errors import BorgmasterError
from borgmaster.links import diff, wire
from borgmaster.replica import Replica
from borgmaster.state.cell import CellState
from borgmaster.state.commands import Command, MarkMachine, Reported, ReportTasks, SetMachineFacts
from borgmaster.state.model import Machine, Task
from borgmaster.state.outcome import Outcome
from borgmaster.state.views import desired_tasks

log = logging.getLogger(__name__)

POLL_HOLD_MS: Final = 2_000  # B15 §3.3: "every few seconds"; news does not wait for it
REPLY_TIMEOUT_S: Final = 3 * POLL_HOLD_MS / 1000
CONNECT_TIMEOUT_S: Final = 5.0
RETRY_S: Final = (0.2, 0.5, 1.0, 2.0)  # pauses between attempts, the last one repeats
MESSAGE_BYTES_MAX: Final = 64 << 20
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # gRPC's own back-off would hide a machine that is back; we pace the attempts ourselves
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

Propose = Callable[[list[Command]], Coroutine[Any, Any, tuple[Outcome, ...]]]
Stream = grpc.aio.StreamStreamCall[borglet_pb2.LinkRequest, borglet_pb2.LinkResponse]


class LinkContext:
    """What all links of a shard share."""

    def __init__(
        self,
        *,
        cell: str,
        leader: str,
        term: int,
        replica: Replica,
        propose: Propose,
        may_instruct: Callable[[], bool],
        heard: Callable[[str], None],
    ) -> None:
        self.cell = cell
        self.leader = leader
        self.term = term
        self.replica = replica
        self.propose = propose
        self.may_instruct = may_instruct
        self.heard = heard


class Link:
    """Keeps one machine informed and listens to it, until cancelled."""

    def __init__(self, context: LinkContext, machine: str, address: str) -> None:
        self.machine = machine
        self.address = address
        self.trouble = ""  # why the machine cannot be reached; "" while it can
        self._context = context
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._revision = 0
        self._sequence = 0
        self._acknowledged: set[tuple[TaskKey, int]] = set()
        self._ended: dict[tuple[TaskKey, int], Reported] = {}

    def wake(self) -> None:
        """The machine's desired state may have changed: send it."""
        self._changed.set()

    async def run(self) -> None:
        """Link, and link again after every failure, until cancelled."""
        failures = 0
        while True:
            try:
                async with grpc.aio.insecure_channel(
                    self.address, options=CHANNEL_OPTIONS
                ) as channel:
                    async with asyncio.timeout(CONNECT_TIMEOUT_S):
                        await channel.channel_ready()
                    failures = 0
                    await self._talk(borglet_pb2_grpc.BorgletServiceStub(channel).Link())
                self._fail("the Borglet closed the link")
            except grpc.aio.AioRpcError as error:
                self._fail(f"{error.details() or error.code().name.lower()}")
            except TimeoutError:
                self._fail(f"no answer from {self.address}")
            except (BorgmasterError, WireError) as error:
                self._fail(str(error))
            except (
                Exception
            ):  # the loop's top: a bug in one report must not cut the machine off for good
                self._fail("internal error of the master (see its log)")
                log.exception("link_bug", extra={"machine": self.machine})
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
            failures += 1

    def _fail(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("link_failed", extra={"machine": self.machine, "detail": trouble})
        self.trouble = trouble

    async def _talk(self, stream: Stream) -> None:
        context = self._context
        self._acknowledged.clear()
        self._ended.clear()
        hello = borglet_pb2.Hello(
            cell=context.cell, machine=self.machine, term=context.term, leader=context.leader
        )
        try:
            await self._send(stream, borglet_pb2.LinkRequest(hello=hello))
            await self._poll(stream)
            await self._take(await self._receive(stream), first=True)
            self.trouble = ""
            await self._assign(stream)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(stream))
                group.create_task(self._instruct(stream))
        except BaseExceptionGroup as group_error:  # of the task group: its first cause tells all
            raise _first(group_error) from None
        finally:
            stream.cancel()

    async def _listen(self, stream: Stream) -> None:
        """Poll, take the report, poll again."""
        while True:
            await self._poll(stream)
            await self._take(await self._receive(stream), first=False)

    async def _instruct(self, stream: Stream) -> None:
        """Send the desired state whenever it changed."""
        while True:
            await self._changed.wait()
            await self._assign(stream)

    async def _send(self, stream: Stream, request: borglet_pb2.LinkRequest) -> None:
        async with self._writing:  # gRPC allows one write at a time on a stream
            await stream.write(request)

    async def _poll(self, stream: Stream) -> None:
        self._sequence += 1
        poll = borglet_pb2.Poll(sequence=self._sequence, hold_ms=POLL_HOLD_MS)
        await self._send(stream, borglet_pb2.LinkRequest(poll=poll))

    async def _receive(self, stream: Stream) -> borglet_pb2.Report:
        # not wait_for: Python 3.11's loses a cancellation that comes together with the result
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            response = await stream.read()
        if not isinstance(response, borglet_pb2.LinkResponse):  # EOF: raise what ended the stream
            raise grpc.aio.AioRpcError(
                await stream.code(),
                await stream.initial_metadata(),
                await stream.trailing_metadata(),
                details=await stream.details() or "the Borglet closed the link",
            )
        self._context.heard(self.machine)
        return response.report

    async def _assign(self, stream: Stream) -> None:
        self._changed.clear()
        if not self._context.may_instruct():  # the lease is gone: say nothing more (DESIGN §5)
            return
        tasks = self._context.replica.read(self._desired)
        self._revision += 1
        assignment = borglet_pb2.Assignment(
            term=self._context.term,
            revision=self._revision,
            tasks=tasks,
            acknowledged=[wire.incarnation_message(*one) for one in sorted(self._acknowledged)],
        )
        self._acknowledged.clear()
        await self._send(stream, borglet_pb2.LinkRequest(assignment=assignment))

    def _desired(self, cell: CellState) -> list[borglet_pb2.DesiredTask]:
        return [wire.desired_task(task, spec) for task, spec in desired_tasks(cell, self.machine)]

    async def _take(self, report: borglet_pb2.Report, *, first: bool) -> None:
        """Commit what is new in a report, then acknowledge the ends that are recorded."""
        reports = [wire.reported(message) for message in report.tasks]
        machine, tasks = self._context.replica.read(self._known)
        if machine is None:  # removed meanwhile; the shard will cancel this link
            return
        news = list(diff.news(tasks, reports))
        if first:
            news += diff.missing(tasks, reports)
        commands: list[Command] = []
        if report.HasField("facts"):
            facts = wire.machine_facts(self.machine, report)
            if not _same_facts(machine, facts):
                commands.append(facts)
        if not machine.up:
            commands.append(MarkMachine(self.machine, up=True))
        if news:
            commands.append(ReportTasks(self.machine, tuple(news)))
        if commands:
            await self._context.propose(commands)
        for one in reports:
            if one.phase == "ended":
                self._ended[(one.task, one.incarnation)] = one
        if self._ended:
            _, tasks = self._context.replica.read(self._known)
            done = diff.acknowledged(tasks, self._ended.values())
            for ended in done:
                del self._ended[ended]
            self._acknowledged.update(done)
            self._changed.set()

    def _known(self, cell: CellState) -> tuple[Machine | None, dict[TaskKey, Task]]:
        tasks = {task.key: task for task, _ in desired_tasks(cell, self.machine)}
        return cell.machines.get(self.machine), tasks


def _same_facts(machine: Machine, facts: SetMachineFacts) -> bool:
    return (
        machine.capacity == facts.capacity
        and machine.attributes == facts.attributes
        and machine.port_first == facts.port_first
        and machine.port_last == facts.port_last
        and machine.detail == facts.detail
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
