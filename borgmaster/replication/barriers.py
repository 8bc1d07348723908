"""Owns the linearizable read points: a barrier ends when this replica is known to have led after the call."""

import threading
from collections import deque
from concurrent.futures import Future
from typing import Final

from borgmaster.errors import NotLeader, OutcomeUnknown, QueueFull
from borgmaster.ports import Clock
from borgmaster.replication.raft import Replica

_WAITING_MAX: Final = 20_000


class _Barrier:
    def __init__(self, deadline_ms: int) -> None:
        self.deadline_ms = deadline_ms
        self.future: Future[int] = Future()
        self.term = 0
        self.round = 0  # of the broadcast that must be confirmed; 0: not yet taken
        self.index = 0  # all committed before the call lies up to here


class Barriers:
    """Barriers in the order of their calls. ``add`` may be called from any thread, the rest from the log's.

    No entry is written for a read: a majority that answers a broadcast sent after the call proves that nobody else led
    before it (Raft's ReadIndex), whatever the clocks say.
    """

    def __init__(self, timeout_ms: int, clock: Clock) -> None:
        self._timeout_ms = timeout_ms
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._new: deque[_Barrier] = deque()
        self._taken: deque[_Barrier] = deque()

    def add(self) -> "Future[int]":
        """A barrier for now."""
        barrier = _Barrier(self._clock.mono_ms() + self._timeout_ms)
        error: Exception | None = None
        with self._lock:
            if self._closed:
                error = NotLeader("")
            elif len(self._new) >= _WAITING_MAX:
                error = QueueFull(f"{len(self._new)} reads wait for the log")
            else:
                self._new.append(barrier)
        if error is not None:
            barrier.future.set_exception(error)
        return barrier.future

    def take(self, replica: Replica) -> None:
        """Before the broadcast of a turn: it is to prove the leadership of those that have come by now."""
        while self._new and replica.own_noop_applied():
            barrier = self._new.popleft()
            if not barrier.future.set_running_or_notify_cancel():
                continue
            barrier.term = replica.term()
            barrier.round = replica.read_round()
            barrier.index = replica.commit_index()
            self._taken.append(barrier)

    def settle(self, replica: Replica) -> None:
        """After a turn: end those that are proven, refused or too old."""
        if not replica.is_leader():
            self._refuse(replica.leader_name())
            return
        confirmed, applied = replica.confirmed_round(), replica.applied_index()
        while self._taken and self._taken[0].term != replica.term():
            self._taken.popleft().future.set_exception(NotLeader(""))
        while self._taken and self._taken[0].round <= confirmed:
            if self._taken[0].index > applied:
                break
            barrier = self._taken.popleft()
            barrier.future.set_result(barrier.index)
        self._expire()

    def close(self) -> None:
        """Refuse all, now and later. Idempotent."""
        with self._lock:
            self._closed = True
        self._refuse("")

    def _refuse(self, leader: str) -> None:
        while self._taken:
            self._taken.popleft().future.set_exception(NotLeader(leader))
        while self._new:
            barrier = self._new.popleft()
            if barrier.future.set_running_or_notify_cancel():
                barrier.future.set_exception(NotLeader(leader))

    def _expire(self) -> None:
        now_ms = self._clock.mono_ms()
        while self._taken and self._taken[0].deadline_ms <= now_ms:
            self._taken.popleft().future.set_exception(OutcomeUnknown("no majority answered"))
        while self._new and self._new[0].deadline_ms <= now_ms:
            barrier = self._new.popleft()
            if barrier.future.set_running_or_notify_cancel():
                barrier.future.set_exception(OutcomeUnknown("no majority answered"))
