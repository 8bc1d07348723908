"""Owns what a master process is told when it starts: read once, frozen."""

from pathlib import Path
from typing import Final, Literal

from borgcell.types import is_machine_name, is_name
from msgspec import Struct

REPLICA_COUNTS: Final = (1, 3, 5)


class Member(Struct, frozen=True):
    """A replica: its name, and where its Raft and its API listen (host:port)."""

    name: str
    raft_address: str
    api_address: str


class Config(Struct, frozen=True):
    """One replica of one cell."""

    cell: str
    name: str
    members: tuple[Member, ...]
    state_dir: Path
    start: Literal["resume", "bootstrap", "join"] = "resume"  # what an empty directory means
    metrics_address: str = ""  # host:port of /metrics; empty for none
    unreachable_after_ms: int = 10_000  # missed polls after which a machine counts as down
    lost_after_ms: int = 30_000  # time a machine is down before its tasks run elsewhere
    allow_remote_plaintext: bool = False  # Raft without TLS on other than loopback addresses

    @property
    def me(self) -> Member:
        """This replica."""
        return next(member for member in self.members if member.name == self.name)

    def member(self, name: str) -> Member | None:
        """A replica by name."""
        return next((member for member in self.members if member.name == name), None)


def parse_member(text: str) -> Member:
    """Read ``NAME=HOST:RAFT_PORT,HOST:API_PORT``. Raises ValueError with what is wrong."""
    name, equals, addresses = text.partition("=")
    parts = addresses.split(",")
    if not equals or len(parts) != 2 or not is_machine_name(name):
        raise ValueError(f"{text!r} is not a member: write NAME=HOST:RAFT_PORT,HOST:API_PORT")
    for address in parts:
        check_address(address)
    return Member(name, parts[0], parts[1])


def check_address(address: str) -> None:
    """Raise ValueError unless the text is ``host:port``."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{address!r} is not an address: write host:port")


def check_config(config: Config) -> None:
    """Raise ValueError with the first thing that is wrong."""
    names = [member.name for member in config.members]
    if not is_name(config.cell):
        raise ValueError(f"cell name {config.cell!r}: use lower-case letters, digits, '-' and '_'")
    if len(set(names)) != len(names):
        raise ValueError("two members have the same name")
    if len(names) not in REPLICA_COUNTS:
        raise ValueError(f"{len(names)} members: a cell has 1, 3 or 5 replicas")
    if config.name not in names:
        raise ValueError(f"--name {config.name!r} is not among the members ({', '.join(names)})")
    addresses = [
        address
        for member in config.members
        for address in (member.raft_address, member.api_address)
    ]
    if len(set(addresses)) != len(addresses):
        raise ValueError("two members (or Raft and API of one) have the same address")
    if config.unreachable_after_ms < 1_000:
        raise ValueError("--unreachable-after must be at least 1s: polls come every second or so")
