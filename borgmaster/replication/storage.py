"""Owns what one replica has on disk: journal, snapshots, lock and newcomer mark, and that they agree with each other."""

import logging
from pathlib import Path
from typing import Final

from borgmaster.ports import Clock, StateMachine
from borgmaster.replication.config import LogConfig
from borgmaster.replication.failure import EXIT_DAMAGED, LogFailed, damaged, disk_refused
from borgmaster.replication.files import DirectoryLock, NewcomerMark
from borgmaster.replication.journal import Journal, LogEntry
from borgmaster.replication.keeper import (
    RETRY_MS,
    SnapshotKeeper,
    check_restorable,
    refused_by_machine,
)
from borgmaster.replication.snapshots import SnapshotHeader
from borgmaster.replication.transfer import Receiver, Sender

logger = logging.getLogger(__name__)

KIND_ENTRY: Final = b"\x00"  # PySyncObj's numbers
KIND_NOOP: Final = b"\x01"
_HOLD_FACTOR: Final = (
    4  # a transfer may put off compaction until the journal is this much over its bound
)


class Storage:
    """The directory of one replica, open. Called from the log's thread only."""

    def __init__(self, config: LogConfig, machine: StateMachine, clock: Clock) -> None:
        """Open or create. Raises LogFailed."""
        self._config = config
        self._machine = machine
        self._clock = clock
        self._not_before_ms = 0
        self._lock = DirectoryLock(config.directory)
        try:
            journal_path = config.directory / "journal"
            snapshot_path = config.directory / "snapshot"
            if snapshot_path.exists() and not journal_path.exists():
                raise damaged(journal_path, "is missing beside a snapshot")
            self.mark = NewcomerMark(
                config.directory, config.start, has_journal=journal_path.exists()
            )
            self.journal = _open_journal(journal_path, self.mark)
            self.keeper = SnapshotKeeper(snapshot_path)
            self.sender = Sender(snapshot_path)
            self.receiver = Receiver(config.directory)
        except OSError as error:
            self._lock.release()
            raise disk_refused(config.directory, "cannot open", error) from error
        except LogFailed:
            self._lock.release()
            raise
        self._compact_size_bytes = self.journal.size_bytes

    def restore(self) -> int:
        """Bring the state machine to the newest snapshot; the index it then has applied. Raises LogFailed."""
        header = self.keeper.newest
        first = self.journal[0][1]
        if first > (header.index if header else 1):
            raise damaged(
                self.journal.path,
                f"starts at entry {first}, but the snapshot"
                f" {f'ends at {header.index}' if header else 'is missing'}",
            )
        if header is None:
            return 1
        self._restore_machine()
        self._fit_journal(header)
        return header.index

    def install(self, applied_index: int) -> SnapshotHeader | None:
        """Take over the received snapshot when it is newer than ``applied_index``; None when it is damaged.

        A file that is not newer is dropped: our own snapshot must not become older than our journal.
        """
        header = check_restorable(self.receiver.path)
        if header is None or header.index <= applied_index:
            self.receiver.discard()
            return header
        self.keeper.adopt(self.receiver.path)
        self.sender.cancel_all()
        self._restore_machine()
        self._fit_journal(header)
        self._compact_size_bytes = self.journal.size_bytes
        logger.info("snapshot_installed", extra={"index": header.index})
        return header

    def keep_compact(self, applied_index: int) -> None:
        """Start a snapshot when enough was applied; cut the journal when one is finished."""
        if self.keeper.finished():
            self._after_snapshot()
        if self._due(applied_index):
            term = self.journal.term_at(applied_index)
            assert term is not None, "the log keeps the last applied entry"
            self.keeper.start(SnapshotHeader(applied_index, term), self._machine.capture())

    def close(self) -> None:
        """Sync and let go. Raises LogFailed when the last sync fails; closed all the same."""
        self.keeper.stop()
        self.sender.cancel_all()
        try:
            self.receiver.discard()
            self.journal.close()
        finally:
            self._lock.release()

    def _restore_machine(self) -> None:
        try:
            self._machine.restore(self.keeper.chunks())
        except ValueError as error:
            raise refused_by_machine(self.keeper.path, error) from error

    def _fit_journal(self, header: SnapshotHeader) -> None:
        """Keep the log when it has the snapshot's last entry; else it is older, or conflicts with what is committed."""
        if self.journal.term_at(header.index) != header.term:
            self.journal.replace([(KIND_NOOP, header.index, header.term)])

    def _due(self, applied_index: int) -> bool:
        last = self.keeper.newest.index if self.keeper.newest else 1
        if self.keeper.writing or applied_index <= last:
            return False
        grown_bytes = self.journal.size_bytes - self._compact_size_bytes
        config = self._config
        if applied_index - last < config.compact_entries and grown_bytes < config.compact_bytes:
            return False
        if self.sender.running() and grown_bytes < _HOLD_FACTOR * config.compact_bytes:
            return False  # a new snapshot would make the receiver start again
        return self._clock.mono_ms() >= self._not_before_ms

    def _after_snapshot(self) -> None:
        header = self.keeper.newest
        if header is None or header.index <= self.journal[0][1]:
            self._not_before_ms = self._clock.mono_ms() + RETRY_MS
            return
        try:
            self.journal.replace(self._entries_to_keep(header.index))
        except LogFailed as failure:
            if failure.exit_code == EXIT_DAMAGED:
                raise
            # The journal is as it was: it goes on growing until the disk refuses that, too.
            logger.warning("journal_compaction_failed", extra={"reason": str(failure)})
            self._not_before_ms = self._clock.mono_ms() + RETRY_MS
        else:
            self._not_before_ms = 0
        self._compact_size_bytes = self.journal.size_bytes

    def _entries_to_keep(self, snapshot_index: int) -> list[LogEntry]:
        first = self.journal[0][1]
        position = snapshot_index - first
        size = 0
        for _ in range(self._config.trailing_entries):
            size += len(self.journal[position][0])
            if position == 0 or size > self._config.trailing_bytes:
                break
            position -= 1
        return self.journal[position:]


def _open_journal(path: Path, mark: NewcomerMark) -> Journal:
    journal = Journal(path)
    if len(journal) == 0:
        if mark.policy is None:
            raise damaged(path, "holds no entry, though this replica has a history")
        # PySyncObj's log always has a first entry, which counts as applied.
        journal.add(KIND_NOOP, 1, 0)
        journal.sync()
    return journal
