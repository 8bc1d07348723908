"""Owns endless answers of the Docker Engine, its logs and events: read with a deadline, and its times.

The SDK reads a stream until it ends or a read times out, and cannot go on after either; a follower must be able
to look up every moment and stop. So streams are plain HTTP/1.0 on a socket of their own: no chunks, the body is
what comes until the end. The end of a stream says nothing about the container: a killed engine ends it too.
"""

import re
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlencode, urlsplit

_HEAD_BYTES_MAX: Final = 64 << 10
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")


class StreamRefused(Exception):
    """The engine answered with an error instead of a stream."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the Docker Engine answered {status}")
        self.status = status


class EngineStream:
    """The body of one GET, as it comes."""

    def __init__(self, url: str, path: str, query: Mapping[str, str], *, timeout_s: float) -> None:
        """Connect and ask; does not wait for the answer. Raises OSError."""
        self._socket = connect(url, timeout_s)
        self._head: bytearray | None = bytearray()
        try:
            request = f"GET {path}?{urlencode(query)} HTTP/1.0\r\nHost: docker\r\n\r\n"
            self._socket.sendall(request.encode())
        except OSError:
            self._socket.close()
            raise

    def read(self, timeout_s: float) -> bytes | None:
        """What came next; None if nothing did in time, b"" at the end. Raises StreamRefused, OSError."""
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            return None
        if self._head is None:
            return data
        return self._after_head(data)

    @property
    def is_open(self) -> bool:
        """Whether the engine has begun to answer."""
        return self._head is None

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()

    def _after_head(self, data: bytes) -> bytes | None:
        assert self._head is not None, "only while the head is incomplete"
        self._head += data
        head, found, body = bytes(self._head).partition(b"\r\n\r\n")
        if not found:
            if not data:
                return b""
            if len(head) > _HEAD_BYTES_MAX:
                raise OSError("the Docker Engine sent an endless HTTP head")
            return None
        self._head = None
        status = _STATUS.match(head)
        if status is None or status[1] != b"200":
            raise StreamRefused(int(status[1]) if status else 0)
        return body or None


def connect(url: str, timeout_s: float) -> socket.socket:
    """A connection to the engine. Raises OSError when it is not there."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.settimeout(timeout_s)
        try:
            unix.connect(parts.path)
        except OSError:
            unix.close()
            raise
        return unix
    if parts.scheme != "tcp":
        raise OSError(f"{url!r} is not unix:///path or tcp://host:port")
    return socket.create_connection((parts.hostname or "", parts.port or 2375), timeout_s)


def parse_time_ns(text: str) -> int:
    """Nanoseconds since 1970 of the engine's times (``2026-01-31T12:00:00.123456789Z``); 0 for "never"."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
        return max(0, seconds * 10**9 + int(f"{fraction:0<9.9}"))
    except ValueError:
        return 0


def format_time(ns: int) -> str:
    """As the engine wants times in a query: seconds with nine decimals."""
    return f"{ns // 10**9}.{ns % 10**9:09}"
