"""Owns one running replica: plugs log, state, scheduler, leadership and API together, and takes them apart.

Threads: the log's own, where entries are applied; the event loop, where everything else happens. From the
first to the second go applied entries and changes of leadership, in order, by ``call_soon_threadsafe``.
"""

import asyncio
import logging
from typing import Final

import grpc
from borgcell.v1 import cell_pb2, cell_pb2_grpc, operator_pb2, operator_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from borgmaster.config import Config
from borgmaster.leadership import Leadership
from borgmaster.metrics import Metrics
from borgmaster.ports import SystemClock
from borgmaster.replica import Replica
from borgmaster.replication import LogConfig, LogFailed, ReplicatedLog
from borgmaster.rpc.calls import CHANNEL_OPTIONS, Calls
from borgmaster.rpc.cell import CellServicer
from borgmaster.rpc.operators import OperatorServicer
from borgmaster.rpc.watch import WatchHub
from borgmaster.rpc.writes import Writes
from borgmaster.scheduling.client import SchedulerClient
from borgmaster.scheduling.loop import SchedulingLoop
from borgmaster.state.core import Applied

log = logging.getLogger(__name__)

STOP_GRACE_S: Final = 2.0
SERVICES: Final = (
    cell_pb2.DESCRIPTOR.services_by_name["CellService"].full_name,
    operator_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name,
    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
    reflection.SERVICE_NAME,
)


class AddressInUse(Exception):
    """The API's address cannot be bound."""


class Server:
    """One replica; ``run`` until ``stop`` or a fatal error."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[LogFailed | None] = self._loop.create_future()
        self._replica = Replica(config.cell)
        self._hub = WatchHub()
        self._scheduler = SchedulerClient()
        self._leadership: Leadership | None = None
        self._leadership_changes: asyncio.Queue[tuple[bool, int]] = asyncio.Queue()
        self._metrics = Metrics(config, self._replica)

    def stop(self) -> None:
        """End ``run`` in good order."""
        self._end(None)

    async def run(self) -> LogFailed | None:
        """Serve until stopped; why the log failed, if it did. Raises AddressInUse, LogFailed, OSError."""
        config = self._config
        self._replica.listen(self._on_applied)
        grpc_server = grpc.aio.server(options=CHANNEL_OPTIONS)
        if grpc_server.add_insecure_port(config.me.api_address) == 0:
            raise AddressInUse(config.me.api_address)
        command_log = await asyncio.to_thread(self._open_log)
        calls = Calls(config, self._replica, command_log, self._clock)
        checker = self._add_services(grpc_server, calls)
        follower = asyncio.create_task(self._follow_leadership(command_log), name="leadership")
        await grpc_server.start()
        self._metrics.serve(command_log)
        for service in ("", *SERVICES):
            await checker.set(service, health_pb2.HealthCheckResponse.SERVING)
        log.info(
            "replica_serving",
            extra={"cell": config.cell, "replica": config.name, "address": config.me.api_address},
        )
        try:
            return await self._ended
        finally:
            await checker.enter_graceful_shutdown()
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await self._close_leadership()
            # clients go to the next leader while the rest of this one ends
            await asyncio.to_thread(command_log.close)
            await grpc_server.stop(STOP_GRACE_S)
            await calls.close()
            await self._scheduler.close()
            self._metrics.close()

    def _open_log(self) -> ReplicatedLog:
        config = self._config
        return ReplicatedLog(
            LogConfig(
                name=config.name,
                listen=config.me.raft_address,
                members={member.name: member.raft_address for member in config.members},
                directory=config.state_dir / "raft",
                cell=config.cell,
                start=config.start,
                allow_plain_network=config.allow_remote_plaintext,
            ),
            self._replica,
            self._clock,
            self._on_leadership,
            self._on_fatal,
        )

    def _add_services(self, grpc_server: grpc.aio.Server, calls: Calls) -> health.HealthServicer:
        writes = Writes(self._config.cell, self._replica, calls.log, self._clock)
        cell_pb2_grpc.add_CellServiceServicer_to_server(
            CellServicer(calls, writes, self._hub, self._scheduling), grpc_server
        )
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(
            OperatorServicer(calls, writes), grpc_server
        )
        checker = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checker, grpc_server)
        reflection.enable_server_reflection(SERVICES, grpc_server)
        return checker

    def _scheduling(self) -> SchedulingLoop | None:
        return None if self._leadership is None else self._leadership.scheduling

    # From the log's thread.

    def _on_applied(self, applied: Applied | None) -> None:
        self._call(self._take, applied)

    def _on_leadership(self, leading: bool, term: int) -> None:  # noqa: FBT001 - the log's callback
        self._call(self._leadership_changes.put_nowait, (leading, term))

    def _on_fatal(self, failure: LogFailed) -> None:
        self._call(self._end, failure)

    def _call(self, function: "object", *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
        except RuntimeError:
            log.debug("event_loop_closed")  # the process is ending; nobody is left to tell

    # In the event loop.

    def _end(self, failure: LogFailed | None) -> None:
        if not self._ended.done():
            self._ended.set_result(failure)

    def _take(self, applied: Applied | None) -> None:
        if self._leadership is not None:
            self._leadership.take(applied)
        self._hub.wake()

    async def _follow_leadership(self, command_log: ReplicatedLog) -> None:
        """Start and end leaderships in the order the log tells; skip those that are over already."""
        while True:
            leading, term = await self._leadership_changes.get()
            while not self._leadership_changes.empty():
                leading, term = self._leadership_changes.get_nowait()
            await self._close_leadership()
            log.info(
                "leadership_changed",
                extra={"replica": self._config.name, "leading": leading, "term": term},
            )
            if leading:
                self._leadership = Leadership(
                    config=self._config,
                    replica=self._replica,
                    command_log=command_log,
                    scheduler=self._scheduler,
                    clock=self._clock,
                    term=term,
                )

    async def _close_leadership(self) -> None:
        leadership, self._leadership = self._leadership, None
        if leadership is not None:
            await leadership.close()
