"""Owns the journal: the replica's log, term and vote in one append-only file.

File = header | group*; a group is what one sync made durable: magic, length, its own offset, CRC-32, records.
Laws: at most one group is not yet synced, and it is the last. So a bad last group is a torn write (nobody was told
of it) and is cut; a bad group with a good one behind it is damage, and the file is refused. Bit rot in the very
last group cannot be told from a torn write; the other replicas still have what it held.
A failed sync is final: the kernel may have dropped the pages (never retried).
"""

import logging
import mmap
import os
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, overload

from borgmaster.replication.failure import damaged, disk_refused
from borgmaster.replication.files import fsync_directory, write_all

logger = logging.getLogger(__name__)

LogEntry = tuple[bytes, int, int]  # command, index, term: PySyncObj's order

HEADER: Final = b"BCJRNL01"
_GROUP_MAGIC: Final = b"\xb0GRP"
_GROUP: Final = struct.Struct("<4sIQI")  # magic, length of the records, offset of the group, CRC-32
_RECORD: Final = struct.Struct("<BI")  # kind, length
_ENTRY: Final = struct.Struct("<QQ")  # index, term
_NUMBER: Final = struct.Struct("<Q")
_KIND_ENTRY, _KIND_CUT, _KIND_VOTE, _KIND_COMMIT = 1, 2, 3, 4
_REWRITE_GROUP_BYTES: Final = 8 << 20
_SLOW_SYNC_S: Final = 0.2  # half an election timeout: someone may want to look at the disk


