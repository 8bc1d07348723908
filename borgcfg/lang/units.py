"""Owns the units that users may write: ``0.5`` CPUs, ``"256MiB"``, ``"10s"``, ``"prod"``. Pure."""

import math
import re
from typing import Final

from borgcfg.lang.diagnostics import did_you_mean

# Decimal and binary units as everyone else writes them; K, M, G, T alone are binary, as in the prelude.
BYTE_UNITS: Final = {
    "B": 1,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
    "T": 1 << 40,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 1_000,
    "KB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "TB": 1_000_000_000_000,
}
DURATION_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000}
# The numbers that the prelude gives the bands (B15 §2.5 with the ranges of NG20).
PRIORITIES: Final = {"free": 0, "batch": 100, "prod": 200, "monitoring": 360}
QUANTITY_MAX: Final = 1 << 62  # beyond any limit of specs, inside every integer of the wire
_QUANTITY = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*\Z", re.ASCII)


class BadUnit(ValueError):
    """A quantity that cannot be read; says what would be right."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def cpu_milli(value: object) -> int:
    """Thousandths of a CPU from CPUs: 0.5, "0.5" or "500m"."""
    match value:
        case bool():
            pass
        case int() | float():
            return _scaled(float(value), 1_000, "cpu")
        case str() if (found := _QUANTITY.match(value)) and found[2] in ("", "m"):
            return _scaled(float(found[1]), 1 if found[2] else 1_000, "cpu")
    raise BadUnit(f"{_shown(value)} is no number of CPUs: write 0.5 or 4")


def size_bytes(value: object) -> int:
    """Bytes from a number of bytes or a text with a unit, such as "256MiB" or "1.5 GiB"."""
    match value:
        case bool():
            pass
        case int():
            return value
        case float():
            return _scaled(value, 1, "size")
        case str() if found := _QUANTITY.match(value):
            if not found[2]:
                raise BadUnit(f"{_shown(value)} has no unit", 'write "256MiB" or "4GiB"')
            if found[2] in BYTE_UNITS:
                return _scaled(float(found[1]), BYTE_UNITS[found[2]], "size")
            known = {unit.lower(): unit for unit in BYTE_UNITS}
            meant = known.get(found[2].lower())
            hint = f"did you mean `{meant}`?" if meant else did_you_mean(found[2], BYTE_UNITS)
            raise BadUnit(
                f"{_shown(value)} has the unknown unit `{found[2][:20]}`", hint or _BYTES_HINT
            )
    raise BadUnit(f"{_shown(value)} is no size", _BYTES_HINT)


_BYTES_HINT: Final = 'write "256MiB" or "4GiB" (KiB, MiB, GiB, TiB; kB, MB, GB, TB)'


def duration_ms(value: object) -> int:
    """Milliseconds from a number of seconds or a text with a unit, such as "10s", "500ms" or "2m"."""
    match value:
        case bool():
            pass
        case int() | float():
            return _scaled(float(value), 1_000, "duration")
        case str() if found := _QUANTITY.match(value):
            if found[2] in DURATION_UNITS_MS:
                return _scaled(float(found[1]), DURATION_UNITS_MS[found[2]], "duration")
            if not found[2]:
                raise BadUnit(f"{_shown(value)} has no unit", f'write "{found[1]}s"')
            hint = did_you_mean(found[2].lower(), DURATION_UNITS_MS)
            raise BadUnit(
                f"{_shown(value)} has the unknown unit `{found[2][:20]}`", hint or _DURATION_HINT
            )
    raise BadUnit(f"{_shown(value)} is no duration", _DURATION_HINT)


_DURATION_HINT: Final = 'write 10, "10s", "500ms" or "2m"'


def priority(value: object) -> int:
    """A priority from its number or the name of its band ("free", "batch", "prod", "monitoring")."""
    match value:
        case bool():
            pass
        case int():
            return value
        case str() if value.lower() in PRIORITIES:
            return PRIORITIES[value.lower()]
        case str():
            raise BadUnit(
                f"{_shown(value)} is no priority",
                did_you_mean(value, PRIORITIES, {"production": "prod", "best_effort": "free"})
                or f"write a number from 0 to 450 or one of {', '.join(PRIORITIES)}",
            )
        case _:
            pass
    raise BadUnit(f"{_shown(value)} is no priority", "write a whole number from 0 to 450")


def _scaled(number: float, factor: int, what: str) -> int:
    if not math.isfinite(number) or abs(number) * factor > QUANTITY_MAX:
        raise BadUnit(f"{number:g} is an absurd {what}")
    return round(number * factor)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
