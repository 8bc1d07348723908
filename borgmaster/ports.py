"""Owns the ports of the master: what its parts ask of the world, as Protocols."""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Protocol

from msgspec import Struct

from borgmaster.state.entry import Proposal
from borgmaster.state.outcome import Outcome


class Clock(Protocol):
    """Time, held by shells only."""

    def wall_ms(self) -> int:
        """Unix time in ms, for people and for the stamps of entries."""
        ...

    def mono_ms(self) -> int:
        """Monotonic ms, for durations."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        """Unix time in ms."""
        return time.time_ns() // 1_000_000

    def mono_ms(self) -> int:
        """CLOCK_BOOTTIME in ms: goes on while the machine is suspended, so that leases run out."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class StateMachine(Protocol):
    """What the log drives, on every replica alike. Called from the log's thread only."""

    def apply(self, index: int, data: bytes) -> object:
        """Apply a committed entry and return its result. Deterministic, and never raises: PySyncObj retries for ever."""
        ...

    def capture(self) -> Iterator[bytes]:
        """A consistent picture, taken at the call (fast), encoded lazily by the iterator in another thread."""
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by a captured one. Raises ValueError when the bytes are damaged or too new."""
        ...


class MemberStatus(Struct, frozen=True):
    """A replica as another one sees it."""

    name: str
    connected: bool
    leader: bool
    match_index: int  # -1: not known here


class LogStatus(Struct, frozen=True):
    """Where this replica stands."""

    term: int
    leader: str  # name; "" when none is known
    leading: bool  # this replica leads, has applied its own no-op and holds its lease
    applied_index: int
    commit_index: int
    current_age_ms: int  # since it last knew to be up to date; 0 when leading; -1 when never
    members: tuple[MemberStatus, ...]  # all, itself included, by name


class CommandLog(Protocol):
    """The replicated log. All methods may be called from any thread and none blocks."""

    def propose(self, proposals: Sequence[Proposal]) -> "Future[tuple[Outcome, ...]]":
        """Commit and apply, in order; one outcome each. What waits is grouped into one entry.

        The future raises ``borgmaster.errors.NotLeader`` (never entered the log), ``QueueFull`` (likewise),
        ``TooLarge`` (likewise) or ``OutcomeUnknown`` (may or may not be committed: retry with the same request id).
        Every future ends within the log's timeout.
        """
        ...

    def barrier(self) -> "Future[int]":
        """Ends with an index once everything committed before the call is applied here: a linearizable read point."""
        ...

    def leading(self) -> bool:
        """Whether this replica leads and holds its lease now; cheap, asked before every instruction to a Borglet."""
        ...

    def status(self) -> LogStatus:
        """Where this replica stands."""
        ...

    def close(self) -> None:
        """Hand over leadership if it leads, sync the journal and stop. Idempotent."""
        ...
