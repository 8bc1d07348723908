"""Owns the Borglet's gRPC server: the link and the logs, health and reflection beside them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

import grpc
from borgcell.v1 import borglet_pb2, borglet_pb2_grpc, cell_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from borglet import logstream, wire
from borglet.agent import Agent
from borglet.link import MasterLink, TooManyPolls
from borglet.runtime.port import RuntimeFailed

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX: Final = 64 << 20
LOG_READERS_MAX: Final = 64
OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),  # two Borglets on one address would share its links
    # a master that vanished without a word is noticed
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

Context = grpc.aio.ServicerContext[borglet_pb2.LinkRequest, borglet_pb2.LinkResponse]
LogContext = grpc.aio.ServicerContext[borglet_pb2.ReadLogsRequest, cell_pb2.StreamLogsResponse]


class BorgletServicer(borglet_pb2_grpc.BorgletServiceServicer):
    """Serves ``borgcell.v1.BorgletService``. At most one link is open: the newest."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._link: MasterLink | None = None
        self._log_readers = 0
        self.polls_answered = 0

    async def Link(
        self, request_iterator: AsyncIterator[borglet_pb2.LinkRequest], context: Context
    ) -> AsyncIterator[borglet_pb2.LinkResponse]:
        """One master's link, until it goes or a newer one comes."""
        hello = await _first(request_iterator, context)
        await self._check(hello, context)
        link = MasterLink(self._agent, term=hello.term, leader=hello.leader)
        before, self._link = self._link, link
        if before is not None:
            before.supersede()
        await self._agent.take_term(hello.term)
        log.info("link_opened", extra={"leader": hello.leader, "term": hello.term})
        listener = asyncio.create_task(link.listen(request_iterator))
        listener.add_done_callback(lambda done: _end_on_error(done, link))
        try:
            async with contextlib.aclosing(link.reports()) as reports:
                async for report in reports:
                    self.polls_answered += 1
                    yield report
        finally:
            listener.cancel()
            if self._link is link:
                self._link = None
            log.info("link_closed", extra={"leader": hello.leader, "term": hello.term})
        await self._explain_end(link, listener, context)

    async def _check(self, hello: borglet_pb2.Hello, context: Context) -> None:
        place = self._agent.place
        refusal = ""
        if hello.cell != place.cell:
            refusal = f"this Borglet belongs to cell {place.cell}, not {hello.cell}"
        elif hello.machine != place.machine:
            refusal = f"this Borglet is machine {place.machine}, not {hello.machine}"
        elif hello.term < self._agent.term:
            refusal = f"term {hello.term} is over: this Borglet has seen term {self._agent.term}"
        if refusal:
            log.warning("link_refused", extra={"leader": hello.leader, "detail": refusal})
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)

    async def _explain_end(
        self, link: MasterLink, listener: "asyncio.Task[None]", context: Context
    ) -> None:
        error = None
        if listener.done() and not listener.cancelled():
            error = listener.exception()
        if isinstance(error, TooManyPolls):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        if link.superseded.is_set():
            term = self._agent.term
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"a newer link took over (term {term})"
            )

    async def ReadLogs(
        self, request: borglet_pb2.ReadLogsRequest, context: LogContext
    ) -> AsyncIterator[cell_pb2.StreamLogsResponse]:
        """The kept output of one incarnation."""
        id = wire.container_id(request.task, request.incarnation)
        runtime = self._agent.runtime_of(id)
        if runtime is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no log of {id} on this machine")
        if self._log_readers >= LOG_READERS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{LOG_READERS_MAX} logs are being read already"
            )
        self._log_readers += 1
        pieces = logstream.stream(
            lambda is_cancelled: runtime.read_log(
                id,
                tail_lines=request.tail_lines,
                follow=request.follow,
                is_cancelled=is_cancelled,
            )
        )
        try:
            async with contextlib.aclosing(pieces):
                first = True
                async for piece in pieces:
                    wanted = wire.STREAMS[piece.stream]
                    if request.stream not in (cell_pb2.LOG_STREAM_UNSPECIFIED, wanted):
                        continue
                    response = cell_pb2.StreamLogsResponse(data=piece.data, stream=wanted)
                    if first:
                        response.incarnation = id.incarnation
                        response.machine = self._agent.place.machine
                        first = False
                    yield response
        except LookupError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error.args[0]))
        except RuntimeFailed as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        finally:
            self._log_readers -= 1


async def _first(
    requests: AsyncIterator[borglet_pb2.LinkRequest], context: Context
) -> borglet_pb2.Hello:
    request = await anext(aiter(requests), None)
    if request is None or request.WhichOneof("message") != "hello":
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "the first message of a link must be a Hello"
        )
    return request.hello


def _end_on_error(listener: "asyncio.Task[None]", link: MasterLink) -> None:
    """A listener that failed must not leave its polls waiting for ever."""
    if not listener.cancelled() and listener.exception() is not None:
        link.supersede()


class AddressTaken(Exception):
    """The address to listen on cannot be had."""


async def serve(agent: Agent, address: str) -> tuple[grpc.aio.Server, int]:
    """A running server and the port it got. Raises AddressTaken."""
    server = grpc.aio.server(options=OPTIONS)
    borglet_pb2_grpc.add_BorgletServiceServicer_to_server(BorgletServicer(agent), server)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    service = borglet_pb2.DESCRIPTOR.services_by_name["BorgletService"].full_name
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((service, health_name, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressTaken(
            f"cannot listen on {address}: the address is taken or not this machine's"
        ) from error
    await server.start()
    for name in ("", service):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    return server, port
