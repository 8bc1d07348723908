"""Owns the replica: PySyncObj's election and commit rule, with the answers to messages that keep what it acknowledges.

A turn of the thread: make durable what the last poll brought; acknowledge it; (PySyncObj) stand, commit, apply; take what
waits into one entry; one broadcast; make that durable while it travels; poll. The leader counts itself only for what a
sync before has made durable.
"""

import logging
from typing import assert_never

from pysyncobj import FAIL_REASON

from borgmaster.ports import Clock, StateMachine
from borgmaster.replication.append import Behind, judge
from borgmaster.replication.config import LogConfig
from borgmaster.replication.engine import Driver, Engine
from borgmaster.replication.failure import EXIT_DAMAGED, LogFailed
from borgmaster.replication.leading import Broadcaster
from borgmaster.replication.lease import Lease
from borgmaster.replication.network import Links
from borgmaster.replication.storage import KIND_ENTRY, KIND_NOOP, Storage
from borgmaster.replication.voting import Voting
from borgmaster.replication.waker import Waker
from borgmaster.replication.wire import (
    Ack,
    Append,
    Message,
    PreVote,
    PreVoteRequest,
    SnapshotPart,
    TimeoutNow,
    Vote,
    VoteRequest,
)

logger = logging.getLogger(__name__)


