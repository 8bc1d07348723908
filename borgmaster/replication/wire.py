"""Owns what replicas say to each other: typed messages in length-prefixed msgpack frames. Nothing is unpickled."""

import struct
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

PROTOCOL: Final = 1
FRAME_BYTES_MAX: Final = 8 << 20  # an entry of 4 MiB behind a group of 1 MiB, and room
HELLO_BYTES_MAX: Final = 4096  # before a peer has said who it is
_LENGTH: Final = struct.Struct("<I")

Count = Annotated[int, Meta(ge=0)]


class Hello(Struct, frozen=True, array_like=True, tag=0):
    """The first frame in both directions: who speaks, to whom, of which cell."""

    protocol: int
    cell: str
    sender: str
    receiver: str


class Ping(Struct, frozen=True, array_like=True, tag=1):
    """Says only that the sender lives; followers have nothing else to say to each other."""


class Append(Struct, frozen=True, array_like=True, tag=2):
    """The leader's entries behind ``prev_index``; none is a heartbeat."""

    term: Count
    commit: Count
    round: Count  # echoed, so that the leader learns how fresh its lease is
    prev_index: Count
    prev_term: Count
    entries: list[tuple[bytes, int, int]]  # command, index, term


class Part(Struct, frozen=True, array_like=True):
    """A piece of the snapshot at ``index``."""

    index: Count
    term: Count
    offset: Count
    data: bytes
    last: bool


class SnapshotPart(Struct, frozen=True, array_like=True, tag=3):
    """The leader's snapshot, piece by piece; no part: a heartbeat while there is none to send."""

    term: Count
    commit: Count
    round: Count
    part: Part | None


class Ack(Struct, frozen=True, array_like=True, tag=4):
    """A follower's answer: how far its log matches (``success``), or where to go on (``reset``)."""

    term: Count
    round: Count
    next_index: Count
    success: bool
    reset: bool


class VoteRequest(Struct, frozen=True, array_like=True, tag=5):
    """A candidate asks for a vote in ``term``; ``forced``: the leader itself asked it to stand."""

    term: Count
    last_index: Count
    last_term: Count
    forced: bool


class Vote(Struct, frozen=True, array_like=True, tag=6):
    """A vote for the receiver."""

    term: Count


class PreVoteRequest(Struct, frozen=True, array_like=True, tag=7):
    """Asks whether a vote in ``term`` would be given; changes nothing."""

    term: Count
    last_index: Count
    last_term: Count


class PreVote(Struct, frozen=True, array_like=True, tag=8):
    """The answer. A newer ``term`` must be known even to who is refused, or two replicas refuse each other for ever."""

    term: Count  # of the sender
    asked: Count  # the term of the request
    granted: bool


class TimeoutNow(Struct, frozen=True, array_like=True, tag=9):
    """The leader hands over: stand at once."""

    term: Count


Message = (
    Append | SnapshotPart | Ack | VoteRequest | Vote | PreVoteRequest | PreVote | TimeoutNow
)  # between replicas that know each other
Frame = Hello | Ping | Message

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)


class BadFrame(Exception):
    """The bytes are no frame of ours; the connection must end."""


def encode_frame(frame: Frame) -> bytes:
    """The bytes of one frame."""
    body = _ENCODER.encode(frame)
    assert len(body) <= FRAME_BYTES_MAX, f"a frame of {len(body)} bytes"
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a stream of bytes into frames; ``limit`` bounds what one may ask us to hold."""

    def __init__(self, limit: int = HELLO_BYTES_MAX) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames complete by now. Raises BadFrame; the limit may be raised between two frames."""
        self._buffer += data
        position = 0
        try:
            while len(self._buffer) - position >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, position)
                if length > self.limit:
                    raise BadFrame(f"frame of {length} bytes, at most {self.limit} are allowed")
                end = position + _LENGTH.size + length
                if end > len(self._buffer):
                    return
                body = bytes(memoryview(self._buffer)[position + _LENGTH.size : end])
                position = end
                yield _decode(body)
        finally:
            del self._buffer[:position]


def _decode(body: bytes) -> Frame:
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadFrame(str(error)) from None
