"""Owns the resource vector: exact integer quantities, and the one ``fits`` of the whole system."""

from collections.abc import Iterable

import msgspec

DIMENSIONS = ("cpu_milli", "ram_bytes", "disk_bytes", "ports")

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
_RAM_UNITS = (("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB))


class Resources(msgspec.Struct, frozen=True, gc=False):
    """Quantities of cpu (thousandths of a CPU), ram and disk (bytes) and ports (count)."""

    cpu_milli: int = 0
    ram_bytes: int = 0
    disk_bytes: int = 0
    ports: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        """Sum in every dimension."""
        return Resources(
            self.cpu_milli + other.cpu_milli,
            self.ram_bytes + other.ram_bytes,
            self.disk_bytes + other.disk_bytes,
            self.ports + other.ports,
        )

    def __sub__(self, other: "Resources") -> "Resources":
        """Difference in every dimension; may be negative."""
        return Resources(
            self.cpu_milli - other.cpu_milli,
            self.ram_bytes - other.ram_bytes,
            self.disk_bytes - other.disk_bytes,
            self.ports - other.ports,
        )

    def as_tuple(self) -> tuple[int, int, int, int]:
        """The quantities in the order of ``DIMENSIONS``."""
        return (self.cpu_milli, self.ram_bytes, self.disk_bytes, self.ports)

    def __str__(self) -> str:
        """For people: ``1.5 cpu, 64 MiB ram, 1 GiB disk, 2 ports``; dimensions at zero are left out."""
        parts = [
            format_quantity(dimension, amount)
            for dimension, amount in zip(DIMENSIONS, self.as_tuple(), strict=True)
            if amount
        ]
        return ", ".join(parts) or "nothing"


ZERO = Resources()


def total(parts: Iterable[Resources]) -> Resources:
    """Sum of all; ``ZERO`` for none."""
    cpu = ram = disk = ports = 0
    for part in parts:
        cpu += part.cpu_milli
        ram += part.ram_bytes
        disk += part.disk_bytes
        ports += part.ports
    return Resources(cpu, ram, disk, ports)


def fits(limit: Resources, free: Resources) -> bool:
    """Whether a task of this limit may be put where so much is free.

    The scheduler, the state machine, the Borglet and the simulator all decide by this function. A dimension
    that the task does not ask for never rules a machine out, even when it is over-committed there.
    """
    return all(
        wanted == 0 or wanted <= available
        for wanted, available in zip(limit.as_tuple(), free.as_tuple(), strict=True)
    )


def lacking(limit: Resources, free: Resources) -> tuple[str, ...]:
    """The dimensions in which ``fits`` fails, in the order of ``DIMENSIONS``."""
    return tuple(
        dimension
        for dimension, wanted, available in zip(
            DIMENSIONS, limit.as_tuple(), free.as_tuple(), strict=True
        )
        if wanted and wanted > available
    )


def format_quantity(dimension: str, amount: int) -> str:
    """One quantity for people, with its unit: ``2.5 cpu``, ``64 MiB ram``, ``3 ports``."""
    match dimension:
        case "cpu_milli":
            return f"{amount / 1000:g} cpu"
        case "ports":
            return f"{amount} port{'s' * (amount != 1)}"
        case _:
            return f"{format_bytes(amount)} {dimension.removesuffix('_bytes')}"


def format_bytes(amount: int) -> str:
    """Bytes with the largest binary unit that leaves at least 1: ``1.5 GiB``, ``512 B``."""
    for unit, size in _RAM_UNITS:
        if abs(amount) >= size:
            return f"{round(amount / size, 2):g} {unit}"
    return f"{amount} B"
