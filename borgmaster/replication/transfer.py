"""Owns the sending of a snapshot to a replica whose next entry is no longer in the log."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from borgmaster.replication.failure import disk_refused
from borgmaster.replication.snapshots import SnapshotHeader, read_header
from borgmaster.replication.wire import Part

logger = logging.getLogger(__name__)

PART_BYTES: Final = 1 << 20
WINDOW_BYTES: Final = 8 << 20  # not yet taken by the peer's socket


class _Outgoing:
    def __init__(self, file: BinaryIO, header: SnapshotHeader) -> None:
        self.file = file
        self.header = header
        self.size = os.fstat(file.fileno()).st_size
        self.offset = 0

    def next_part(self) -> Part:
        """The next piece; a file stays readable here while a newer one takes its name."""
        data = self.file.read(PART_BYTES)
        part = Part(
            index=self.header.index,
            term=self.header.term,
            offset=self.offset,
            data=data,
            last=self.offset + len(data) >= self.size,
        )
        self.offset += len(data)
        return part


class Sender:
    """The transfers to other replicas, one at most for each; each has one file open until it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._running: dict[str, _Outgoing] = {}  # by name of the receiver

    def running(self) -> bool:
        """Whether any transfer is under way."""
        return bool(self._running)

    def parts(self, name: str, backlog: Callable[[], int]) -> Iterator[Part]:
        """The parts that may leave now; the last one of a file has ``last`` set. None when there is no snapshot."""
        if name not in self._running and not self._open(name):
            return
        while name in self._running and backlog() <= WINDOW_BYTES:
            part = self._running[name].next_part()
            if part.last:
                self.cancel(name)
            yield part

    def cancel(self, name: str) -> None:
        """Forget the transfer to a replica, if any."""
        outgoing = self._running.pop(name, None)
        if outgoing is not None:
            outgoing.file.close()

    def cancel_all(self) -> None:
        """Forget all transfers."""
        for name in list(self._running):
            self.cancel(name)

    def _open(self, name: str) -> bool:
        try:
            header = read_header(self._path)
            file = self._path.open("rb")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise disk_refused(self._path, "cannot read the snapshot", error) from error
        self._running[name] = _Outgoing(file, header)
        logger.info("snapshot_sending", extra={"to": name, "index": header.index})
        return True


class Receiver:
    """Assembles one snapshot from its parts, checking that each continues the one before."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "snapshot.received"
        self._file: BinaryIO | None = None
        self._expected = ("", 0, 0, 0)  # sender, index, term, offset
        self.path.unlink(missing_ok=True)

    def add(self, sender: str, part: Part) -> bool:
        """Write one part; True when the file is complete and synced (not yet verified). Raises LogFailed."""
        try:
            return self._add(sender, part)
        except OSError as error:
            raise disk_refused(self.path, "cannot write a received snapshot", error) from error

    def discard(self) -> None:
        """Drop what has arrived."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.path.unlink(missing_ok=True)

    def _add(self, sender: str, part: Part) -> bool:
        if part.offset == 0:
            self.discard()
            self._file = self.path.open("wb")
            self._expected = (sender, part.index, part.term, 0)
        if self._file is None or self._expected != (sender, part.index, part.term, part.offset):
            return False  # of another transfer: the leader finds out and starts again
        self._file.write(part.data)
        self._expected = (sender, part.index, part.term, part.offset + len(part.data))
        if not part.last:
            return False
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        return True
