"""Owns how a call is run: refusals become statuses, and what only the leader can do goes to the leader."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
from borgcell.v1 import cell_pb2
from google.protobuf.message import Message

from borgmaster.config import Config
from borgmaster.errors import BorgmasterError, NotLeader
from borgmaster.ports import Clock, CommandLog
from borgmaster.replica import Replica
from borgmaster.rpc import status

log = logging.getLogger(__name__)

FORWARDED_KEY: Final = (
    "borg-forwarded-by"  # set on forwarded calls, so that they are forwarded once only
)
FORWARD_TIMEOUT_S: Final = 20.0
ASK_LEADER_TIMEOUT_S: Final = 2.0
CATCH_UP_MS_MAX: Final = 1_000  # a replica that lags more answers late reads as stale as it is
CATCH_UP_POLL_S: Final = 0.005
MESSAGE_BYTES_MAX: Final = 8 << 20  # a spec has at most 4 MiB; answers are paged
CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

R = TypeVar("R", bound=Message)


class Calls:
    """Runs calls on one replica."""

    def __init__(
        self, config: Config, replica: Replica, command_log: CommandLog, clock: Clock
    ) -> None:
        self.config = config
        self.replica = replica
        self.log = command_log
        self.clock = clock
        self._channels: dict[str, grpc.aio.Channel] = {}

    def freshness(self, index: int) -> cell_pb2.Freshness:
        """How fresh an answer is whose data was read *before* this call, at a log index.

        The lease is looked at after the reading, so an answer marked ``leader`` is linearizable.
        """
        standing = self.log.status()
        return cell_pb2.Freshness(
            replica=self.config.name,
            leader=standing.leading,
            index=index,
            age_ms=0 if standing.leading else standing.current_age_ms,
        )

    async def run(
        self, context: "grpc.aio.ServicerContext[Any, Any]", answer: Callable[[], Awaitable[R]]
    ) -> R:
        """The answer of this replica; refusals and failures end the call with a status."""
        try:
            return await answer()
        except status.Refused as refused:
            await status.abort(context, refused)
        except BorgmasterError as error:
            await status.abort(context, status.from_error(error))

    async def run_on_leader(
        self,
        context: "grpc.aio.ServicerContext[Any, Any]",
        method: str,
        request: Message,
        response_type: type[R],
        answer: Callable[[], Awaitable[R]],
    ) -> R:
        """The answer of the leader: ours if we lead, otherwise what the leader says to the same request."""

        async def answer_or_forward() -> R:
            if self.log.leading():
                try:
                    return await answer()
                except NotLeader:
                    pass  # lost meanwhile, before the command entered the log
            return await self._forward(context, method, request, response_type)

        return await self.run(context, answer_or_forward)

    async def _forward(
        self,
        context: "grpc.aio.ServicerContext[Any, Any]",
        method: str,
        request: Message,
        response_type: type[R],
    ) -> R:
        leader = self.config.member(self.log.status().leader)
        metadata = dict(context.invocation_metadata() or ())
        if leader is None or leader.name == self.config.name or FORWARDED_KEY in metadata:
            raise status.no_leader()
        channel = self._channel(leader.api_address)
        call = channel.unary_unary(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        remaining = context.time_remaining()
        try:
            response: R = await call(
                request,
                timeout=FORWARD_TIMEOUT_S
                if remaining is None
                else min(remaining, FORWARD_TIMEOUT_S),
                metadata=((FORWARDED_KEY, self.config.name),),
            )
        except grpc.aio.AioRpcError as error:
            # pass the leader's refusal on as it is, with its details
            await context.abort(
                error.code(), error.details() or "", tuple(error.trailing_metadata() or ())
            )
        await self._catch_up(response)
        return response

    async def ask_leader(self, method: str, request: Message, response_type: type[R]) -> R | None:
        """What the leader answers; None when we lead, nobody does, or it does not answer soon."""
        leader = self.config.member(self.log.status().leader)
        if leader is None or leader.name == self.config.name:
            return None
        call = self._channel(leader.api_address).unary_unary(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        try:
            response: R = await call(
                request,
                timeout=ASK_LEADER_TIMEOUT_S,
                metadata=((FORWARDED_KEY, self.config.name),),
            )
        except grpc.aio.AioRpcError:
            return None
        return response

    async def _catch_up(self, response: Message) -> None:
        """Wait until this replica has applied what was just written through it: its clients read their writes."""
        index = getattr(response, "index", 0)
        deadline_ms = self.clock.mono_ms() + CATCH_UP_MS_MAX
        while (
            index > self.replica.read(lambda cell: cell.applied_index)
            and self.clock.mono_ms() < deadline_ms
        ):
            await asyncio.sleep(CATCH_UP_POLL_S)

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return self._channels[address]

    async def close(self) -> None:
        """Close the channels to the other replicas."""
        for channel in self._channels.values():
            await channel.close()
