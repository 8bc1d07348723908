"""The pure rules: what a follower does with entries, who may vote, how long a leader leads."""

from pathlib import Path

import pytest

from borgmaster.replication.append import Behind, Joins, judge
from borgmaster.replication.config import LogConfig, validate
from borgmaster.replication.failure import LogFailed
from borgmaster.replication.files import NewcomerMark
from borgmaster.replication.journal import Journal
from borgmaster.replication.lease import FOREVER_MS, Lease
from borgmaster.replication.voting import Voting
from borgmaster.replication.wire import PreVote, VoteRequest

MEMBERS = {f"r{i}": f"127.0.0.1:{9000 + i}" for i in (1, 2, 3)}


def a_log(path: Path, *terms: int, first: int = 1) -> Journal:
    journal = Journal(path / "j")
    for index, term in enumerate(terms, first):
        journal.add(b"%d" % index, index, term)
    return journal


def entries(start: int, *terms: int) -> list[tuple[bytes, int, int]]:
    return [(b"new", index, term) for index, term in enumerate(terms, start)]


def a_config(directory: Path, **settings: object) -> LogConfig:
    base = {"name": "r1", "listen": MEMBERS["r1"], "members": MEMBERS, "directory": directory}
    return LogConfig(**(base | settings))


# Entries


def test_entries_behind_the_end_are_appended(tmp_path: Path):
    new = entries(4, 2, 2)
    assert judge(a_log(tmp_path, 0, 1, 1), (3, 1), new, 1) == Joins(new, 0, 5)


def test_entries_that_are_known_change_nothing(tmp_path: Path):
    log = a_log(tmp_path, 0, 1, 1, 1)
    assert judge(log, (1, 0), entries(2, 1, 1), 1) == Joins((), 0, 3), "the tail is not cut"
    assert judge(log, (2, 1), [], 1) == Joins((), 0, 2), "a heartbeat proves its own place only"


def test_only_a_conflict_cuts(tmp_path: Path):
    new = entries(2, 1, 2, 2)
    assert judge(a_log(tmp_path, 0, 1, 1, 1), (1, 0), new, 1) == Joins(new[1:], 3, 4)


def test_a_gap_is_answered_with_the_own_end(tmp_path: Path):
    assert judge(a_log(tmp_path, 0, 1), (9, 1), [], 1) == Behind(3)


def test_a_conflicting_term_is_skipped_at_once_but_never_what_is_committed(tmp_path: Path):
    log = a_log(tmp_path, 0, 1, 1, 2, 2, 2, 2)
    assert judge(log, (7, 3), [], 1) == Behind(4)
    assert judge(log, (7, 3), [], 5) == Behind(6)


def test_what_a_snapshot_covers_matches(tmp_path: Path):
    log = a_log(tmp_path, 4, 4, first=100)
    assert judge(log, (90, 2), entries(91, 2, 2), 101) == Joins((), 0, 100)
    new = entries(95, 2, 2, 2, 2, 2, 4, 4, 4)
    assert judge(log, (94, 2), new, 101) == Joins(new[7:], 0, 102)


# Votes


def a_mark(directory: Path, policy: str | None) -> NewcomerMark:
    return NewcomerMark(directory, policy or "resume", has_journal=policy is None)


def test_whoever_hears_a_leader_or_has_just_started_does_not_vote(tmp_path: Path):
    voting = Voting(a_config(tmp_path), a_mark(tmp_path, None), now_ms=1000)
    assert voting.bound(1399)
    assert not voting.bound(1400)
    voting.heard_leader(5000)
    assert voting.bound(5399)
    assert not voting.bound(5400)


def test_a_pre_vote_needs_a_majority_for_the_term_that_was_asked(tmp_path: Path):
    voting = Voting(a_config(tmp_path), a_mark(tmp_path, None), now_ms=0)
    voting.ask(7)
    voting.count("r2", PreVote(6, 6, granted=True))
    voting.count("r3", PreVote(6, 7, granted=False))
    assert not voting.won(7)
    voting.count("r2", PreVote(6, 7, granted=True))
    assert voting.won(7)
    assert not voting.won(8)
    voting.heard_leader(10)
    assert not voting.won(7), "a leader has spoken meanwhile"


@pytest.mark.parametrize(
    ("policy", "last_index", "allowed"),
    [
        (None, 50, True),
        ("join", 1, False),
        ("join", 50, False),
        ("bootstrap", 1, True),
        ("bootstrap", 50, False),
    ],
)
def test_a_disk_without_history_founds_a_cell_but_makes_no_stale_replica_lead(
    tmp_path: Path, policy: str | None, last_index: int, allowed: bool
):
    voting = Voting(a_config(tmp_path), a_mark(tmp_path, policy), now_ms=0)
    assert voting.may_vote(VoteRequest(5, last_index, 1, forced=False)) is allowed
    assert voting.may_stand(last_index) is allowed


def test_the_mark_of_a_newcomer_survives_a_restart_until_it_is_cleared(tmp_path: Path):
    a_mark(tmp_path, "join")
    again = NewcomerMark(tmp_path, "resume", has_journal=True)
    assert again.policy == "join"
    again.clear()
    assert NewcomerMark(tmp_path, "join", has_journal=True).policy is None


def test_an_empty_directory_must_be_meant(tmp_path: Path):
    with pytest.raises(LogFailed, match="bootstrap"):
        a_mark(tmp_path, "resume")


# The lease


def test_a_lease_counts_from_the_sending_of_what_a_majority_has_seen():
    lease = Lease(others=4, election_min_ms=400)
    first, second = lease.begin(1000), lease.begin(1050)
    lease.echo("a", second)
    assert (lease.confirmed(), lease.until_ms()) == (0, 0), "two of five are no majority"
    lease.echo("b", first)
    assert (lease.confirmed(), lease.until_ms()) == (first, 1360)
    lease.echo("c", second)
    assert (lease.confirmed(), lease.until_ms()) == (second, 1410)


def test_a_lease_does_not_move_back_or_over_a_term():
    lease = Lease(others=2, election_min_ms=400)
    old, new = lease.begin(1000), lease.begin(2000)
    lease.echo("a", new)
    lease.echo("a", old)
    lease.echo("b", new + 5)
    assert lease.confirmed() == new
    lease.reset()
    assert lease.until_ms() == 0
    lease.echo("a", lease.begin(3000))
    assert lease.until_ms() == 3360


def test_a_replica_alone_leads_for_ever():
    assert Lease(others=0, election_min_ms=400).until_ms() == FOREVER_MS


# Settings


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"members": {"r1": "127.0.0.1:1", "r2": "127.0.0.1:2"}}, "1, 3 or 5"),
        ({"name": "r9"}, "not among the members"),
        ({"listen": "0.0.0.0:9001"}, "loopback only"),
        ({"listen": "[::]:9001"}, "loopback only"),
        ({"members": MEMBERS | {"r3": "10.0.0.7:9003"}}, "loopback only"),
        ({"listen": "127.0.0.1"}, "host:port"),
        ({"heartbeat_ms": 200}, "heartbeats"),
        ({"election_max_ms": 400}, "election_max_ms"),
        ({"silence_max_ms": 500}, "silence_max_ms"),
        ({"members": {"r1": MEMBERS["r1"]}, "start": "join"}, "bootstrap"),
    ],
)
def test_unsafe_settings_are_refused(tmp_path: Path, settings: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        validate(a_config(tmp_path, **settings))


def test_another_network_must_be_allowed_by_name(tmp_path: Path):
    validate(a_config(tmp_path, listen="0.0.0.0:9001", allow_plain_network=True))
