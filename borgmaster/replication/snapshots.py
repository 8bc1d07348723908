"""Owns the snapshot file: a picture of the state machine at one index, in PySyncObj's place of a "full dump".

File = header | chunk* | trailer. The header has the format's version, the index and term of the last entry in the
picture and a CRC; each chunk of ``StateMachine.capture()`` keeps its borders and has a length and a CRC; the trailer
counts chunks and bytes and has the SHA-256 of all before it. Written to a temporary file, synced, renamed: a file with
the final name is complete. It is verified as a whole before a single chunk of it is used.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from borgmaster.replication.failure import damaged

MAGIC: Final = b"BCSNAP\r\n"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHQQ")  # magic, version, index, term
_CRC: Final = struct.Struct("<I")
_CHUNK: Final = struct.Struct("<II")  # length, CRC-32
_TRAILER: Final = struct.Struct("<IQQ32s")  # mark, chunks, bytes, SHA-256 of all before the trailer
_TRAILER_MARK: Final = 0xFFFF_FFFF
CHUNK_BYTES_MAX: Final = 1 << 30


class SnapshotHeader(Struct, frozen=True):
    """Which state a snapshot holds: after the entry of this index and term."""

    index: int
    term: int


class SnapshotStopped(Exception):
    """The writing was given up because the replica closes."""


def write_snapshot(
    path: Path, header: SnapshotHeader, chunks: Iterable[bytes], *, stopped: "Stopper"
) -> int:
    """Write and sync a whole snapshot at ``path`` and return its size. Raises OSError, SnapshotStopped."""
    with path.open("wb") as file:
        writer = _HashingWriter(file)
        fixed = _HEADER.pack(MAGIC, VERSION, header.index, header.term)
        writer.write(fixed + _CRC.pack(zlib.crc32(fixed)))
        count, size = 0, 0
        for chunk in chunks:
            if stopped():
                raise SnapshotStopped
            assert len(chunk) <= CHUNK_BYTES_MAX, "a chunk must stay far below the trailer's mark"
            writer.write(_CHUNK.pack(len(chunk), zlib.crc32(chunk)))
            writer.write(chunk)
            count, size = count + 1, size + len(chunk)
        file.write(_TRAILER.pack(_TRAILER_MARK, count, size, writer.digest()))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def read_header(path: Path) -> SnapshotHeader:
    """The header of a snapshot. Raises LogFailed when it is damaged."""
    with path.open("rb") as file:
        return _read_header(path, file)


def verify_snapshot(path: Path) -> SnapshotHeader:
    """Read all of a snapshot and check every checksum. Raises LogFailed with the offset of what is wrong."""
    for _ in read_chunks(path):
        pass
    return read_header(path)


def read_chunks(path: Path) -> Iterator[bytes]:
    """The chunks as they were captured. Raises LogFailed at the first damage; verify first."""
    with path.open("rb") as file:
        _read_header(path, file)
        file.seek(0)
        digest = hashlib.sha256(file.read(_HEADER.size + _CRC.size))
        count, size = 0, 0
        while True:
            offset = file.tell()
            head = file.read(_CHUNK.size)
            if len(head) < _CHUNK.size:
                raise damaged(path, f"cut at offset {offset}")
            length, checksum = _CHUNK.unpack(head)
            if length == _TRAILER_MARK:
                file.seek(offset)
                _check_trailer(path, file, (count, size, digest.digest()))
                return
            chunk = file.read(length) if length <= CHUNK_BYTES_MAX else b""
            if len(chunk) < length or zlib.crc32(chunk) != checksum:
                raise damaged(path, f"damaged chunk at offset {offset}")
            digest.update(head)
            digest.update(chunk)
            count, size = count + 1, size + length
            yield chunk


def _read_header(path: Path, file: BinaryIO) -> SnapshotHeader:
    fixed = file.read(_HEADER.size)
    checksum = file.read(_CRC.size)
    if len(checksum) < _CRC.size or _CRC.unpack(checksum)[0] != zlib.crc32(fixed):
        raise damaged(path, "damaged header at offset 0")
    magic, version, index, term = _HEADER.unpack(fixed)
    if magic != MAGIC:
        raise damaged(path, "is not a snapshot")
    if version != VERSION:
        raise damaged(path, f"has format {version}, this version reads {VERSION}")
    return SnapshotHeader(index, term)


def _check_trailer(path: Path, file: BinaryIO, expected: tuple[int, int, bytes]) -> None:
    offset = file.tell()
    trailer = file.read(_TRAILER.size)
    if len(trailer) < _TRAILER.size or file.read(1):
        raise damaged(path, f"wrong length, trailer at offset {offset}")
    if _TRAILER.unpack(trailer)[1:] != expected:
        raise damaged(path, f"checksum of the whole does not match, trailer at offset {offset}")


class Stopper:
    """A flag that a writing thread asks between chunks."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        """Make the writer give up at its next chunk."""
        self._stopped = True

    def __call__(self) -> bool:
        """Whether to give up."""
        return self._stopped


class _HashingWriter:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def digest(self) -> bytes:
        return self._digest.digest()
