"""Owns the form of a cell on disk and between replicas: checksummed chunks of msgpack by field name.

Every chunk is ``crc32 (4 bytes, big-endian) + msgpack``. The first is the head, then come the parts in a fixed
order, at most ``CHUNK_ITEMS_MAX`` values each, and the last is the end with the digest of all before it. New
fields need defaults; a change that old readers would get wrong raises ``FORMAT``.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

import msgspec
from borgcell.types import JobKey

from borgmaster.state.cell import CellState
from borgmaster.state.events import Recorded
from borgmaster.state.model import Job, Machine, Task
from borgmaster.state.outcome import Outcome

FORMAT: Final = 1
CHUNK_ITEMS_MAX: Final = 1_000
CRC_BYTES: Final = 4

_Item = TypeVar("_Item")


class Request(msgspec.Struct, frozen=True):
    """An answer that is remembered."""

    request_id: str
    at_ms: int
    outcome: Outcome


class Retired(msgspec.Struct, frozen=True):
    """How far the incarnations of a job's forgotten tasks went."""

    job: JobKey
    number: int


class Head(msgspec.Struct, frozen=True, tag=True):
    """What the chunks are of."""

    format: int
    cell: str
    applied_index: int
    now_ms: int
    sequence: int
    retired_floor: int
    shrunk: tuple[str, ...]


class Jobs(msgspec.Struct, frozen=True, tag=True):
    """Some jobs."""

    items: tuple[Job, ...]


class Tasks(msgspec.Struct, frozen=True, tag=True):
    """Some tasks."""

    items: tuple[Task, ...]


class Machines(msgspec.Struct, frozen=True, tag=True):
    """Some machines."""

    items: tuple[Machine, ...]


class Requests(msgspec.Struct, frozen=True, tag=True):
    """Some answers, oldest first."""

    items: tuple[Request, ...]


class Retirements(msgspec.Struct, frozen=True, tag=True):
    """Some retired numbers, oldest first."""

    items: tuple[Retired, ...]


class History(msgspec.Struct, frozen=True, tag=True):
    """Some lines of the history, oldest first."""

    items: tuple[Recorded, ...]


class End(msgspec.Struct, frozen=True, tag=True):
    """Nothing follows: how many chunks came before, and the sha256 of them all."""

    chunks: int
    sha256: str


Part = Jobs | Tasks | Machines | Requests | Retirements | History
Chunk = Head | Part | End


class _FormatOnly(msgspec.Struct):
    """What every version must be able to read of a head."""

    format: int = 0


# Dicts inside values keep their order: it comes from the entries and from decisions, which replicas share.
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Chunk]] = msgspec.msgpack.Decoder(Chunk)


def capture(cell: CellState) -> Iterator[bytes]:
    """The chunks of the cell as it is now; encoded as they are asked for, by any thread.

    The copies are taken at the call and share the values, which never change.
    """
    head = Head(
        FORMAT,
        cell.name,
        cell.applied_index,
        cell.now_ms,
        cell.sequence,
        cell.retired_floor,
        tuple(sorted(cell.shrunk)),
    )
    jobs, tasks, machines = dict(cell.jobs), dict(cell.tasks), dict(cell.machines)
    requests, retired, history = dict(cell.requests), dict(cell.retired), tuple(cell.history)

    def parts() -> Iterator[Chunk]:
        yield head
        yield from map(Jobs, _slices(jobs[key] for key in sorted(jobs)))
        yield from map(Tasks, _slices(tasks[key] for key in sorted(tasks)))
        yield from map(Machines, _slices(machines[name] for name in sorted(machines)))
        yield from map(Requests, _slices(Request(id, *answer) for id, answer in requests.items()))
        yield from map(Retirements, _slices(Retired(*pair) for pair in retired.items()))
        yield from map(History, _slices(history))

    return _framed(parts())


def digest(cell: CellState) -> str:
    """A hash of everything replicated, equal on replicas at the same index. Costs an encoding of the whole cell."""
    *_, end = capture(cell)
    chunk = _DECODER.decode(end[CRC_BYTES:])
    assert isinstance(chunk, End), "a capture ends with its end"
    return chunk.sha256


def restore(chunks: Iterable[bytes]) -> CellState:
    """The cell that was captured. Raises ValueError when the chunks are damaged, cut off or of a newer version."""
    cell: CellState | None = None
    sha256 = hashlib.sha256()
    for position, data in enumerate(chunks):
        chunk = _unframed(data, position)
        match chunk:
            case Head():
                if cell is not None:
                    raise ValueError(f"checkpoint: chunk {position} is a second head")
                cell = _from_head(chunk)
            case End():
                if cell is None or (chunk.chunks, chunk.sha256) != (position, sha256.hexdigest()):
                    raise ValueError(
                        f"checkpoint: its {position} chunks are not the {chunk.chunks} that were written"
                    )
                return cell
            case _:
                if cell is None:
                    raise ValueError("checkpoint: the first chunk is not its head")
                _load(cell, chunk)
        sha256.update(data)
    raise ValueError("checkpoint: it is cut off, its end is missing")


def _framed(parts: Iterable[Chunk]) -> Iterator[bytes]:
    sha256, count = hashlib.sha256(), 0
    for part in parts:
        data = _frame(part)
        sha256.update(data)
        count += 1
        yield data
    yield _frame(End(count, sha256.hexdigest()))


def _frame(chunk: Chunk) -> bytes:
    body = _ENCODER.encode(chunk)
    return zlib.crc32(body).to_bytes(CRC_BYTES, "big") + body


def _unframed(data: bytes, position: int) -> Chunk:
    body = data[CRC_BYTES:]
    if zlib.crc32(body).to_bytes(CRC_BYTES, "big") != data[:CRC_BYTES]:
        raise ValueError(f"checkpoint: chunk {position} is damaged, its checksum does not match")
    if position == 0:
        _require_known_format(body)
    try:
        return _DECODER.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(
            f"checkpoint: chunk {position} is not one of format {FORMAT}: {error}"
        ) from error


def _require_known_format(body: bytes) -> None:
    try:
        found = msgspec.msgpack.decode(body, type=_FormatOnly).format
    except msgspec.DecodeError as error:
        raise ValueError(f"checkpoint: its head cannot be read: {error}") from error
    if found > FORMAT:
        raise ValueError(
            f"checkpoint: it has format {found}, this version reads up to {FORMAT}: upgrade first"
        )


def _from_head(head: Head) -> CellState:
    cell = CellState(head.cell)
    cell.applied_index = head.applied_index
    cell.now_ms = head.now_ms
    cell.sequence = head.sequence
    cell.retired_floor = head.retired_floor
    cell.shrunk.update(head.shrunk)
    return cell


def _load(cell: CellState, part: Part) -> None:
    match part:
        case Jobs():
            cell.jobs.update((job.key, job) for job in part.items)
        case Tasks():
            for task in part.items:
                cell.tasks[task.key] = task
                cell.indexes.put(None, task)
        case Machines():
            cell.machines.update((machine.name, machine) for machine in part.items)
        case Requests():
            cell.requests.update((one.request_id, (one.at_ms, one.outcome)) for one in part.items)
        case Retirements():
            cell.retired.update((one.job, one.number) for one in part.items)
        case History():
            cell.history.extend(part.items)


def _slices(items: Iterable[_Item]) -> Iterator[tuple[_Item, ...]]:
    iterator = iter(items)
    while piece := tuple(islice(iterator, CHUNK_ITEMS_MAX)):
        yield piece