class Journal:
    """The log from its first kept entry on, in memory and on disk, in PySyncObj's shape of a journal."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises LogFailed when the file is damaged or the disk refuses."""
        self.path = path
        self.size_bytes = 0
        self._entries: list[LogEntry] = []
        self._term = 0
        self._vote: str | None = None
        self._commit = 1
        self._pending: list[bytes] = []
        self._dirty = False
        self._broken = False
        self._descriptor = -1
        try:
            path.with_name(path.name + ".tmp").unlink(missing_ok=True)
            if not path.exists():
                self._rewrite()
                return
            self._descriptor = os.open(path, os.O_RDWR)
            self._load()
        except OSError as error:
            raise disk_refused(path, "cannot open the journal", error) from error

    # What the log holds

    @overload
    def __getitem__(self, position: int) -> LogEntry: ...
    @overload
    def __getitem__(self, position: slice) -> list[LogEntry]: ...
    def __getitem__(self, position: int | slice) -> LogEntry | list[LogEntry]:
        return self._entries[position]

    def __len__(self) -> int:
        return len(self._entries)

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None when it is not kept here."""
        position = index - self._entries[0][1]
        return self._entries[position][2] if 0 <= position < len(self._entries) else None

    # Changes: in memory at once, durable with the next sync

    def add(self, command: bytes, index: int, term: int) -> None:
        """Append an entry."""
        assert not self._entries or index == self._entries[-1][1] + 1, "the log has no gaps"
        self._entries.append((command, index, term))
        self._put(_KIND_ENTRY, _ENTRY.pack(index, term) + command)

    def cut_from(self, index: int) -> None:
        """Forget the entry at ``index`` and all behind it."""
        del self._entries[index - self._entries[0][1] :]
        self._put(_KIND_CUT, _NUMBER.pack(index))

    def setCurrentTerm(self, term: int, vote: str | None) -> None:
        """PySyncObj's name for: remember the term and whom this replica voted for in it."""
        self._term, self._vote = term, vote
        self._put(_KIND_VOTE, _NUMBER.pack(term) + (vote or "").encode())

    def setRaftCommitIndex(self, index: int) -> None:
        """PySyncObj's name for: this much is known to be committed. A hint, written once a second."""
        self._commit = index

    def onOneSecondTimer(self) -> None:
        """PySyncObj's name for: write the commit hint with the next group."""
        if not self._broken:
            self._pending.append(_record(_KIND_COMMIT, _NUMBER.pack(self._commit)))

    def getCurrentTerm(self) -> int:
        """The newest term this replica has seen."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """Whom this replica voted for in that term."""
        return self._vote

    def getRaftCommitIndex(self) -> int:
        """An index up to which the log is certainly committed; the truth may be higher."""
        return max(1, min(self._commit, self._entries[-1][1])) if self._entries else 1

    def sync(self) -> bool:
        """Make all changes durable, before anything that depends on them leaves; False when there were none."""
        if not self._dirty:
            return False
        if self._broken:
            raise disk_refused(self.path, "an earlier sync failed", OSError(5, "not retried"))
        started = time.monotonic()
        try:
            self._append_group(b"".join(self._pending))
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._broken = True
            raise disk_refused(self.path, "cannot append to the journal", error) from error
        self._pending.clear()
        self._dirty = False
        took = time.monotonic() - started
        if took > _SLOW_SYNC_S:
            logger.warning("journal_sync_slow", extra={"ms": round(took * 1000)})
        return True

    def replace(self, entries: Sequence[LogEntry]) -> None:
        """Hold exactly ``entries`` from now on, in a new file that takes the old one's place atomically."""
        if self._broken:
            raise disk_refused(self.path, "an earlier sync failed", OSError(5, "not retried"))
        before = self._entries
        self._entries = list(entries)
        try:
            self._rewrite()
        except OSError as error:
            self._entries = before
            self.path.with_name(self.path.name + ".tmp").unlink(missing_ok=True)
            raise disk_refused(self.path, "cannot compact the journal", error) from error

    def close(self) -> None:
        """Sync what waits, unless the disk has refused before, and close. Idempotent."""
        if self._descriptor < 0:
            return
        try:
            if self._pending and not self._broken:
                self._dirty = True
                self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, kind: int, body: bytes) -> None:
        self._pending.append(_record(kind, body))
        self._dirty = True

    def _append_group(self, records: bytes) -> None:
        group = _group(records, self.size_bytes)
        write_all(self._descriptor, group)
        self.size_bytes += len(group)

    # The file as a whole

    def _rewrite(self) -> None:
        temporary = self.path.with_name(self.path.name + ".tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            size = self._write_file(descriptor)
            os.fsync(descriptor)
            temporary.replace(self.path)
        except OSError:
            os.close(descriptor)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self.size_bytes = descriptor, size
        self._broken = True  # until the name is durable, too
        fsync_directory(self.path.parent)
        self._broken = False
        self._pending.clear()
        self._dirty = False

    def _write_file(self, descriptor: int) -> int:
        write_all(descriptor, HEADER)
        size = len(HEADER)
        records = [
            _record(_KIND_VOTE, _NUMBER.pack(self._term) + (self._vote or "").encode()),
            _record(_KIND_COMMIT, _NUMBER.pack(self._commit)),
        ]
        waiting = 0
        for command, index, term in self._entries:
            records.append(_record(_KIND_ENTRY, _ENTRY.pack(index, term) + command))
            waiting += len(records[-1])
            if waiting >= _REWRITE_GROUP_BYTES:
                size += _write_group(descriptor, b"".join(records), size)
                records, waiting = [], 0
        size += _write_group(descriptor, b"".join(records), size)
        # An empty group behind them: damage to any entry of this file is then never taken for a torn write.
        return size + _write_group(descriptor, b"", size)

    def _load(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if size < len(HEADER):
            raise damaged(self.path, f"cut to {size} bytes, no header")
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as data:
            if data[: len(HEADER)] != HEADER:
                raise damaged(self.path, "unknown header at offset 0")
            good = self._read_groups(data, size)
            if good < size:
                later = _find_group(data, good + 1, size)
                if later is not None:
                    raise damaged(
                        self.path, f"damaged at offset {good}, intact data follows at {later}"
                    )
        if good < size:
            logger.warning(
                "journal_torn_tail_cut", extra={"offset": good, "dropped_bytes": size - good}
            )
            os.ftruncate(self._descriptor, good)
            os.fsync(self._descriptor)
        self.size_bytes = good
        os.lseek(self._descriptor, good, os.SEEK_SET)

    def _read_groups(self, data: mmap.mmap, size: int) -> int:
        """Take over all good groups from the start; the offset behind the last of them."""
        position = len(HEADER)
        while (records := _group_at(data, position, size)) is not None:
            try:
                self._replay(records)
            except (ValueError, struct.error) as error:
                raise damaged(self.path, f"senseless group at offset {position}: {error}") from None
            position += _GROUP.size + len(records)
        return position

    def _replay(self, records: bytes) -> None:
        position = 0
        while position < len(records):
            kind, length = _RECORD.unpack_from(records, position)
            position += _RECORD.size
            self._replay_record(kind, records[position : position + length])
            position += length

    def _replay_record(self, kind: int, body: bytes) -> None:
        if kind == _KIND_ENTRY:
            index, term = _ENTRY.unpack_from(body)
            if self._entries and index != self._entries[-1][1] + 1:
                raise ValueError(f"entry {index} follows entry {self._entries[-1][1]}")
            self._entries.append((body[_ENTRY.size :], index, term))
        elif kind == _KIND_CUT:
            (index,) = _NUMBER.unpack(body)
            if not self._entries or index <= self._entries[0][1]:
                raise ValueError(f"cut from entry {index} leaves nothing")
            del self._entries[index - self._entries[0][1] :]
        elif kind == _KIND_VOTE:
            (self._term,) = _NUMBER.unpack_from(body)
            self._vote = body[_NUMBER.size :].decode() or None
        elif kind == _KIND_COMMIT:
            (self._commit,) = _NUMBER.unpack(body)
        else:
            raise ValueError(f"record kind {kind} is not known to this version")


def _record(kind: int, body: bytes) -> bytes:
    return _RECORD.pack(kind, len(body)) + body


def _group(records: bytes, offset: int) -> bytes:
    checksum = zlib.crc32(records, zlib.crc32(_NUMBER.pack(offset)))
    return _GROUP.pack(_GROUP_MAGIC, len(records), offset, checksum) + records


def _write_group(descriptor: int, records: bytes, offset: int) -> int:
    group = _group(records, offset)
    write_all(descriptor, group)
    return len(group)


def _group_at(data: mmap.mmap, position: int, size: int) -> bytes | None:
    """The records of the group at ``position``; None when there is no intact one."""
    start = position + _GROUP.size
    if start > size:
        return None
    magic, length, offset, checksum = _GROUP.unpack_from(data, position)
    if magic != _GROUP_MAGIC or offset != position or start + length > size:
        return None
    records = data[start : start + length]
    return records if zlib.crc32(records, zlib.crc32(_NUMBER.pack(offset))) == checksum else None


def _find_group(data: mmap.mmap, position: int, size: int) -> int | None:
    """Where the next intact group begins; an entry that holds a group's bytes has another offset in it."""
    while (position := data.find(_GROUP_MAGIC, position)) >= 0:
        if _group_at(data, position, size) is not None:
            return position
        position += 1
    return None
