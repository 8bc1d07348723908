"""The snapshot file, its writing in the background, and its way to another replica."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from borgmaster.replication.failure import EXIT_DAMAGED, LogFailed
from borgmaster.replication.keeper import SnapshotKeeper
from borgmaster.replication.snapshots import (
    SnapshotHeader,
    Stopper,
    read_chunks,
    verify_snapshot,
    write_snapshot,
)
from borgmaster.replication.transfer import PART_BYTES, Receiver, Sender
from borgmaster.replication.wire import Part

HEADER = SnapshotHeader(index=41, term=3)


def a_snapshot(path: Path, chunks: list[bytes], header: SnapshotHeader = HEADER) -> Path:
    write_snapshot(path, header, chunks, stopped=Stopper())
    return path


def finish(keeper: SnapshotKeeper) -> None:
    for _ in range(2000):
        if keeper.finished():
            return
        time.sleep(0.005)
    pytest.fail("the snapshot is still being written")


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_chunks_come_back_as_they_were_captured(tmp_path_factory, chunks: list[bytes]):
    path = a_snapshot(tmp_path_factory.mktemp("snapshot") / "s", chunks)
    assert verify_snapshot(path) == HEADER
    assert list(read_chunks(path)) == chunks


def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path):
    path = a_snapshot(tmp_path / "s", [b"alpha" * 9, b"", b"beta" * 11])
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :])
        with pytest.raises(LogFailed, match=str(path)) as refused:
            verify_snapshot(path)
        assert refused.value.exit_code == EXIT_DAMAGED
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(LogFailed):
            verify_snapshot(path)


def test_a_chunk_that_was_left_out_or_moved_is_found(tmp_path: Path):
    chunk = b"same size"
    path = a_snapshot(tmp_path / "s", [chunk, chunk[::-1], chunk])
    data = path.read_bytes()
    size = 8 + len(chunk)
    start = 30
    swapped = data[:start] + data[start + size : start + 2 * size] + data[start : start + size]
    path.write_bytes(swapped + data[start + 2 * size :])
    with pytest.raises(LogFailed, match="checksum of the whole"):
        verify_snapshot(path)
    path.write_bytes(data[:start] + data[start + size :])
    with pytest.raises(LogFailed, match="checksum of the whole"):
        verify_snapshot(path)


def test_a_failed_capture_leaves_the_older_snapshot(tmp_path: Path):
    def broken() -> Iterator[bytes]:
        yield b"a beginning"
        raise RuntimeError("the machine cannot go on")

    keeper = SnapshotKeeper(tmp_path / "s")
    keeper.start(HEADER, iter([b"good"]))
    finish(keeper)
    keeper.start(SnapshotHeader(99, 4), broken())
    finish(keeper)
    assert keeper.newest == HEADER
    assert list(keeper.chunks()) == [b"good"]
    assert not (tmp_path / "s.tmp").exists()


def test_a_snapshot_is_given_up_when_the_replica_stops(tmp_path: Path):
    def endless() -> Iterator[bytes]:
        while True:
            yield b"more"

    keeper = SnapshotKeeper(tmp_path / "s")
    keeper.start(HEADER, endless())
    keeper.stop()
    assert not keeper.writing
    assert keeper.newest is None
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_travels_in_parts(tmp_path: Path):
    content = [random.Random(1).randbytes(PART_BYTES), b"tail"]
    path = a_snapshot(tmp_path / "s", content)
    receiver = Receiver(tmp_path)
    parts = list(Sender(path).parts("r2", lambda: 0))
    assert len(parts) == 2
    assert [receiver.add("r1", part) for part in parts] == [False, True]
    assert list(read_chunks(receiver.path)) == content


def test_parts_of_two_transfers_never_mix(tmp_path: Path):
    content = [random.Random(1).randbytes(3 * PART_BYTES)]
    ours = list(Sender(a_snapshot(tmp_path / "a", content)).parts("r2", lambda: 0))
    newer = SnapshotHeader(50, 4)
    theirs = list(Sender(a_snapshot(tmp_path / "b", content, newer)).parts("r2", lambda: 0))
    receiver = Receiver(tmp_path)
    assert not receiver.add("r1", ours[0])
    assert not receiver.add("r3", theirs[1]), "another sender"
    assert not receiver.add("r1", ours[2]), "a part is missing"
    assert not receiver.add("r1", theirs[1]), "another snapshot"
    assert [receiver.add("r1", part) for part in ours[1:]] == [False, False, True]
    assert verify_snapshot(receiver.path) == HEADER


def test_a_transfer_pauses_while_the_peer_takes_nothing(tmp_path: Path):
    content = [random.Random(1).randbytes(3 * PART_BYTES)]
    sender = Sender(a_snapshot(tmp_path / "s", content))
    assert list(sender.parts("r2", lambda: 1 << 30)) == []
    assert sender.running()
    a_snapshot(tmp_path / "s2", [b"newer"]).rename(tmp_path / "s")
    parts: list[Part] = list(sender.parts("r2", lambda: 0))
    assert parts[-1].last, "the file that was begun is sent to its end, though it has a successor"
    assert len(parts) == 4
    assert not sender.running()
