"""Owns the agent's port to time; only shells hold one."""

import time
from typing import Protocol


class Clock(Protocol):
    """Time."""

    def wall_ms(self) -> int:
        """Unix time in ms, for people and reports."""
        ...

    def mono_ms(self) -> int:
        """Monotonic ms, for durations and deadlines; starts anew with every boot."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        """Unix time in ms."""
        return time.time_ns() // 1_000_000

    def mono_ms(self) -> int:
        """CLOCK_BOOTTIME in ms: goes on while the machine is suspended, the same for every process."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
