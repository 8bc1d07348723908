"""Owns what waits for the log: groups it into entries, one in flight at a time, and ends every future."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

import msgspec
from msgspec import Struct

from borgmaster.errors import NotLeader, OutcomeUnknown, QueueFull, TooLarge
from borgmaster.ports import Clock
from borgmaster.replication.config import LogConfig
from borgmaster.replication.engine import Ending, OnEnding
from borgmaster.state.entry import ENTRY_BYTES_MAX, ENTRY_VERSION, Proposal
from borgmaster.state.outcome import Outcome

_OVERHEAD_BYTES: Final = 64  # of an entry around its proposals
_ENCODER: Final = msgspec.msgpack.Encoder()

Outcomes = tuple[Outcome, ...]


class _RawEntry(Struct, frozen=True):
    """``borgmaster.state.entry.Entry`` with proposals that are bytes already; a test holds the two together."""

    at_ms: int
    proposals: list[msgspec.Raw]
    version: int = ENTRY_VERSION


class _Submission:
    """One call of ``propose``."""

    def __init__(self, proposals: Sequence[Proposal], deadline_ms: int) -> None:
        self.encoded = [msgspec.Raw(_ENCODER.encode(proposal)) for proposal in proposals]
        self.size_bytes = sum(len(raw) for raw in self.encoded)
        self.deadline_ms = deadline_ms
        self.future: Future[Outcomes] = Future()


class _Flight:
    """An entry in the log, and who waits for it."""

    def __init__(self, submissions: list[_Submission], term: int) -> None:
        self.submissions = submissions
        self.term = term
        self.deadline_ms = min(submission.deadline_ms for submission in submissions)

    def fail(self, error: Exception) -> None:
        """End all its futures with an error."""
        for submission in self.submissions:
            submission.future.set_exception(error)
        self.submissions = []

    def answer(self, result: object) -> None:
        """Give each future its share of the outcomes."""
        expected = sum(len(submission.encoded) for submission in self.submissions)
        if not isinstance(result, tuple) or len(result) != expected:
            self.fail(OutcomeUnknown("the state machine did not answer each proposal"))
            return
        start = 0
        for submission in self.submissions:
            end = start + len(submission.encoded)
            submission.future.set_result(result[start:end])
            start = end
        self.submissions = []


class Proposals:
    """The bounded queue of proposals. ``submit`` may be called from any thread, the rest from the log's."""

    def __init__(self, config: LogConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[_Submission] = deque()
        self._waiting_bytes = 0
        self._waiting_count = 0
        self._closed = False
        self._flights: list[_Flight] = []  # oldest first; at most one of the current term

    def submit(self, proposals: Sequence[Proposal]) -> "Future[Outcomes]":
        """Queue proposals; the future may already have failed."""
        deadline_ms = self._clock.mono_ms() + self._config.propose_timeout_ms
        submission = _Submission(proposals, deadline_ms)
        error = self._enqueue(submission)
        if error is not None:
            submission.future.set_exception(error)
        elif not proposals:
            submission.future.set_result(())
        return submission.future

    def take(self, term: int) -> tuple[bytes, OnEnding] | None:
        """The next entry: all that waits, up to the bound of a group. None while one is in flight, or nothing waits."""
        if not self._waiting or any(flight.term == term for flight in self._flights):
            return None
        group = self._dequeue_group()
        if not group:
            return None
        flight = _Flight(group, term)
        self._flights.append(flight)
        encoded = [raw for submission in group for raw in submission.encoded]
        entry = _ENCODER.encode(_RawEntry(self._clock.wall_ms(), encoded))

        def on_ending(ending: Ending, result: object) -> None:
            self._land(flight, ending, result)

        return entry, on_ending

    def in_flight(self) -> bool:
        """Whether anybody waits for an entry in the log."""
        return bool(self._flights)

    def expire(self) -> None:
        """End what has waited too long."""
        now_ms = self._clock.mono_ms()
        for flight in [flight for flight in self._flights if flight.deadline_ms <= now_ms]:
            self._flights.remove(flight)
            flight.fail(OutcomeUnknown("no majority has confirmed it in time; it may be committed"))
        while self._waiting and self._waiting[0].deadline_ms <= now_ms:
            for submission in self._dequeue_first():
                submission.future.set_exception(QueueFull("it never got its turn in the log"))

    def refuse_waiting(self, leader: str) -> None:
        """This replica does not lead: what waits never entered the log."""
        while self._waiting:
            for submission in self._dequeue_first():
                submission.future.set_exception(NotLeader(leader))

    def close(self) -> None:
        """End everything and accept no more. Idempotent."""
        with self._lock:
            self._closed = True
        self.refuse_waiting("")
        for flight in self._flights:
            flight.fail(OutcomeUnknown("this replica stops; it may be committed"))
        self._flights = []

    def _enqueue(self, submission: _Submission) -> Exception | None:
        size = submission.size_bytes
        if size + _OVERHEAD_BYTES > ENTRY_BYTES_MAX:
            return TooLarge(f"{size} bytes of commands; an entry holds {ENTRY_BYTES_MAX}")
        if not submission.encoded:
            return None
        with self._lock:
            if self._closed:
                return NotLeader("")
            if (
                self._waiting_count + len(submission.encoded) > self._config.waiting_max
                or self._waiting_bytes + size > self._config.waiting_bytes_max
            ):
                return QueueFull(
                    f"{self._waiting_count} commands, {self._waiting_bytes} bytes wait for the log"
                )
            self._waiting.append(submission)
            self._waiting_count += len(submission.encoded)
            self._waiting_bytes += size
        return None

    def _dequeue_group(self) -> list[_Submission]:
        """The first submissions, as many as a group may hold; those cancelled meanwhile are dropped."""
        group: list[_Submission] = []
        size = 0
        while self._waiting:
            size += self._waiting[0].size_bytes
            if group and size > self._config.group_bytes_max:
                break
            group += self._dequeue_first()
        return group

    def _dequeue_first(self) -> list[_Submission]:
        """The first submission, or nothing when its caller has cancelled it."""
        with self._lock:
            submission = self._waiting.popleft()
            self._waiting_count -= len(submission.encoded)
            self._waiting_bytes -= submission.size_bytes
        return [submission] if submission.future.set_running_or_notify_cancel() else []

    def _land(self, flight: _Flight, ending: Ending, result: object) -> None:
        if flight not in self._flights:
            return  # its time had run out
        self._flights.remove(flight)
        match ending:
            case Ending.APPLIED:
                flight.answer(result)
            case Ending.DISCARDED:
                flight.fail(NotLeader(""))
            case Ending.UNKNOWN:
                flight.fail(OutcomeUnknown("a snapshot replaced the log; it may be committed"))
