"""The journal: what it gives back after truncation, damage, and a full disk."""

import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from borgmaster.replication.failure import EXIT_DAMAGED, EXIT_DISK, LogFailed
from borgmaster.replication.journal import Journal, LogEntry


def a_journal(path: Path, groups: int = 12, *, seed: int = 1) -> list[list[LogEntry]]:
    """Write groups of entries of random size; returns the log as it was after each sync, the empty one first."""
    dice = random.Random(seed)
    journal = Journal(path)
    states: list[list[LogEntry]] = [[]]
    index = 1
    for group in range(groups):
        for _ in range(dice.randint(1, 4)):
            journal.add(dice.randbytes(dice.choice((0, 3, 40, 700))), index, group + 1)
            index += 1
        if group % 5 == 4:
            index -= 2
            journal.cut_from(index)
        journal.sync()
        states.append(journal[:])
    journal.close()
    return states


def reopened(path: Path) -> list[LogEntry]:
    journal = Journal(path)
    entries = journal[:]
    journal.close()
    return entries


def opening(path: Path) -> list[LogEntry] | LogFailed:
    try:
        return reopened(path)
    except LogFailed as failure:
        return failure


def test_a_journal_gives_back_what_was_synced(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.add(b"one", 1, 1)
    journal.add(b"two", 2, 1)
    journal.setCurrentTerm(7, "r2")
    journal.setRaftCommitIndex(2)
    journal.onOneSecondTimer()
    journal.sync()
    journal.close()
    again = Journal(tmp_path / "j")
    assert again[:] == [(b"one", 1, 1), (b"two", 2, 1)]
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (7, "r2")
    assert again.getRaftCommitIndex() == 2
    again.close()


def test_what_was_not_synced_is_not_on_the_disk(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.add(b"one", 1, 1)
    journal.sync()
    size = (tmp_path / "j").stat().st_size
    journal.add(b"two", 2, 1)
    assert (tmp_path / "j").stat().st_size == size
    assert journal.sync()
    assert not journal.sync(), "nothing new to make durable"
    journal.close()


@given(cut=st.floats(0, 1), seed=st.integers(0, 5))
def test_a_truncated_journal_gives_a_clean_prefix(tmp_path_factory, cut: float, seed: int):
    path = tmp_path_factory.mktemp("journal") / "j"
    states = a_journal(path, seed=seed)
    data = path.read_bytes()
    path.write_bytes(data[: 120 + int(cut * (len(data) - 120))])
    assert reopened(path) in states
    assert reopened(path) in states, "and the cut itself is durable"


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), seed=st.integers(0, 5))
def test_a_flipped_bit_is_found_or_lies_in_the_last_group(
    tmp_path_factory, where: float, bit: int, seed: int
):
    path = tmp_path_factory.mktemp("journal") / "j"
    states = a_journal(path, seed=seed)
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    outcome = opening(path)
    if isinstance(outcome, LogFailed):
        assert outcome.exit_code == EXIT_DAMAGED
        assert str(path) in str(outcome)
        assert "offset" in str(outcome)
    else:
        assert outcome == states[-2]


def test_every_byte_of_a_compacted_journal_is_watched(tmp_path: Path):
    path = tmp_path / "j"
    journal = Journal(path)
    journal.add(b"one", 1, 1)
    journal.add(b"two", 2, 1)
    journal.replace(journal[1:])
    journal.close()
    data = path.read_bytes()
    seal = 20  # the empty group at the end holds nothing that could be lost
    for position in range(len(data) - seal):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(LogFailed, match=str(path)):
            Journal(path)


def test_garbage_behind_the_last_group_is_cut(tmp_path: Path):
    path = tmp_path / "j"
    states = a_journal(path)
    for tail in (b"\0" * 5000, b"\xb0GRP" * 9, random.Random(3).randbytes(777)):
        data = path.read_bytes()
        path.write_bytes(data + tail)
        assert reopened(path) == states[-1]
        assert path.read_bytes() == data


def test_an_entry_that_holds_a_journal_is_not_taken_for_one(tmp_path: Path):
    a_journal(tmp_path / "inner")
    path = tmp_path / "j"
    journal = Journal(path)
    journal.add(b"first", 1, 1)
    journal.sync()
    synced = path.stat().st_size
    journal.add((tmp_path / "inner").read_bytes(), 2, 1)
    journal.sync()
    journal.close()
    data = bytearray(path.read_bytes())
    data[synced + 9] ^= (
        1  # tear the last group: the groups inside its entry are no groups of this file
    )
    path.write_bytes(data)
    assert reopened(path) == [(b"first", 1, 1)]


def test_a_compacted_journal_keeps_vote_and_tail_and_shrinks(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.setCurrentTerm(3, "r1")
    for index in range(1, 200):
        journal.add(b"x" * 1000, index, 3)
    journal.sync()
    journal.replace(journal[190:])
    journal.add(b"after", 200, 3)
    journal.sync()
    journal.close()
    assert (tmp_path / "j").stat().st_size < 20_000
    again = Journal(tmp_path / "j")
    assert [index for _, index, _ in again] == list(range(191, 201))
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (3, "r1")
    again.close()


def test_a_half_written_compaction_is_thrown_away(tmp_path: Path):
    states = a_journal(tmp_path / "j")
    (tmp_path / "j.tmp").write_bytes(b"BCJRNL01 half")
    assert reopened(tmp_path / "j") == states[-1]
    assert not (tmp_path / "j.tmp").exists()


def test_a_full_disk_fails_with_the_file_and_loses_nothing_synced(tmp_path: Path):
    """In a process of its own, with a limit on the size of files in place of a small disk."""
    path = tmp_path / "j"
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from borgmaster.replication.journal import Journal\n"
        "from borgmaster.replication.failure import LogFailed\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "journal = Journal(Path(sys.argv[1])); index = 0\n"
        "try:\n"
        "    while True:\n"
        "        index += 1; journal.add(b'x' * 1500, index, 1); journal.sync()\n"
        "except LogFailed as failure:\n"
        "    print(index - 1); print(failure); code = failure.exit_code\n"
        "try:\n"
        "    journal.sync(); print('retried')\n"
        "except LogFailed:\n"
        "    sys.exit(code)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == EXIT_DISK, run.stderr
    synced, message = run.stdout.splitlines()
    assert str(path) in message
    assert "File too large" in message
    assert [index for _, index, _ in reopened(path)] == list(range(1, int(synced) + 1))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50_000, "not this process"
