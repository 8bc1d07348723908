"""One replica, message by message: what it says, when, and what is on its disk by then."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from borgmaster.replication.config import LogConfig
from borgmaster.replication.engine import OnEnding
from borgmaster.replication.failure import LogFailed
from borgmaster.replication.journal import Journal
from borgmaster.replication.raft import Replica
from borgmaster.replication.snapshots import SnapshotHeader, Stopper, write_snapshot
from borgmaster.replication.storage import KIND_NOOP, Storage
from borgmaster.replication.transfer import Sender
from borgmaster.replication.wire import (
    Ack,
    Append,
    Message,
    PreVote,
    PreVoteRequest,
    SnapshotPart,
    Vote,
    VoteRequest,
)
from tests.helpers.ledger_machine import LedgerMachine

MEMBERS = {f"r{i}": f"127.0.0.1:{9000 + i}" for i in (1, 2, 3)}


class HandClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def wall_ms(self) -> int:
        return self.now_ms

    def mono_ms(self) -> int:
        return self.now_ms


class Desk:
    """Links that keep what was sent, and what the journal on the disk held at that moment."""

    def __init__(self, journal: Path) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.on_disk: list[tuple[int, str | None, int]] = []  # term, vote, last index
        self._journal = journal

    def start(self, poller: object, listener: object) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...

    def send(self, name: str, message: Message) -> bool:
        self.sent.append((name, message))
        copy = self._journal.with_name("copy")
        shutil.copyfile(self._journal, copy)
        journal = Journal(copy)
        self.on_disk.append((journal.getCurrentTerm(), journal.getVotedForNodeId(), journal[-1][1]))
        journal.close()
        return True

    def connected(self, name: str) -> bool:
        return True

    def backlog_bytes(self, name: str) -> int:
        return 0

    def take(self, kind: type) -> list:
        found = [message for _, message in self.sent if isinstance(message, kind)]
        self.sent = []
        return found


class Nothing:
    """A driver without proposals."""

    def next_entry(self) -> tuple[bytes, OnEnding] | None:
        return None

    def on_turn(self) -> None: ...


class Bench:
    def __init__(self, directory: Path) -> None:
        self.clock, self.machine = HandClock(), LedgerMachine()
        config = LogConfig(
            name="r1",
            listen=MEMBERS["r1"],
            members=MEMBERS,
            directory=directory,
            start="bootstrap",
            election_min_ms=30_000,  # it never stands by itself here
            election_max_ms=60_000,
            silence_max_ms=60_000,
        )
        self.desk = Desk(directory / "journal")
        self.storage = Storage(config, self.machine, self.clock)
        self.storage.mark.clear()
        self.replica = Replica(config, self.storage, self.machine, self.clock, self.desk, Nothing())
        self.clock.now_ms += 100_000  # the silence after a start is over

    def hear(self, sender: str, message: Message) -> None:
        self.replica.on_message(sender, message)
        self.replica.tick(0.0)

    def follow(self, term: int, last: int, *, commit: int = 1) -> None:
        """Take entries 2 to ``last`` of this term from r2."""
        entries = [(KIND_NOOP, index, term) for index in range(2, last + 1)]
        self.hear("r2", Append(term, commit, 1, 1, 0, entries))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.replica.close()


def test_an_acknowledged_entry_is_on_the_disk_before_the_answer_leaves(bench: Bench):
    bench.follow(term=3, last=5)
    assert bench.desk.take(Ack) == [Ack(3, 1, 6, success=True, reset=False)]
    assert bench.desk.on_disk == [(3, None, 5)]


def test_a_vote_is_on_the_disk_before_it_leaves(bench: Bench):
    bench.hear("r3", VoteRequest(7, 9, 6, forced=False))
    assert bench.desk.take(Vote) == [Vote(7)]
    assert bench.desk.on_disk == [(7, "r3", 1)]


def test_there_is_one_vote_in_a_term(bench: Bench):
    bench.hear("r3", VoteRequest(7, 9, 6, forced=False))
    bench.hear("r2", VoteRequest(7, 9, 6, forced=False))
    assert len(bench.desk.take(Vote)) == 1


def test_whoever_hears_a_leader_neither_votes_nor_changes_its_term(bench: Bench):
    bench.follow(term=3, last=5)
    bench.desk.take(Ack)
    bench.hear("r3", PreVoteRequest(9, 50, 8))
    bench.hear("r3", VoteRequest(9, 50, 8, forced=False))
    assert bench.desk.take(PreVote) == [PreVote(3, 9, granted=False)]
    assert bench.replica.term() == 3
    bench.clock.now_ms += 30_000
    bench.hear("r3", PreVoteRequest(9, 50, 8))
    assert bench.desk.take(PreVote) == [PreVote(3, 9, granted=True)]


def test_whom_the_leader_asked_to_stand_gets_the_vote_at_once(bench: Bench):
    bench.follow(term=3, last=5)
    bench.hear("r3", VoteRequest(4, 5, 3, forced=True))
    assert bench.desk.take(Vote) == [Vote(4)]


def test_a_candidate_with_a_shorter_log_gets_no_vote(bench: Bench):
    bench.follow(term=3, last=5)
    bench.clock.now_ms += 30_000
    bench.desk.take(Ack)
    for index, term in ((4, 3), (50, 2)):
        bench.hear("r3", PreVoteRequest(9, index, term))
        assert bench.desk.take(PreVote) == [PreVote(bench.replica.term(), 9, granted=False)]
        bench.hear("r3", VoteRequest(bench.replica.term() + 1, index, term, forced=False))
        assert bench.desk.take(Vote) == []


def test_who_is_refused_learns_the_newer_term(bench: Bench):
    bench.hear("r2", PreVote(12, 1, granted=False))
    assert bench.replica.term() == 12


def test_a_leader_of_an_older_term_is_told_so(bench: Bench):
    bench.follow(term=3, last=5)
    bench.desk.take(Ack)
    bench.hear("r3", Append(2, 5, 9, 5, 3, []))
    assert bench.desk.take(Ack) == [Ack(3, 0, 1, success=False, reset=False)]
    assert bench.replica.leader_name() == "r2"


def test_what_is_committed_is_never_cut(bench: Bench):
    bench.follow(term=3, last=5, commit=4)
    with pytest.raises(LogFailed, match="contradicts entry 4"):
        bench.hear("r3", Append(4, 4, 1, 3, 3, [(KIND_NOOP, 4, 4)]))


def test_what_is_not_committed_gives_way_to_a_newer_leader(bench: Bench):
    bench.follow(term=3, last=5, commit=3)
    bench.hear("r3", Append(4, 3, 1, 3, 3, [(b"\x01new", 4, 4)]))
    assert bench.replica.journal[:][-2:] == [(KIND_NOOP, 3, 3), (b"\x01new", 4, 4)]


def test_a_commit_index_counts_only_up_to_what_matches(bench: Bench):
    bench.follow(term=3, last=5)
    bench.hear("r3", Append(4, 5, 1, 2, 3, []))
    assert bench.replica.commit_index() == 2, "entries 3 to 5 may be others at the leader"


def send_snapshot(bench: Bench, path: Path, header: SnapshotHeader) -> None:
    write_snapshot(path, header, LedgerMachine().capture(), stopped=Stopper())
    for part in Sender(path).parts("r1", lambda: 0):
        bench.hear("r2", SnapshotPart(3, header.index, 2, part))


def test_a_snapshot_carries_a_replica_forward_and_never_back(bench: Bench, tmp_path: Path):
    bench.follow(term=3, last=5, commit=2)
    send_snapshot(bench, tmp_path / "a", SnapshotHeader(40, 3))
    assert bench.replica.applied_index() == 40
    assert bench.replica.journal[:] == [(KIND_NOOP, 40, 3)]
    bench.desk.take(Ack)
    send_snapshot(bench, tmp_path / "b", SnapshotHeader(30, 3))
    assert bench.desk.take(Ack)[-1].success
    assert bench.machine.restored == 1
    assert bench.storage.keeper.newest == SnapshotHeader(40, 3), "the journal starts there"


def test_a_snapshot_inside_the_log_keeps_what_was_acknowledged_behind_it(
    bench: Bench, tmp_path: Path
):
    bench.follow(term=3, last=9, commit=2)
    send_snapshot(bench, tmp_path / "a", SnapshotHeader(6, 3))
    assert bench.replica.applied_index() == 6
    assert bench.replica.journal[-1][1] == 9


def test_a_journal_whose_snapshot_is_gone_is_refused(tmp_path: Path):
    bench = Bench(tmp_path)
    bench.follow(term=3, last=5, commit=2)
    send_snapshot(bench, tmp_path / "a", SnapshotHeader(40, 3))
    bench.replica.close()
    again = Bench(tmp_path)
    assert again.replica.applied_index() == 40
    again.replica.close()
    (tmp_path / "snapshot").unlink()
    with pytest.raises(LogFailed, match="the snapshot is missing"):
        Bench(tmp_path)
