"""Owns the durable use of the log's directory: its lock, atomic files, and the mark of a disk without history."""

import fcntl
import os
from pathlib import Path

from borgmaster.replication.config import StartPolicy
from borgmaster.replication.failure import LogFailed, disk_refused


def fsync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; a full disk leaves a prefix and raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def publish(temporary: Path, final: Path) -> None:
    """Give a file that is already synced its name, durably."""
    temporary.replace(final)
    fsync_directory(final.parent)


def write_small_file(path: Path, data: bytes) -> None:
    """Create or replace a file atomically and durably."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    publish(temporary, path)


class DirectoryLock:
    """Held while a replica uses its directory: two processes on one journal would destroy it."""

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise disk_refused(path, "cannot create it", error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise disk_refused(path, "another process uses this directory", error) from error

    def release(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class NewcomerMark:
    """The file that says this disk has no history yet: what it once promised to others it may have forgotten.

    Without it, a wiped disk and one stale replica form a majority and lose acknowledged writes (raft.md §6).
    A joining replica neither votes nor stands until it has all that a live leader had committed. A bootstrapping
    one may do both among replicas that are as new as itself, so that a cell can be founded, but one wiped
    replica of a living cell cannot help a stale one to lead.
    """

    def __init__(self, directory: Path, policy: StartPolicy, *, has_journal: bool) -> None:
        self._path = directory / "newcomer"
        self.policy: StartPolicy | None = None
        try:
            if not has_journal:
                self._mark(policy)
            elif self._path.exists():
                self.policy = "join" if self._path.read_bytes() == b"join" else "bootstrap"
        except OSError as error:
            raise disk_refused(self._path, "cannot use it", error) from error

    def _mark(self, policy: StartPolicy) -> None:
        if policy == "resume":
            raise LogFailed(
                f"{self._path.parent}: no journal here; start with bootstrap to found a new cell,"
                " or with join to be seeded by the other replicas",
                exit_code=2,
            )
        write_small_file(self._path, policy.encode())
        self.policy = policy

    def clear(self) -> None:
        """This replica has history now: it votes and stands like any other."""
        if self.policy is not None:
            self._path.unlink(missing_ok=True)
            fsync_directory(self._path.parent)
            self.policy = None
