"""Owns the Borglet's metrics; labels come from closed sets only."""

import collections
from collections.abc import Iterable

from borgcell.types import TaskPhase
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from borglet.values import Status


class Metrics:
    """Counters of one Borglet, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.polls = Counter("borglet_polls", "Polls answered", registry=self.registry)
        self.starts = Counter(
            "borglet_starts", "Starts of containers", ["result"], registry=self.registry
        )
        self.ends = Counter(
            "borglet_ends", "Incarnations that ended", ["kind"], registry=self.registry
        )
        self.start_seconds = Histogram(
            "borglet_start_seconds",
            "Time a runtime took to start a container",
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "borglet_reconcile_seconds", "Time of one reconcile", registry=self.registry
        )
        self.tasks = Gauge("borglet_tasks", "Tasks by phase", ["phase"], registry=self.registry)
        self.ready = Gauge(
            "borglet_ready", "1 when the machine takes tasks", registry=self.registry
        )

    def observe(self, statuses: Iterable[Status], *, ready: bool) -> None:
        """Count the tasks as they are now."""
        counts = collections.Counter(status.phase for status in statuses)
        for phase in TaskPhase:
            self.tasks.labels(phase.value).set(counts[phase])
        self.ready.set(ready)

    def serve(self, host: str, port: int) -> None:
        """Expose them over HTTP. Raises OSError."""
        start_http_server(port, host, registry=self.registry)
