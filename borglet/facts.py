"""Owns what a machine is: its capacity for tasks, its attributes, its port range."""

import os
import platform
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from borgcell.resources import GIB, KIB, MIB, Resources

from borglet.values import Facts

# What is left to the system where no flag says how much tasks may use (TR3: capacity offered < physical).
SYSTEM_CPU_SHARE: Final = 0.05
SYSTEM_RAM_SHARE: Final = 0.05
SYSTEM_RAM_BYTES_MIN: Final = 256 * MIB
SYSTEM_DISK_SHARE: Final = 0.10  # of what is free at the start

_UNITS: Final = {
    "": 1, "B": 1, "K": KIB, "KIB": KIB, "M": MIB, "MIB": MIB, "G": GIB, "GIB": GIB, "T": 1 << 40, "TIB": 1 << 40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)\Z")
_CGROUP: Final = Path("/sys/fs/cgroup")


def parse_bytes(text: str) -> int:
    """Read ``8GiB``, ``512MiB``, ``1.5G`` (binary) or ``2GB`` (decimal). Raises ValueError."""
    match = _QUANTITY.match(text.strip())
    size = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or size is None:
        raise ValueError(f"{text!r} is not an amount of bytes: write 8GiB, 512MiB or 2GB")
    return int(float(match.group(1)) * size)


def parse_cpu(text: str) -> int:
    """Read CPUs, ``4`` or ``0.5``, as thousandths. Raises ValueError."""
    try:
        cpu_milli = round(float(text) * 1000)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a number of CPUs: write 4 or 0.5") from None
    if cpu_milli < 1:
        raise ValueError(f"{text!r} is not a number of CPUs: write 4 or 0.5")
    return cpu_milli


def parse_ports(text: str) -> tuple[int, int]:
    """Read ``20000-29999``. Raises ValueError."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise ValueError(f"{text!r} is not a port range: write 20000-29999")
    if not 1024 <= int(first) <= int(last) <= 65_535:
        raise ValueError(f"port range {text} is not within 1024-65535, first before last")
    return int(first), int(last)


def parse_attribute(text: str) -> tuple[str, str]:
    """Read ``key=value``. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not equals or not key or len(key) > 256 or len(value) > 256:
        raise ValueError(f"{text!r} is not an attribute: write key=value, such as rack=r7")
    return key, value


def machine_facts(
    *,
    disk_path: Path,
    ports: tuple[int, int],
    cpu_milli: int | None = None,
    ram_bytes: int | None = None,
    disk_bytes: int | None = None,
    attributes: Mapping[str, str] | None = None,
) -> Facts:
    """This machine; what is None is measured and reduced by the system's share. ``attributes`` win over found ones."""
    first, last = ports
    capacity = Resources(
        cpu_milli=int(_cpu_milli() * (1 - SYSTEM_CPU_SHARE)) if cpu_milli is None else cpu_milli,
        ram_bytes=_ram_for_tasks(_ram_bytes()) if ram_bytes is None else ram_bytes,
        disk_bytes=_disk_for_tasks(disk_path) if disk_bytes is None else disk_bytes,
        ports=last - first + 1,
    )
    found = {
        "arch": platform.machine(),
        "os": platform.system().lower(),
        "kernel": platform.release(),
        "hostname": socket.gethostname(),
    }
    return Facts(capacity, found | dict(attributes or {}), first, last)


def _cpu_milli() -> int:
    """CPUs that this process may run on, and no more than its cgroup's quota."""
    cpus = len(os.sched_getaffinity(0)) * 1000
    quota = _numbers(_CGROUP / "cpu.max")
    if len(quota) == 2:
        return min(cpus, quota[0] * 1000 // quota[1])
    return cpus


def _ram_bytes() -> int:
    """Memory of the machine, and no more than this process's cgroup may use."""
    limits = [
        limit
        for name in ("memory.max", "memory/memory.limit_in_bytes")
        for limit in _numbers(_CGROUP / name)
    ]
    return min([_mem_total(), *limits])


def _mem_total() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * KIB
    raise ValueError("/proc/meminfo has no MemTotal")


def _numbers(path: Path) -> tuple[int, ...]:
    """The numbers in a file; none when it cannot be read or says ``max``."""
    try:
        return tuple(int(word) for word in path.read_text().split())
    except (OSError, ValueError):
        return ()


def _ram_for_tasks(ram_bytes: int) -> int:
    return max(0, ram_bytes - max(SYSTEM_RAM_BYTES_MIN, int(ram_bytes * SYSTEM_RAM_SHARE)))


def _disk_for_tasks(path: Path) -> int:
    disk = os.statvfs(path)
    return int(disk.f_bavail * disk.f_frsize * (1 - SYSTEM_DISK_SHARE))