class Replica(Engine):
    """One replica; everything happens in the thread that calls ``tick``."""

    def __init__(
        self,
        config: LogConfig,
        storage: Storage,
        machine: StateMachine,
        clock: Clock,
        network: Links,
        driver: Driver,
    ) -> None:
        self._config = config
        self._storage = storage
        self._machine = machine
        self._clock = clock
        self._network = network
        self._driver = driver
        self._lease = Lease(len(config.members) - 1, config.election_min_ms)
        self._voting = Voting(config, storage.mark, clock.mono_ms())
        self._pending_acks: dict[str, Ack] = {}  # by the leader they are for
        self._send_due = False
        self._sent_commit = 0
        self._has_all_committed = False  # of what a live leader had committed
        self._current_at_ms = -1
        self._heard_commit = (0, -1)  # the leader's commit index, and when it said so
        self._handing_over = False
        super().__init__(config, storage.journal)
        self._broadcaster = Broadcaster(self, storage.sender, network)
        self._jump_to(storage.restore())
        self.waker = Waker()
        self.waker.attach(self._poller)
        self.addOnTickCallback(self._finish_turn)
        network.start(self._poller, self)
        if not self._nodes:
            self._stand_now()

    # What the log asks

    def leads_until_ms(self) -> int:
        """Until when, by the clock's mono_ms, this replica may act as the leader; 0 when it may not."""
        if not self.is_leader() or self._handing_over or not self.own_noop_applied():
            return 0
        return self._lease.until_ms()

    def read_round(self) -> int:
        """The round of the next broadcast, which is then due: once confirmed, it proves this replica led after now."""
        self._send_due = True
        return self._lease.round + (1 if self._nodes else 0)

    def confirmed_round(self) -> int:
        """The newest round in which a majority followed this replica; 0 when it does not lead."""
        return self._lease.confirmed() if self.is_leader() else 0

    def current_at_ms(self) -> int:
        """When this replica last had all that the leader had committed; -1 for never."""
        return self._current_at_ms

    def connected(self, name: str) -> bool:
        """Whether there is a stream to this replica."""
        return self._network.connected(name)

    def tick(self, wait_s: float) -> None:
        """One turn; waits for a message or a wake-up at its end. Raises LogFailed when the replica must stop."""
        self.journal.sync()
        self._send_pending_acks()
        if self._has_all_committed and self._storage.mark.policy is not None:
            self._storage.mark.clear()
        self.forced = self._told_to_stand()
        self._consider_standing()
        led = self.is_leader()
        self.doTick(wait_s)
        if led and not self.is_leader():
            self._lease.reset()
            self._storage.sender.cancel_all()

    def hand_over(self) -> bool:
        """Ask the most current follower to lead; False when none can yet. This replica does not act as leader again."""
        self._handing_over = True
        answers: list[int] = []
        self.transferLeadership(callback=lambda _, reason: answers.append(reason))
        return answers == [FAIL_REASON.SUCCESS]

    def close(self) -> None:
        """Close the network and the disk. Raises LogFailed when the last sync fails."""
        self._network.close()
        self.waker.close()
        self._storage.close()

    # Streams

    def on_connected(self, name: str) -> None:
        """A stream is up. What the peer had may be gone: it must prove its log anew."""
        self._SyncObj__onNodeConnected(self._nodes[name])
        if self.is_leader():
            self.set_match_index(name, 0)
            self.set_next_index(name, self.journal[-1][1] + 1)
            self._send_due = True
        self._storage.sender.cancel(name)

    def on_disconnected(self, name: str) -> None:
        """A stream has ended."""
        self._SyncObj__onNodeDisconnected(self._nodes[name])
        self._storage.sender.cancel(name)

    def on_message(self, name: str, message: Message) -> None:
        """A replica has said something."""
        self.receive(name, message)

    def post(self, name: str, message: Message) -> bool:
        """Send a message; what it promises is durable before."""
        match message:
            case Append() | SnapshotPart() | PreVoteRequest() | PreVote() | TimeoutNow():
                pass  # promises nothing: the leader's entries may travel while they are written
            case Ack() | VoteRequest() | Vote():
                self.journal.sync()
            case _:
                assert_never(message)
        return self._network.send(name, message)

    def receive(self, name: str, message: Message) -> None:
        """Answer a message."""
        match message:
            case Append():
                self._on_append(name, message)
            case SnapshotPart():
                self._on_snapshot_part(name, message)
            case Ack():
                self._on_ack(name, message)
            case VoteRequest():
                self._on_vote_request(name, message)
            case Vote():
                self._let_library_answer(name, message)
            case PreVoteRequest():
                self._on_pre_vote_request(name, message)
            case PreVote():
                self._on_pre_vote(name, message)
            case TimeoutNow():
                if self._voting.may_stand(self.journal[-1][1]):
                    self._let_library_answer(name, message)
            case _:
                assert_never(message)

    # Elections

    def _consider_standing(self) -> None:
        """Ask for pre-votes when no leader is heard; let PySyncObj stand once they are won."""
        if self.is_leader() or self.forced or not self._nodes:
            return
        last = self.journal[-1]
        if not self._voting.may_stand(last[1]):
            self._postpone_election()
            return
        now_ms = self._clock.mono_ms()
        if self._voting.won(self.term() + 1) and not self._voting.bound(now_ms):
            self._voting.done()
            self._stand_now()
        elif self._election_overdue():
            self._postpone_election()
            if self._voting.bound(now_ms):
                return
            self._SyncObj__raftLeader = None
            self._voting.ask(self.term() + 1)
            for name in self._nodes:
                self.post(name, PreVoteRequest(self.term() + 1, last[1], last[2]))

    def _refuses_votes(self) -> bool:
        now_ms = self._clock.mono_ms()
        if self.is_leader():
            return self._lease.until_ms() > now_ms and not self._handing_over
        return self._voting.bound(now_ms)

    def _on_vote_request(self, name: str, request: VoteRequest) -> None:
        if not self._voting.may_vote(request):
            return
        if self._refuses_votes() and not request.forced:
            return
        self._let_library_answer(name, request)
        if self._voted_for(name, request.term):
            self._has_all_committed = True  # a founder, or no newcomer anyway

    def _on_pre_vote_request(self, name: str, request: PreVoteRequest) -> None:
        last = self.journal[-1]
        granted = (
            self._voting.may_vote(request)
            and not self._refuses_votes()
            and request.term >= self.term()
            and (request.last_term, request.last_index) >= (last[2], last[1])
        )
        self.post(name, PreVote(self.term(), request.term, granted))

    def _on_pre_vote(self, name: str, answer: PreVote) -> None:
        if answer.term > self.term():
            self._adopt_term(answer.term)
        self._voting.count(name, answer)

    def _on_elected(self) -> None:
        self._lease.reset()
        self._storage.sender.cancel_all()
        self._voting.done()
        self._has_all_committed = True  # a newcomer leads only while founding a cell
        logger.info("elected", extra={"term": self.term(), "index": self.journal[-1][1]})

    # Following

    def _accepts_leader(self, name: str, term: int, commit: int) -> bool:
        """Follow whoever leads this term; a leader of an older one is told so (PySyncObj: silence)."""
        if term < self.term():
            self.post(name, Ack(self.term(), 0, 1, success=False, reset=False))
            return False
        if term == self.term() and self.is_leader():
            raise LogFailed(
                f"{name} and {self._config.name} both lead term {term}: do two replicas have"
                " one name, or was a disk put back to an older state?",
                EXIT_DAMAGED,
            )
        if term > self.term():
            self._SyncObj__transferInProgress = False
            self._SyncObj__setCurrentTerm(term, None)
        if not self._told_to_stand():
            self._postpone_election()
        now_ms = self._clock.mono_ms()
        self._voting.heard_leader(now_ms)
        self._heard_commit = (commit, now_ms)
        self._follow(name)
        return True

    def _on_append(self, name: str, message: Append) -> None:
        if not self._accepts_leader(name, message.term, message.commit):
            return
        prev = (message.prev_index, message.prev_term)
        verdict = judge(self.journal, prev, message.entries, self.commit_index())
        if isinstance(verdict, Behind):
            self.post(
                name,
                Ack(self.term(), message.round, verdict.next_index, success=False, reset=True),
            )
            return
        if verdict.cut_from:
            self._cut(verdict.cut_from)
        for entry in verdict.fresh:
            self.journal.add(*entry)
        self._advance_commit(min(message.commit, verdict.matched))
        if verdict.matched >= message.commit:
            # In its own term a leader commits only on top of all that was committed before.
            self._has_all_committed |= self.journal.term_at(message.commit) == message.term
        self._acknowledge(name, message.round, verdict.matched + 1)

    def _cut(self, index: int) -> None:
        if index <= self.commit_index():
            raise LogFailed(
                f"{self.journal.path}: the leader contradicts entry {index}, which is committed"
                f" here up to {self.commit_index()}",
                EXIT_DAMAGED,
            )
        self.journal.cut_from(index)

    def _acknowledge(self, name: str, round: int, next_index: int) -> None:
        """Remember the answer; it leaves in the next turn, after one sync for all that this poll brings."""
        before = self._pending_acks.get(name)
        if before is not None and before.term == self.term():
            next_index = max(next_index, before.next_index)
        self._pending_acks[name] = Ack(self.term(), round, next_index, success=True, reset=False)

    def _send_pending_acks(self) -> None:
        acks, self._pending_acks = self._pending_acks, {}
        for name, ack in acks.items():
            if ack.term == self.term():
                self.post(name, ack)

    def _on_snapshot_part(self, name: str, message: SnapshotPart) -> None:
        if not self._accepts_leader(name, message.term, message.commit):
            return
        refusal = Ack(self.term(), message.round, 1, success=False, reset=False)
        if message.part is None or not self._storage.receiver.add(name, message.part):
            self.post(name, refusal)
            return
        header = self._storage.install(self.applied_index())
        if header is None:
            self.post(name, refusal)
            return
        if header.index > self.applied_index():
            self._jump_to(header.index)
            self._end_awaited_up_to(header.index)
        self._acknowledge(name, message.round, header.index + 1)

    # Leading

    def _on_ack(self, name: str, ack: Ack) -> None:
        if ack.term > self.term():
            self._adopt_term(ack.term)
            return
        if not self.is_leader() or ack.term != self.term():
            return
        self._SyncObj__lastResponseTime[self._nodes[name]] = self._now_s()
        self._lease.echo(name, ack.round)
        matched = self.match_index(name)
        if ack.success:
            self.set_match_index(name, max(matched, ack.next_index - 1))
            # Never back: what is under way would be sent again.
            self.set_next_index(name, max(self.next_index(name), ack.next_index))
        elif ack.reset and ack.next_index > matched:
            self.set_next_index(name, min(ack.next_index, self.journal[-1][1] + 1))
            self._send_due = True

    def _broadcast_soon(self) -> None:
        self._send_due = True

    # In each turn, called by PySyncObj

    def _take_proposals(self) -> None:
        if not self.is_leader() or self._handing_over:
            return
        taken = self._driver.next_entry()
        if taken is None:
            return
        data, on_ending = taken
        index = self.journal[-1][1] + 1
        self.journal.add(KIND_ENTRY + data, index, self.term())
        self._await(index, on_ending)
        self._send_due = True

    def _apply(self, command: bytes) -> object:
        index = self.applied_index() + 1
        kind = command[:1]
        if kind == KIND_NOOP:
            return None
        if kind != KIND_ENTRY:
            raise LogFailed(
                f"entry {index} is of kind {kind!r}, which a newer version wrote: upgrade this one",
                EXIT_DAMAGED,
            )
        try:
            return self._machine.apply(index, command[1:])
        except (
            MemoryError,
            RecursionError,
        ):  # of this replica only: the others may have applied it
            raise
        except Exception:  # PySyncObj would try it again for ever, on all replicas
            logger.exception("apply_raised", extra={"index": index})
            return None

    def _keep_compact(self) -> None:
        self._storage.keep_compact(self.applied_index())

    def _finish_turn(self) -> None:
        self._network.tick()
        if self.is_leader() and (self._send_due or self._sent_commit != self.commit_index()):
            self._send_due = False
            self._sent_commit = self.commit_index()
            self.heartbeat_sent()
            self._broadcaster.broadcast(self._lease.begin(self._clock.mono_ms()))
        if self.journal.sync() and not self._nodes:
            self.waker.wake()  # nobody else will answer: commit in the next turn, at once
        commit, heard_ms = self._heard_commit
        if not self.is_leader() and heard_ms >= 0 and self.applied_index() >= commit:
            self._current_at_ms = heard_ms
        self._driver.on_turn()
