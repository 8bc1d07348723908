"""The log of a native task as files: format, rotation, and reading while it is written."""

import contextlib
import re
import subprocess
import threading

import pytest

from borglet.runtime.logfile import LINE_BYTES_MAX, LogWriter
from borglet.runtime.logreader import read_log

CRI = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] .*")


def fill(file) -> None:
    """Take all the room that is left."""
    with contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def read(path, tail_lines=0):
    records = read_log(
        path, tail_lines=tail_lines, is_growing=lambda: False, is_cancelled=lambda: False
    )
    return [(record.stream, record.data) for record in records]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def test_every_line_is_a_cri_record(path):
    log = LogWriter(str(path))
    log.write("stdout", b"one\ntwo")
    log.write("stderr", b"\n\xff\x00binary\n")
    log.close()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 4
    assert all(CRI.fullmatch(line) for line in lines)
    assert lines[0].endswith(b" stdout F one")
    assert lines[3].endswith(b" stdout P two")


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
def test_what_was_written_is_had_back_byte_for_byte(path, size):
    text = b"".join(b"%d %s\n" % (i, b"x" * (i % 300)) for i in range(2000)) + b"no newline"
    log = LogWriter(str(path), bytes_max=1 << 30)
    for start in range(0, len(text), size):
        log.write("stdout", text[start : start + size])
    log.close()
    assert b"".join(data for _, data in read(path)) == text


def test_a_line_without_end_is_recorded_in_pieces_and_not_held_in_memory(path):
    log = LogWriter(str(path))
    for _ in range(10):
        log.write("stdout", b"x" * LINE_BYTES_MAX)
        assert not log.has_partial
    log.write("stdout", b"end\n")
    log.close()
    assert b"".join(data for _, data in read(path)) == b"x" * 10 * LINE_BYTES_MAX + b"end\n"


def test_an_unfinished_line_is_seen_after_a_flush(path):
    log = LogWriter(str(path))
    log.write("stdout", b"Name? ")
    assert read(path) == []
    log.flush()
    assert read(path) == [("stdout", b"Name? ")]
    log.write("stdout", b"ann\n")
    assert read(path)[1:] == [("stdout", b"ann\n")]
    log.close()


def test_rotation_bounds_each_file_and_their_number(path):
    log = LogWriter(str(path), bytes_max=10_000, file_count=3)
    for i in range(2000):
        log.write("stdout", b"line %d\n" % i)
    log.close()
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2"]
    assert all(file.stat().st_size <= 10_000 for file in files)
    numbers = [int(data.split()[1]) for _, data in read(path)]
    assert numbers == list(range(numbers[0], 2000))
    assert len(numbers) > 300


@pytest.mark.root
def test_without_an_inode_for_the_next_file_the_log_goes_on_in_the_old_one(tmp_path):
    options = "size=1m,nr_inodes=2"  # the directory and one file
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "borg-test", tmp_path], check=True)
    try:
        log = LogWriter(str(tmp_path / "log"), bytes_max=10_000, file_count=3)
        for i in range(1000):
            log.write("stdout", b"line %d\n" % i)
        log.close()
        assert b" line 999\n" in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("lines", [1, 5, 200, 400, 100_000])
def test_tail_counts_lines_over_rotations(path, lines):
    log = LogWriter(str(path), bytes_max=10_000, file_count=3)
    for i in range(2000):
        log.write("stdout", b"line %d\n" % i)
    log.close()
    everything = read(path)
    assert read(path, tail_lines=lines) == everything[-lines:]


def test_tail_counts_an_unfinished_last_line_and_keeps_pieces_of_one_line_together(path):
    log = LogWriter(str(path))
    log.write("stdout", b"one\ntwo, ")
    log.flush()
    log.write("stdout", b"still two\nthr")
    log.close()
    assert read(path, tail_lines=1) == [("stdout", b"thr")]
    assert b"".join(data for _, data in read(path, tail_lines=2)) == b"two, still two\nthr"


def test_a_reader_that_follows_misses_nothing_over_rotations(path):
    log = LogWriter(str(path), bytes_max=20_000, file_count=3)
    done, first_read = threading.Event(), threading.Event()
    log.write("stdout", b"0\n")

    def write():
        first_read.wait(10)
        for i in range(1, 3000):
            log.write("stdout", b"%d\n" % i)
            if i % 200 == 0:
                caught_up.wait(0.15)  # slower than the reader looks: less than the kept files
        log.close()
        done.set()

    caught_up = threading.Event()
    writer = threading.Thread(target=write)
    writer.start()
    numbers = []
    for record in read_log(
        path, tail_lines=0, is_growing=lambda: not done.is_set(), is_cancelled=lambda: False
    ):
        numbers.append(int(record.data))
        first_read.set()
    writer.join()
    assert numbers == list(range(3000))
    assert (path.parent / "log.2").exists()


def test_what_was_written_and_rotated_just_before_the_end_is_read(path):
    log = LogWriter(str(path), bytes_max=1000, file_count=3)
    log.write("stdout", b"0\n")

    def end() -> bool:
        """The task writes its last lines, over a rotation, after the reader opened the files."""
        for i in range(1, 30):
            log.write("stdout", b"%d\n" % i)
        log.close()
        return False

    answers = iter([end])
    records = read_log(
        path,
        tail_lines=0,
        is_growing=lambda: next(answers, lambda: False)(),
        is_cancelled=lambda: False,
    )
    assert [int(record.data) for record in records] == list(range(30))
    assert (path.parent / "log.1").exists()


def test_a_torn_record_is_passed_over(path):
    log = LogWriter(str(path))
    log.write("stdout", b"before\n")
    log.close()
    with open(path, "ab") as file:
        file.write(b"2026-11-2\0\0\0\0\0\n")
    log = LogWriter(str(path))
    log.write("stdout", b"after\n")
    log.close()
    assert read(path) == [("stdout", b"before\n"), ("stdout", b"after\n")]


@pytest.mark.root
def test_a_disk_without_inodes_and_room_costs_new_lines_but_not_the_kept_ones(tmp_path):
    """Rotation fails for want of an inode, then the write for want of room: what was kept stays."""
    options = "size=256k,nr_inodes=3"  # the root, log and the filler: none for a second file
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "borg-test", str(tmp_path)], check=True)
    try:
        log = LogWriter(str(tmp_path / "log"), bytes_max=40_000, file_count=3)
        with open(tmp_path / "filler", "wb", buffering=0) as filler:
            for i in range(4000):
                log.write("stdout", b"line %d\n" % i)
                if i == 1500:  # a rotation has failed by now
                    assert not (tmp_path / "log").exists()
                    fill(filler)
        log.close()
        assert log.dropped_bytes > 0
        kept = b"".join(file.read_bytes() for file in tmp_path.glob("log*"))
        numbers = sorted(int(line.rsplit(b" ", 1)[1]) for line in kept.splitlines())
        assert numbers[:1501] == list(range(1501))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
