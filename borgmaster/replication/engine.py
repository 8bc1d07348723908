"""Owns the border to PySyncObj: its private parts under readable names, and the hooks that we override.

Ours: journal, snapshots, network, the answers to messages, what is sent, how entries are applied. PySyncObj's: elections
and votes, terms, who leads, the commit rule, the order of application. The names are mangled, so the version is exact.
The journal and the transport are put in place without patching the library: it is built on memory and then given ours.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol

import pysyncobj.syncobj
import pysyncobj.version
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from borgmaster.replication.config import TICK_S, LogConfig
from borgmaster.replication.journal import Journal
from borgmaster.replication.wire import Message, TimeoutNow, Vote, VoteRequest

assert pysyncobj.version.VERSION == "0.3.17", "the overrides are written for PySyncObj 0.3.17"

FOLLOWER: Final = 0
LEADER: Final = 2


class Ending(Enum):
    """What became of an entry that a leader had put into its log."""

    APPLIED = 1
    DISCARDED = 2  # another entry has its place: it never counts
    UNKNOWN = 3  # a snapshot covers its place


OnEnding = Callable[[Ending, object], None]


class Driver(Protocol):
    """Who feeds a replica and hears of its turns, in the log's thread."""

    def next_entry(self) -> tuple[bytes, OnEnding] | None:
        """What should go into the log now. Asked of the leader, once in each turn."""
        ...

    def on_turn(self) -> None:
        """All that this turn changed is durable and applied."""
        ...


class Engine(SyncObj):  # type: ignore[misc]  # PySyncObj has no types
    """PySyncObj as ``Replica`` sees it."""

    def __init__(self, config: LogConfig, journal: Journal) -> None:
        others = [name for name in config.members if name != config.name]
        self._nodes: dict[str, Any] = {name: Node(name) for name in others}
        self.journal = journal
        self.forced = False  # the election of this tick was asked for by the leader
        bridge = _Bridge(self, config.name, others)
        super().__init__(
            Node(config.name), list(self._nodes.values()), _settings(config), transport=bridge
        )
        self._SyncObj__raftLog = journal
        self._SyncObj__raftCurrentTerm = max(journal.getCurrentTerm(), journal[-1][2])
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId()
        self._SyncObj__raftCommitIndex = journal.getRaftCommitIndex()
        self._SyncObj__raftLastApplied = 1
        self._SyncObj__needLoadDumpFile = False  # Replica restores before the first tick

    # Where the replica stands

    def others(self) -> list[str]:
        """The names of the other replicas."""
        return list(self._nodes)

    def is_leader(self) -> bool:
        """Whether it believes to lead; ``Replica.leads_until_ms`` says whether it may act on it."""
        return bool(self._SyncObj__raftState == LEADER)

    def leader_name(self) -> str:
        """Who leads, as far as known; "" when nobody."""
        node = self._SyncObj__raftLeader
        return str(node.id) if node is not None else ""

    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    def applied_index(self) -> int:
        """The last entry that the state machine has applied."""
        return int(self._SyncObj__raftLastApplied)

    def commit_index(self) -> int:
        """The last entry known to be committed."""
        return int(self._SyncObj__raftCommitIndex)

    def match_index(self, name: str) -> int:
        """Up to where a follower's log is known to match; meaningful on the leader."""
        return int(self._SyncObj__raftMatchIndex.get(self._nodes[name], 0))

    def own_noop_applied(self) -> bool:
        """Whether a leader's first entry is applied: all that was committed before it then is, too."""
        noop = self._SyncObj__noopIDx
        return noop is not None and self.applied_index() >= noop

    # Changes that Replica makes

    def _advance_commit(self, index: int) -> None:
        if index > self._SyncObj__raftCommitIndex:
            self._SyncObj__raftCommitIndex = index
            self.journal.setRaftCommitIndex(index)

    def _jump_to(self, index: int) -> None:
        """A snapshot has set the state machine to ``index``."""
        self._SyncObj__raftLastApplied = index
        self._advance_commit(index)

    def _adopt_term(self, term: int) -> None:
        """Someone is in a newer term: follow."""
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def _follow(self, name: str) -> None:
        self._SyncObj__raftLeader = self._nodes[name]
        self._SyncObj__setState(FOLLOWER)

    def next_index(self, name: str) -> int:
        """The next entry to send to a follower."""
        return int(self._SyncObj__raftNextIndex[self._nodes[name]])

    def set_next_index(self, name: str, index: int) -> None:
        """Go on with this entry."""
        self._SyncObj__raftNextIndex[self._nodes[name]] = index

    def set_match_index(self, name: str, index: int) -> None:
        """A follower's log is known to match up to here."""
        self._SyncObj__raftMatchIndex[self._nodes[name]] = index

    def _await(self, index: int, on_ending: OnEnding) -> None:
        """Tell ``on_ending`` what becomes of the entry that this leader has just added at ``index``."""

        def callback(result: object, reason: int) -> None:
            on_ending(_ENDINGS.get(reason, Ending.UNKNOWN), result)

        self._SyncObj__commandsWaitingCommit[index].append((self.term(), callback))

    def _end_awaited_up_to(self, index: int) -> None:
        """A snapshot has covered these entries: PySyncObj would never end their callbacks."""
        waiting = self._SyncObj__commandsWaitingCommit
        for covered in [i for i in waiting if i <= index]:
            for _, callback in waiting.pop(covered):
                callback(None, FAIL_REASON.UNKNOWN_OUTCOME)

    def heartbeat_sent(self) -> None:
        """PySyncObj asks for the next broadcast one period from now."""
        self._SyncObj__newAppendEntriesTime = self._now_s() + self.conf.appendEntriesPeriod

    # Elections

    def _now_s(self) -> float:
        """The clock of PySyncObj's deadlines."""
        return float(pysyncobj.syncobj.monotonicTime())

    def _election_overdue(self) -> bool:
        return bool(self._SyncObj__raftElectionDeadline < self._now_s())

    def _postpone_election(self) -> None:
        self._SyncObj__raftElectionDeadline = self._now_s() + self._SyncObj__generateRaftTimeout()

    def _stand_now(self) -> None:
        """Let PySyncObj start the election in this tick."""
        self._SyncObj__raftElectionDeadline = 0

    def _told_to_stand(self) -> bool:
        return bool(self._SyncObj__transferInProgress)

    def _voted_for(self, name: str, term: int) -> bool:
        return self.term() == term and self._SyncObj__votedForNodeId == name

    def _let_library_answer(self, name: str, message: VoteRequest | Vote | TimeoutNow) -> None:
        SyncObj._SyncObj__onMessageReceived(self, self._nodes[name], _to_library(message))

    # What PySyncObj calls and we do instead

    def receive(self, name: str, message: Message) -> None:
        """Answer a message."""
        raise NotImplementedError

    def post(self, name: str, message: Message) -> bool:
        """Send a message, after what it depends on is durable."""
        raise NotImplementedError

    def _on_elected(self) -> None:
        raise NotImplementedError

    def _broadcast_soon(self) -> None:
        raise NotImplementedError

    def _take_proposals(self) -> None:
        raise NotImplementedError

    def _apply(self, command: bytes) -> object:
        raise NotImplementedError

    def _keep_compact(self) -> None:
        raise NotImplementedError

    def _checkCommandsToApply(self) -> None:
        self._take_proposals()

    def _SyncObj__onBecomeLeader(self) -> None:
        self._on_elected()
        SyncObj._SyncObj__onBecomeLeader(self)

    def _SyncObj__sendAppendEntries(self) -> None:
        self._broadcast_soon()  # one for each turn, not one for each command

    def _SyncObj__doApplyCommand(self, command: bytes) -> object:
        return self._apply(command)

    def _SyncObj__tryLogCompaction(self) -> None:
        self._keep_compact()


