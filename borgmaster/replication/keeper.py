"""Owns the snapshots of one replica: writes them in a background thread, never by fork (the process has gRPC threads)."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from borgmaster.replication.failure import LogFailed, damaged, disk_refused
from borgmaster.replication.files import publish
from borgmaster.replication.snapshots import (
    SnapshotHeader,
    SnapshotStopped,
    Stopper,
    read_chunks,
    read_header,
    verify_snapshot,
    write_snapshot,
)

logger = logging.getLogger(__name__)

RETRY_MS: Final = 30_000  # after a failed snapshot: the disk is probably full
_PAUSE_S: Final = (
    0.0005  # between chunks, so that encoding does not starve the log's thread of the GIL
)


class SnapshotKeeper:
    """The newest snapshot, and at most one being written. Called from the log's thread only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self._thread: threading.Thread | None = None
        self._stopper = Stopper()
        self._written: SnapshotHeader | None = None
        self.newest: SnapshotHeader | None = None
        try:
            self._temporary.unlink(missing_ok=True)
            if path.exists():
                self.newest = verify_snapshot(path)
        except OSError as error:
            raise disk_refused(path, "cannot read the snapshot", error) from error

    @property
    def writing(self) -> bool:
        """Whether a snapshot is being written."""
        return self._thread is not None

    def start(self, header: SnapshotHeader, chunks: Iterator[bytes]) -> None:
        """Write what ``chunks`` yields in the background."""
        assert self._thread is None, "one snapshot at a time"
        self._written = None
        self._thread = threading.Thread(
            target=self._write, args=(header, chunks), name="log-snapshot"
        )
        self._thread.start()

    def finished(self) -> bool:
        """True once after each writing that has ended; ``newest`` tells how."""
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread.join()
        self._thread = None
        if self._written is not None:
            self.newest = self._written
        return True

    def chunks(self) -> Iterator[bytes]:
        """The captured chunks of the newest snapshot."""
        return read_chunks(self.path)

    def adopt(self, received: Path) -> SnapshotHeader:
        """Take a verified file from another replica as the newest. Raises LogFailed."""
        self.stop()
        try:
            publish(received, self.path)
        except OSError as error:
            raise disk_refused(self.path, "cannot take over a snapshot", error) from error
        self.newest = read_header(self.path)
        return self.newest

    def stop(self) -> None:
        """Give up a snapshot that is being written."""
        if self._thread is None:
            return
        self._stopper.stop()
        self._thread.join()
        self.finished()
        self._stopper = Stopper()

    def _write(self, header: SnapshotHeader, chunks: Iterator[bytes]) -> None:
        started = time.monotonic()
        try:
            size = write_snapshot(self._temporary, header, _gently(chunks), stopped=self._stopper)
            publish(self._temporary, self.path)
        except SnapshotStopped:
            self._discard()
        except Exception:  # the journal still has everything: the log's thread tries again later
            logger.exception("snapshot_failed", extra={"index": header.index})
            self._discard()
        else:
            self._written = header
            took_ms = round((time.monotonic() - started) * 1000)
            logger.info(
                "snapshot_written",
                extra={"index": header.index, "bytes": size, "ms": took_ms},
            )

    def _discard(self) -> None:
        try:
            self._temporary.unlink(missing_ok=True)
        except OSError:
            logger.exception("snapshot_discard_failed", extra={"file": str(self._temporary)})


def check_restorable(path: Path) -> SnapshotHeader | None:
    """The header of a received file, None when it is damaged on the way."""
    try:
        return verify_snapshot(path)
    except LogFailed:
        logger.exception("received_snapshot_damaged")
        return None


def refused_by_machine(path: Path, error: ValueError) -> LogFailed:
    """The failure for a snapshot that is intact but that the state machine cannot read."""
    return damaged(path, f"the state machine cannot restore it: {error}")


def _gently(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        time.sleep(_PAUSE_S)
