"""Owns ``ReplicatedLog``: the port ``CommandLog`` over a replica that runs in a thread of its own."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from borgmaster.errors import NotLeader
from borgmaster.ports import Clock, LogStatus, MemberStatus, StateMachine
from borgmaster.replication.barriers import Barriers
from borgmaster.replication.batch import Proposals
from borgmaster.replication.config import TICK_S, LogConfig, validate
from borgmaster.replication.engine import OnEnding
from borgmaster.replication.failure import EXIT_BUG, LogFailed
from borgmaster.replication.network import Network
from borgmaster.replication.raft import Replica
from borgmaster.replication.storage import Storage
from borgmaster.state.entry import Proposal
from borgmaster.state.outcome import Outcome

logger = logging.getLogger(__name__)

_DRAIN_MS: Final = 300  # what is in flight gets this long before leadership is handed over
_HAND_OVER_MS: Final = 1000  # the next leader gets this long to be elected
_CLOSE_S: Final = 10.0

OnLeadership = Callable[[bool, int], None]  # (leading, term)
OnFatal = Callable[[LogFailed], None]


class ReplicatedLog:
    """The replicated log of this process. Implements ``borgmaster.ports.CommandLog``.

    The constructor restores the newest snapshot and returns when the replica runs. Both callbacks come from the log's
    thread and must be cheap. ``on_fatal`` is called once, when the replica has stopped because it cannot go on: all
    futures have ended and its files are closed; the process should end with ``failure.exit_code``.
    """

    def __init__(
        self,
        config: LogConfig,
        machine: StateMachine,
        clock: Clock,
        on_leadership: OnLeadership,
        on_fatal: OnFatal,
    ) -> None:
        """Raises LogFailed when the disk refuses or holds damaged data, ValueError for wrong settings."""
        validate(config)
        self._config = config
        self._machine = machine
        self._clock = clock
        self._on_leadership = on_leadership
        self._on_fatal = on_fatal
        self._proposals = Proposals(config, clock)
        self._barriers = Barriers(config.propose_timeout_ms, clock)
        self._leads_until_ms = 0
        self._told = (False, 0)  # what on_leadership was told last
        self._closing = threading.Event()
        self._started = threading.Event()
        self._start_failure: Exception | None = None
        self._replica: Replica | None = None
        self._thread = threading.Thread(target=self._run, name="log", daemon=False)
        self._thread.start()
        self._started.wait()
        if self._start_failure is not None:
            self._thread.join()
            raise self._start_failure

    def propose(self, proposals: Sequence[Proposal]) -> "Future[tuple[Outcome, ...]]":
        """See ``CommandLog``."""
        replica = self._running()
        if not replica.is_leader():
            refused: Future[tuple[Outcome, ...]] = Future()
            refused.set_exception(NotLeader(replica.leader_name()))
            return refused
        future = self._proposals.submit(proposals)
        replica.waker.wake()
        return future

    def barrier(self) -> "Future[int]":
        """See ``CommandLog``. On a replica that does not lead it raises NotLeader."""
        replica = self._running()
        if not replica.is_leader():
            refused: Future[int] = Future()
            refused.set_exception(NotLeader(replica.leader_name()))
            return refused
        future = self._barriers.add()
        replica.waker.wake()
        return future

    def leading(self) -> bool:
        """See ``CommandLog``. True only inside the lease, even when the log's thread is stuck."""
        return self._clock.mono_ms() < self._leads_until_ms

    def status(self) -> LogStatus:
        """See ``CommandLog``."""
        replica = self._running()
        leading = self.leading()
        leader = replica.leader_name()
        members = [
            MemberStatus(
                name=name,
                connected=name == self._config.name or replica.connected(name),
                leader=name == leader,
                match_index=self._match_index(replica, name),
            )
            for name in sorted(self._config.members)
        ]
        current_at_ms = replica.current_at_ms()
        age_ms = -1 if current_at_ms < 0 else max(0, self._clock.mono_ms() - current_at_ms)
        return LogStatus(
            term=replica.term(),
            leader=leader,
            leading=leading,
            applied_index=replica.applied_index(),
            commit_index=replica.commit_index(),
            current_age_ms=0 if leading else age_ms,
            members=tuple(members),
        )

    def close(self) -> None:
        """See ``CommandLog``. Waits until the replica has stopped, a few seconds at most."""
        self._closing.set()
        self._running().waker.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_S)

    # The replica's Driver, called in the log's thread

    def next_entry(self) -> tuple[bytes, OnEnding] | None:
        """What waits, as one entry."""
        replica = self._running()
        self._barriers.take(replica)
        return self._proposals.take(replica.term())

    def on_turn(self) -> None:
        """End what is over and tell of leadership."""
        replica = self._running()
        self._observe(replica.leads_until_ms(), replica.term())
        self._proposals.expire()
        if not replica.is_leader():
            self._proposals.refuse_waiting(replica.leader_name())
        self._barriers.settle(replica)

    # The thread

    def _run(self) -> None:
        try:
            storage = Storage(self._config, self._machine, self._clock)
            network = Network(self._config, self._clock)
            try:
                self._replica = Replica(
                    self._config, storage, self._machine, self._clock, network, self
                )
            except BaseException:
                network.close()
                storage.close()
                raise
        except Exception as error:  # noqa: BLE001  # handed to the constructor's caller
            self._start_failure = error
            return
        finally:
            self._started.set()
        failure = self._drive(self._replica)
        self._stop(self._replica, failure)

    def _drive(self, replica: Replica) -> LogFailed | None:
        """Turn until closed; the failure when it cannot go on."""
        try:
            while not self._closing.is_set():
                replica.tick(TICK_S)
            self._hand_over(replica)
        except LogFailed as failure:
            return failure
        except Exception as error:  # a bug, or no memory: state and log may disagree, so stop
            logger.exception("log_thread_failed")
            return LogFailed(f"the log's thread failed: {error!r}", EXIT_BUG)
        return None

    def _hand_over(self, replica: Replica) -> None:
        """Let what is in flight land, then let another replica lead, both within bounds."""
        deadline_ms = self._clock.mono_ms() + _DRAIN_MS
        while self._proposals.in_flight() and self._clock.mono_ms() < deadline_ms:
            replica.tick(TICK_S)
        if not replica.is_leader():
            return
        self._observe(0, replica.term())
        deadline_ms = self._clock.mono_ms() + _HAND_OVER_MS
        asked = False
        while (
            replica.is_leader()
            and any(replica.connected(name) for name in replica.others())
            and self._clock.mono_ms() < deadline_ms
        ):
            asked = asked or replica.hand_over()
            replica.tick(TICK_S)

    def _stop(self, replica: Replica, failure: LogFailed | None) -> None:
        self._observe(0, replica.term())
        try:
            replica.close()
        except LogFailed as on_close:
            failure = failure or on_close
        self._proposals.close()
        self._barriers.close()
        if failure is not None:
            logger.critical("log_failed", extra={"reason": str(failure)})
            self._on_fatal(failure)

    def _observe(self, leads_until_ms: int, term: int) -> None:
        """Keep the lease for ``leading``, and tell when it came or went."""
        self._leads_until_ms = leads_until_ms
        leading = self._clock.mono_ms() < leads_until_ms
        was_leading, told_term = self._told
        if was_leading and (not leading or term != told_term):
            self._told = (False, term)
            self._on_leadership(False, told_term)
        if leading and not self._told[0]:
            self._told = (True, term)
            self._on_leadership(True, term)

    def _running(self) -> Replica:
        assert self._replica is not None, "the constructor returns when the replica runs"
        return self._replica

    def _match_index(self, replica: Replica, name: str) -> int:
        if name == self._config.name:
            return replica.applied_index()
        return replica.match_index(name) if replica.is_leader() else -1