class _Bridge(Transport):  # type: ignore[misc]  # PySyncObj has no types
    """What PySyncObj sends by itself: requests for votes, votes, and the word to stand."""

    def __init__(self, engine: Engine, name: str, others: list[str]) -> None:
        super().__init__(engine, name, others)
        self._engine = engine

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        forced = self._engine.forced
        return self._engine.post(str(node.id), _from_library(message, forced=forced))


_ENDINGS: Final = {
    FAIL_REASON.SUCCESS: Ending.APPLIED,
    FAIL_REASON.DISCARDED: Ending.DISCARDED,
}


def _from_library(message: dict[str, Any], *, forced: bool) -> Message:
    term = message["term"]
    match message["type"]:
        case "request_vote":
            return VoteRequest(term, message["last_log_index"], message["last_log_term"], forced)
        case "response_vote":
            return Vote(term)
        case "timeout_now":
            return TimeoutNow(term)
        case other:
            raise AssertionError(f"PySyncObj sends {other!r}, which we have replaced")


def _to_library(message: VoteRequest | Vote | TimeoutNow) -> dict[str, Any]:
    match message:
        case VoteRequest():
            return {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            }
        case Vote():
            return {"type": "response_vote", "term": message.term}
        case TimeoutNow():
            return {"type": "timeout_now", "term": message.term}


def _settings(config: LogConfig) -> Any:
    """PySyncObj's own settings; those of what we replace are left out."""
    return SyncObjConf(
        autoTick=False,
        autoTickPeriod=TICK_S,
        appendEntriesUseBatch=True,  # off would open a pipe that nothing closes; we have our own waker
        appendEntriesPeriod=config.heartbeat_ms / 1000,
        raftMinTimeout=config.election_min_ms / 1000,
        raftMaxTimeout=config.election_max_ms / 1000,
        leaderFallbackTimeout=config.election_max_ms / 1000,  # default 30 s is a 30 s stale leader
        connectionTimeout=config.silence_max_ms / 1000,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        journalFile=None,
        fullDumpFile=None,
        useFork=False,
    )
