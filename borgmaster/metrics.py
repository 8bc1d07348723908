"""Owns what a replica tells Prometheus: standing in the log, and aggregates of the cell; never per task."""

from collections.abc import Iterator
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from borgmaster.config import Config
from borgmaster.ports import CommandLog
from borgmaster.replica import Replica
from borgmaster.state.cell import CellState
from borgmaster.state.views import state_counts


class _StateCollector(Collector):
    """Reads log and state at the time of the scrape."""

    def __init__(self, config: Config, replica: Replica, command_log: CommandLog) -> None:
        self._labels = {"cell": config.cell, "replica": config.name}
        self._replica = replica
        self._log = command_log

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All metrics."""
        standing = self._log.status()
        yield self._gauge("borgmaster_raft_term", "Raft term.", standing.term)
        yield self._gauge(
            "borgmaster_raft_leading",
            "1 when this replica leads and holds its lease.",
            standing.leading,
        )
        yield self._gauge(
            "borgmaster_raft_applied_index", "Log index applied.", standing.applied_index
        )
        yield self._gauge(
            "borgmaster_raft_commit_index", "Log index committed.", standing.commit_index
        )
        states, machines = self._replica.read(_count)
        yield self._gauge("borgmaster_machines", "Machines by state.", machines, "state")
        yield self._gauge("borgmaster_tasks", "Tasks by state.", states, "state")

    def _gauge(
        self, name: str, text: str, value: float | dict[str, int], label: str = ""
    ) -> GaugeMetricFamily:
        names = [*self._labels, *([label] if label else [])]
        family = GaugeMetricFamily(name, text, labels=names)
        rows = value if isinstance(value, dict) else {"": value}
        for key, amount in rows.items():
            family.add_metric([*self._labels.values(), *([key] if label else [])], amount)
        return family


def _count(cell: CellState) -> tuple[dict[str, int], dict[str, int]]:
    states = {state.value.lower(): count for state, count in state_counts(cell).items()}
    machines = {"up": 0, "down": 0}
    for machine in cell.machines.values():
        machines["up" if machine.up else "down"] += 1
    return states, machines


class Metrics:
    """The /metrics endpoint, when the config names an address."""

    def __init__(self, config: Config, replica: Replica) -> None:
        self._config = config
        self._replica = replica
        self._server: tuple[WSGIServer, Thread] | None = None

    def serve(self, command_log: CommandLog) -> None:
        """Answer scrapes from now on. Raises OSError when the address cannot be bound."""
        if not self._config.metrics_address:
            return
        host, _, port = self._config.metrics_address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(_StateCollector(self._config, self._replica, command_log))
        self._server = start_http_server(int(port), host, registry)

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
