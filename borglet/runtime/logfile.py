"""Owns the log of a task as its shim writes it: the CRI text format and its rotation.

A record is ``<RFC 3339 time, UTC, nanoseconds> stdout|stderr F|P <text>``; P marks text that no newline ended.
So what was written can be had back byte for byte, and other tools (``crictl``, Fluent Bit) read it too.
Files are ``log``, ``log.1`` and so on, newest first. Standard library only: the shims import this file.
"""

import contextlib
import os
import time
from typing import Final

FILE_BYTES_MAX: Final = 10 << 20
FILE_COUNT: Final = 3
# An unfinished line waits so long for its end before it becomes a record of its own.
FLUSH_MS: Final = 100
LINE_BYTES_MAX: Final = 64 << 10


class LogWriter:
    """Writes the two streams of a task into rotated files. A full disk costs lines, never the task."""

    def __init__(
        self, path: str, *, bytes_max: int = FILE_BYTES_MAX, file_count: int = FILE_COUNT
    ) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._file_count = file_count
        self._partial = {"stdout": b"", "stderr": b""}
        self.dropped_bytes = 0
        self._descriptor, self._size = self._open()

    @property
    def has_partial(self) -> bool:
        """Whether an unfinished line waits: ``flush`` it after ``FLUSH_MS`` without more."""
        return any(self._partial.values())

    def write(self, stream: str, data: bytes) -> None:
        """Take what the task wrote."""
        lines = (self._partial[stream] + data).split(b"\n")
        partial = lines.pop()
        self._partial[stream] = partial if len(partial) < LINE_BYTES_MAX else b""
        head = self._head(stream)
        records = b"".join([b"%s F %s\n" % (head, line) for line in lines])
        if len(partial) >= LINE_BYTES_MAX:
            records += b"%s P %s\n" % (head, partial)
        self._append(records)

    def flush(self) -> None:
        """Record unfinished lines as they are."""
        for stream, text in self._partial.items():
            if text:
                self._append(b"%s P %s\n" % (self._head(stream), text))
                self._partial[stream] = b""

    def close(self) -> None:
        """Record what is left and end."""
        self.flush()
        os.close(self._descriptor)

    def _head(self, stream: str) -> bytes:
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{when}.{nanoseconds:09d}Z {stream}".encode()

    def _append(self, records: bytes) -> None:
        if not records:
            return
        if self._size and self._size + len(records) > self._bytes_max:
            self._rotate()
        try:
            written = os.write(self._descriptor, records)
        except OSError:
            written = 0
        if written < len(records):
            self.dropped_bytes += len(records) - written
            with contextlib.suppress(OSError):  # half a record would spoil the next one
                # Not to ``_size``: that counts from a rotation that failed, and the file is longer.
                end = os.fstat(self._descriptor).st_size
                os.ftruncate(self._descriptor, end - written)
            return
        self._size += written

    def _rotate(self) -> None:
        before = self._descriptor
        with contextlib.suppress(OSError):
            for number in range(self._file_count - 1, 1, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self._path}.{number - 1}", f"{self._path}.{number}")
            if self._file_count > 1:
                os.rename(self._path, f"{self._path}.1")
            else:
                os.unlink(self._path)
        try:
            self._descriptor, self._size = self._open()
        except OSError:  # no inode is left: go on in the old file rather than lose the task
            self._size = 0
        else:
            os.close(before)

    def _open(self) -> tuple[int, int]:
        """A descriptor of the newest file, and its size."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o640)
        return descriptor, os.fstat(descriptor).st_size
