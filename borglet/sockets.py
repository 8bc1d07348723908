"""Owns the question whether a port of this machine is free."""

import errno
import socket
import time
from collections.abc import Iterable
from typing import Final

_TRIES: Final = 4
_PAUSE_S: Final = 0.1  # a process that was just killed may hold its sockets a moment longer
_KINDS: Final = (
    (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0"),
    (socket.AF_INET6, socket.SOCK_STREAM, "::"),
    (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0"),
)


def taken_port(ports: Iterable[int]) -> int | None:
    """The first of the ports that some process uses, or None. Blocks up to 0.3 s per port that is used."""
    return next((port for port in sorted(ports) if not _is_free_soon(port)), None)


def _is_free_soon(port: int) -> bool:
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        if is_free(port):
            return True
    return False


def is_free(port: int) -> bool:
    """Whether a task could bind it on every address, TCP and UDP."""
    return all(_can_bind(family, kind, host, port) for family, kind, host in _KINDS)


def _can_bind(family: socket.AddressFamily, kind: socket.SocketKind, host: str, port: int) -> bool:
    try:
        with socket.socket(family, kind) as probe:
            if kind is socket.SOCK_STREAM:
                # connections in TIME_WAIT do not matter, listeners still do
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        # a machine without IPv6 refuses for another reason
        return error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True
