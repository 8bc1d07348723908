"""Owns the settings of the replicated log and what makes them valid."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

StartPolicy = Literal["bootstrap", "join", "resume"]

TICK_S: Final = 0.02  # raft.md §10.1


class LogConfig(Struct, frozen=True, kw_only=True):
    """The settings of one replica.

    ``start`` says what an empty directory means: the founding of a cell, a replica that the others must seed
    first, or (resume) a mistake. A directory with a journal is always resumed.
    """

    name: str  # of this replica; a key of members
    listen: str  # host:port
    members: Mapping[str, str]  # replica name -> host:port, this one included
    directory: Path
    cell: str = ""  # replicas of different cells refuse each other
    start: StartPolicy = "resume"
    allow_plain_network: bool = False  # traffic is not encrypted yet: loopback only, unless told

    election_min_ms: int = 400  # raft.md §4: stable without computing threads in the process
    election_max_ms: int = 800
    heartbeat_ms: int = 50
    silence_max_ms: int = 1500  # a peer that sends nothing this long is disconnected
    reconnect_ms: int = 200

    propose_timeout_ms: int = 3000  # every future ends by then
    waiting_max: int = 20_000  # proposals in the queue
    waiting_bytes_max: int = 64 << 20
    group_bytes_max: int = 1 << 20  # what waits is grouped into one entry up to this

    compact_entries: int = 50_000  # entries applied since the last snapshot that start the next one
    compact_bytes: int = 64 << 20  # the same for bytes in the journal
    trailing_entries: int = 1000  # kept behind a snapshot, so that a short lag needs no transfer
    trailing_bytes: int = 4 << 20


def validate(config: LogConfig) -> None:
    """Raises ValueError when the settings contradict each other or would be unsafe."""
    if len(config.members) not in (1, 3, 5):
        raise ValueError(f"a cell has 1, 3 or 5 replicas, not {len(config.members)}")
    if config.name not in config.members:
        raise ValueError(f"replica {config.name!r} is not among the members")
    if config.start == "join" and len(config.members) == 1:
        raise ValueError("a cell of one replica has no other that could seed it: use bootstrap")
    if config.heartbeat_ms * 3 >= config.election_min_ms:
        raise ValueError("election_min_ms must exceed three heartbeats")
    if config.election_max_ms <= config.election_min_ms:
        raise ValueError("election_max_ms must exceed election_min_ms")
    if config.silence_max_ms < config.election_max_ms:
        raise ValueError("silence_max_ms must be at least election_max_ms")
    for address in (config.listen, *config.members.values()):
        host, _ = split_address(address)
        if not config.allow_plain_network and not _is_loopback(host):
            raise ValueError(
                f"{address}: replica traffic is not encrypted yet; loopback only,"
                " or allow_plain_network on a network that you trust"
            )


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[ipv6]:port``. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
