"""Owns waiting until a Docker container may have ended, without a thread of its own.

Three sources, none trusted alone: the engine's events (fast, lost when it restarts), a look at the list of
containers after each connection and every 30 s, and the kernel's counters, read every second, because an engine
does not always tell that the kernel killed a child of a container for memory (runtime.md §1.2).
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Final

from borglet.runtime.docker_stream import EngineStream, StreamRefused, format_time
from borglet.runtime.port import RuntimeFailed

_SAMPLE_S: Final = 1.0
_LOOK_S: Final = 30.0
_RETRY_S: Final = 0.5
_LINE_BYTES_MAX: Final = 1 << 20


class EndWatch:
    """Waits for ends. ``wait`` belongs to one thread; ``close`` may come from any."""

    def __init__(
        self,
        url: str,
        labels: list[str],
        *,
        timeout_s: float,
        has_ended: Callable[[], bool],
        sample: Callable[[], None],
        on_oom: Callable[[str], None],
    ) -> None:
        """``has_ended`` asks the engine (may raise RuntimeFailed); ``on_oom`` is given the engine's id."""
        self._url = url
        self._filters = json.dumps(
            {"type": ["container"], "event": ["die", "oom"], "label": labels}
        )
        self._timeout_s = timeout_s
        self._has_ended = has_ended
        self._sample = sample
        self._on_oom = on_oom
        self._closed = threading.Event()
        self._turn = threading.Lock()  # of whoever uses what is below
        self._stream: EngineStream | None = None
        self._line = b""
        self._connect_at = self._sample_at = self._look_at = 0.0

    def wait(self, timeout_ms: int) -> bool:
        """True as soon as one may have ended, False at the timeout or after ``close``."""
        with self._turn:
            return self._wait(time.monotonic() + timeout_ms / 1000)

    def close(self) -> None:
        """End ``wait``, within a second unless the engine hangs, and let go of the connection."""
        self._closed.set()
        if self._turn.acquire(timeout=2 * _SAMPLE_S):  # else ``wait`` lets go when it ends
            self._drop()
            self._turn.release()

    def _wait(self, deadline: float) -> bool:
        while not self._closed.is_set():
            self._sample_if_due()
            self._connect_if_due()
            if self._look_if_due():
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            if self._read(min(left_s, _SAMPLE_S)):
                return True
        self._drop()
        return False

    def _sample_if_due(self) -> None:
        if time.monotonic() >= self._sample_at:
            self._sample()
            self._sample_at = time.monotonic() + _SAMPLE_S

    def _connect_if_due(self) -> None:
        if self._stream is not None or time.monotonic() < self._connect_at:
            return
        # The engine answers a moment before it listens for events; ``since`` has it repeat those of that moment.
        query = {"filters": self._filters, "since": format_time(time.time_ns())}
        try:
            self._stream = EngineStream(self._url, "/events", query, timeout_s=self._timeout_s)
        except OSError:
            self._connect_at = time.monotonic() + _RETRY_S
        self._line = b""
        self._look_at = 0.0

    def _look_if_due(self) -> bool:
        if self._stream is None or not self._stream.is_open or time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + _LOOK_S
        try:
            return self._has_ended()
        except RuntimeFailed:
            self._drop()  # whoever lists next will say what is wrong; we start over
            return False

    def _read(self, wait_s: float) -> bool:
        if self._stream is None:
            self._closed.wait(min(wait_s, _RETRY_S))
            return False
        try:
            data = self._stream.read(wait_s)
        except (OSError, StreamRefused):
            data = b""
        if data == b"":
            self._drop()
        return bool(data) and self._take(data or b"")

    def _take(self, data: bytes) -> bool:
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > _LINE_BYTES_MAX:
            self._drop()
        ended = False
        for line in filter(None, lines):
            try:
                event = json.loads(line)
                action, engine_id = event["Action"], event["Actor"]["ID"]
            except (ValueError, KeyError, TypeError):
                continue
            if action == "oom":
                self._on_oom(engine_id)
            ended |= action == "die"
        return ended

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._connect_at = time.monotonic() + _RETRY_S
