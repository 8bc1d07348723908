"""Owns reading back a task's log (the format is in logfile.py) while its shim writes and rotates it."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

_TIME_LENGTH: Final = len("2026-11-23T09:26:04.123456789Z")
_STREAM_START: Final = _TIME_LENGTH + 1
_TAG_START: Final = _STREAM_START + len("stdout ")
_TEXT_START: Final = _TAG_START + len("F ")
_FILE_COUNT_MAX: Final = 10
_READ_BYTES: Final = 1 << 18
_POLL_S: Final = 0.1


class Record(NamedTuple):
    """A piece of a task's output, as it wrote it."""

    stream: str
    at_ms: int
    data: bytes


def read_log(
    path: Path,
    *,
    tail_lines: int,
    is_growing: Callable[[], bool],
    is_cancelled: Callable[[], bool],
) -> Iterator[Record]:
    """The kept records, oldest first: all, or the last ``tail_lines`` lines if positive.

    While ``is_growing()`` it waits for more, over rotations. That is asked before each look at the files, so that
    nothing written before it turned false is missed.
    """
    files = _open_all(path)
    try:
        offsets = _tail_offsets(files, tail_lines) if tail_lines > 0 else [0] * len(files)
        while True:
            grows = is_growing()
            while len(files) > 1:  # the older ones are complete
                yield from _records(_LineReader(files[0], offsets[0]), is_cancelled)
                os.close(files.pop(0))
                offsets.pop(0)
            current = _LineReader(files[0], offsets[0])
            yield from _records(current, is_cancelled)
            offsets[0] = current.offset
            newer = _open_newer(path, files[0])
            files += newer
            offsets += [0] * len(newer)
            if is_cancelled() or not (grows or newer):
                return
            if not newer:
                time.sleep(_POLL_S)
    finally:
        for file in files:
            os.close(file)


class _LineReader:
    """Whole lines of a file that may still grow."""

    def __init__(self, file: int, offset: int) -> None:
        self._file = file
        self.offset = offset  # of the first line not read yet

    def read(self) -> list[bytes]:
        """Lines completed since the last call, about ``_READ_BYTES`` of them at most."""
        size = _READ_BYTES
        while True:
            data = os.pread(self._file, size, self.offset)
            end = data.rfind(b"\n") + 1
            if end or len(data) < size:
                break
            size *= 2  # one line longer than that
        self.offset += end
        return data[:end].split(b"\n")[:-1]


def _records(reader: _LineReader, is_cancelled: Callable[[], bool]) -> Iterator[Record]:
    while lines := reader.read():
        for line in lines:
            if is_cancelled():
                return
            record = _parse(line)
            if record is not None:
                yield record


def _parse(line: bytes) -> Record | None:
    """The record of a line; None for a line that is none (torn by a crash of the machine)."""
    try:
        stamp = line[:_TIME_LENGTH].decode("ascii")
        stream = line[_STREAM_START : _TAG_START - 1].decode("ascii")
        seconds = int(datetime.fromisoformat(stamp[:19]).replace(tzinfo=UTC).timestamp())
        at_ms = seconds * 1000 + int(stamp[20:23])
    except ValueError:
        return None
    text = line[_TEXT_START:]
    is_whole = line[_TAG_START : _TAG_START + 1] == b"F"
    return Record(stream, at_ms, text + b"\n" if is_whole else text)


def _open_all(path: Path) -> list[int]:
    """The files of the log, oldest first. Raises LookupError when there is none.

    Opened newest first: a rotation meanwhile moves files to where we look next, so at worst one shows up twice.
    """
    files: dict[int, int] = {}  # descriptors, keyed by inode
    for number in range(_FILE_COUNT_MAX):
        name = path.with_name(f"{path.name}.{number}") if number else path
        with contextlib.suppress(FileNotFoundError):
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            if files.setdefault(os.fstat(file).st_ino, file) != file:
                os.close(file)
    if not files:
        raise LookupError(f"no log at {path}")
    return list(reversed(files.values()))


def _open_newer(path: Path, file: int) -> list[int]:
    """The files that rotations put after ``file``, oldest first; none in the middle of a rotation."""
    inode = os.fstat(file).st_ino
    try:
        if path.stat().st_ino == inode:
            return []
        files = _open_all(path)
    except (FileNotFoundError, LookupError):
        return []
    inodes = [os.fstat(other).st_ino for other in files]
    known = inodes.index(inode) + 1 if inode in inodes else 0
    for other in files[:known]:
        os.close(other)
    return files[known:]


def _tail_offsets(files: list[int], lines: int) -> list[int]:
    """Where each file's part of the last ``lines`` lines starts; cost: the size of the files that hold them."""
    offsets = [os.fstat(file).st_size for file in files]
    is_last = True
    for index in reversed(range(len(files))):
        data = os.pread(files[index], offsets[index], 0)
        end = data.rfind(b"\n") + 1
        offsets[index] = end
        while end:
            start = data.rfind(b"\n", 0, end - 1) + 1
            # Unfinished text belongs to the line after it; only at the very end it is a line of its own.
            if is_last or data[start + _TAG_START : start + _TAG_START + 1] == b"F":
                if lines == 0:
                    return offsets
                lines -= 1
            is_last = False
            offsets[index] = end = start
    return offsets
