"""Owns what master and scheduler process say to each other: length-prefixed msgpack, one answer per request.

Both ends are the same installation, so there are no versions. A frame is four bytes of length, big-endian, and
so many bytes of one message.
"""

from typing import Final

import msgspec
from borgcell.types import TaskKey
from msgspec import Struct

from scheduler.model import Delta, PendingRow
from scheduler.plan import Explanation, Plan

HEADER_BYTES: Final = 4
FRAME_BYTES_MAX: Final = 256 << 20  # a plan of 10,000 placements has 1.7 MB


class Reset(Struct, frozen=True, tag=True):
    """Forget everything and start from this. Not answered."""

    delta: Delta


class Feed(Struct, frozen=True, tag=True):
    """Take over a change. Not answered."""

    delta: Delta


class AskPlan(Struct, frozen=True, tag=True):
    """Plan a pass."""

    id: int
    seed: int
    now_ms: int
    tasks_max: int


class AskDryRun(Struct, frozen=True, tag=True):
    """Plan a pass as if ``pending`` were pending too and ``removed`` were gone; answer about ``pending`` only."""

    id: int
    pending: tuple[PendingRow, ...]
    removed: tuple[TaskKey, ...]
    seed: int
    now_ms: int
    tasks_max: int


class AskExplanation(Struct, frozen=True, tag=True):
    """Explain where a task could go."""

    id: int
    pending: PendingRow
    now_ms: int


Request = Reset | Feed | AskPlan | AskDryRun | AskExplanation


class Planned(Struct, frozen=True, tag=True):
    """Answer to AskPlan and AskDryRun."""

    id: int
    plan: Plan


class Explained(Struct, frozen=True, tag=True):
    """Answer to AskExplanation."""

    id: int
    explanation: Explanation


Answer = Planned | Explained

_ENCODER: Final = msgspec.msgpack.Encoder()
_REQUESTS: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_ANSWERS: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """The frame of a message."""
    body = _ENCODER.encode(message)
    assert len(body) <= FRAME_BYTES_MAX, f"a message of {len(body)} bytes exceeds {FRAME_BYTES_MAX}"
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes) -> int:
    """The length in a header. Raises ValueError when it is absurd: the stream is out of step."""
    length = int.from_bytes(header, "big")
    if length > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {length} bytes exceeds {FRAME_BYTES_MAX}")
    return length


def decode_request(body: bytes) -> Request:
    """The request in a frame. Raises msgspec.DecodeError."""
    return _REQUESTS.decode(body)


def decode_answer(body: bytes) -> Answer:
    """The answer in a frame. Raises msgspec.DecodeError."""
    return _ANSWERS.decode(body)
