"""Owns what a Borglet is told when it starts: read once, frozen."""

from pathlib import Path
from typing import Final

from borgcell.types import RuntimeKind, is_machine_name, is_name
from msgspec import Struct

from borglet.plan import Retention

RUNTIMES: Final = (RuntimeKind.NATIVE, RuntimeKind.DOCKER)


class Config(Struct, frozen=True):
    """One Borglet of one cell. ``address`` is what the masters are told; "" to derive it from ``listen``."""

    cell: str
    name: str
    listen: str
    masters: tuple[str, ...]
    state_dir: Path
    runtimes: tuple[RuntimeKind, ...] = (RuntimeKind.NATIVE,)
    address: str = ""
    ports: tuple[int, int] = (20_000, 29_999)
    cpu_milli: int | None = None
    ram_bytes: int | None = None
    disk_bytes: int | None = None
    attributes: dict[str, str] = {}
    docker_url: str = "unix:///var/run/docker.sock"
    visible: tuple[
        Path, ...
    ] = ()  # what native tasks may see although it lies in /tmp or the state directory
    metrics: str = ""
    retention: Retention = Retention()
    stop_tasks_on_exit: bool = False


def split_address(address: str) -> tuple[str, int]:
    """Read ``host:port``. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{address!r} is not an address: write host:port")
    return host, int(port)


def parse_runtimes(text: str) -> tuple[RuntimeKind, ...]:
    """Read ``native,docker``. Raises ValueError."""
    kinds = []
    for word in text.split(","):
        known = {kind.value: kind for kind in RUNTIMES}
        if word.strip() not in known:
            raise ValueError(f"{word.strip()!r} is not a runtime; there are: {', '.join(known)}")
        kinds.append(known[word.strip()])
    return tuple(dict.fromkeys(kinds))


def check_config(config: Config) -> None:
    """Raise ValueError with the first thing that is wrong."""
    if not is_name(config.cell):
        raise ValueError(f"cell name {config.cell!r}: use lower-case letters, digits, '-' and '_'")
    if not is_machine_name(config.name):
        raise ValueError(
            f"machine name {config.name!r}: use letters, digits, inner '.', '-' and '_'"
        )
    split_address(config.listen)
    for address in (*config.masters, *filter(None, (config.address, config.metrics))):
        if split_address(address)[1] == 0:
            raise ValueError(f"{address!r}: port 0 is no address")
