"""Owns the form of one log entry: commands with their request ids and the proposer's time, as versioned bytes."""

from typing import Final

import msgspec

from borgmaster.state.commands import Command

ENTRY_VERSION: Final = 1
ENTRY_BYTES_MAX: Final = 4 << 20  # raft.md §10.1


class Proposal(msgspec.Struct, frozen=True):
    """A command, and the client's request id ("" for none)."""

    command: Command
    request_id: str = ""


class Entry(msgspec.Struct, frozen=True):
    """What one position of the log holds. ``at_ms`` is stamped by the proposer; apply never reads a clock."""

    at_ms: int
    proposals: tuple[Proposal, ...]
    version: int = ENTRY_VERSION


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """The bytes of an entry."""
    return _ENCODER.encode(entry)


def decode_entry(data: bytes) -> Entry:
    """The entry in ``data``. Raises msgspec.DecodeError when it is not one that this version knows."""
    return _DECODER.decode(data)
