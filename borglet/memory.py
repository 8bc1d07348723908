"""Owns the state directory of a Borglet: its lock, and the little that must outlive the process.

The runtimes know which containers exist; the file adds what they cannot know: the highest term seen, specs (for
grace and health checks of adopted tasks), stops under way, results that the master has not acknowledged.
"""

import fcntl
import logging
import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from borglet.values import Record, Stop

log = logging.getLogger(__name__)

FILE: Final = "borglet.json"
LOCK: Final = "borglet.lock"
VERSION: Final = 1
FREE_BYTES_MIN: Final = 16 << 20  # below this the agent starts nothing
FREE_SHARE_MIN: Final = 0.02  # of the disk; below it logs of ended tasks go before their time


class Memory(Struct, frozen=True):
    """What the file holds; ``term`` is the highest seen."""

    cell: str
    machine: str
    term: int = 0
    records: tuple[Record, ...] = ()
    version: int = VERSION


class StateDirFailed(Exception):
    """The state directory cannot be used; the message names the path and says why."""


class StateDir:
    """One Borglet's state directory; holds the lock from construction to ``close``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StateDirFailed(f"cannot use state directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise StateDirFailed(
                f"state directory {path} is in use by another Borglet (pid {holder})"
            ) from error
        self._write_pid()

    def _write_pid(self) -> None:
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            log.warning("lock_pid_not_written", extra={"path": str(self.path)})

    def close(self) -> None:
        """Let another Borglet have it."""
        os.close(self._lock)

    def load(self, cell: str, machine: str) -> Memory:
        """What an earlier Borglet remembered; fresh if there was none or its file is damaged (which is logged).

        Raises StateDirFailed when the directory is another machine's or another cell's, or cannot be read.
        """
        file = self.path / FILE
        fresh = Memory(cell, machine)
        try:
            memory = msgspec.json.decode(file.read_bytes(), type=Memory)
        except FileNotFoundError:
            return fresh
        except OSError as error:
            raise StateDirFailed(f"cannot read {file}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._put_aside(file, str(error))
            return fresh
        if memory.version != VERSION:
            self._put_aside(file, f"version {memory.version}, this Borglet reads {VERSION}")
            return fresh
        if (memory.cell, memory.machine) != (cell, machine):
            raise StateDirFailed(
                f"state directory {self.path} belongs to machine {memory.machine} of cell {memory.cell},"
                f" not to {machine} of {cell}"
            )
        return memory

    def _put_aside(self, file: Path, why: str) -> None:
        aside = file.with_suffix(".damaged")
        log.error(
            "memory_damaged",
            extra={
                "path": str(file),
                "detail": why,
                "kept_as": str(aside),
                "next": "runtimes asked",
            },
        )
        try:
            file.replace(aside)
        except OSError:
            log.warning("memory_not_put_aside", extra={"path": str(file)})

    def save(self, memory: Memory) -> None:
        """Replace the file; the old or the new one survives a power cut at any moment. Raises OSError."""
        temporary = self.path / f"{FILE}.new"
        with temporary.open("wb") as stream:
            stream.write(msgspec.json.encode(memory))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path / FILE)
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def problem(self) -> str:
        """Why nothing can be started with this disk, "" when all is well."""
        try:
            disk = os.statvfs(self.path)
        except OSError as error:
            return f"state directory {self.path}: {error.strerror}"
        if disk.f_bavail * disk.f_frsize < FREE_BYTES_MIN:
            free_mib = disk.f_bavail * disk.f_frsize >> 20
            return f"state directory {self.path} is full ({free_mib} MiB left)"
        return ""

    def is_short(self) -> bool:
        """Whether old logs should make room."""
        try:
            disk = os.statvfs(self.path)
        except OSError:
            return False
        return disk.f_bavail < disk.f_blocks * FREE_SHARE_MIN or bool(self.problem())


def revived(record: Record, now_ms: int) -> Record:
    """A record as a new agent process takes it over: signals are sent again, deadlines are of this boot."""
    stop = record.stop
    if stop is not None:
        deadline_ms = min(stop.kill_at_ms, now_ms + stop.grace_ms)
        stop = Stop(stop.kind, stop.detail, stop.grace_ms, deadline_ms)
    retry_at_ms = None if record.retry_at_ms is None else now_ms
    return replace(record, stop=stop, retry_at_ms=retry_at_ms, released=False)
