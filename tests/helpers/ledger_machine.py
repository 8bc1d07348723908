"""A state machine that keeps a ledger: every command once, in order. What the tests of the log drive."""

from collections.abc import Iterable, Iterator

import msgspec

from borgmaster.state.commands import SetDraining
from borgmaster.state.entry import Proposal, decode_entry
from borgmaster.state.outcome import Accepted, Outcome

_CHUNK_LINES = 200


def a_line(text: str, *, request_id: str = "") -> Proposal:
    """A proposal that writes one line; a retry with the same request id writes nothing."""
    return Proposal(SetDraining(text, draining=True), request_id or text)


class LedgerMachine:
    """Lines in the order of the log, and where the line of each request id stands."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.positions: dict[str, int] = {}
        self.applied: list[int] = []  # indexes of the entries since start or restore
        self.restored = 0

    def apply(self, index: int, data: bytes) -> tuple[Outcome, ...]:
        self.applied.append(index)
        return tuple(
            self._write(index, proposal.command.name, proposal.request_id)
            for proposal in decode_entry(data).proposals
            if isinstance(proposal.command, SetDraining)
        )

    def capture(self) -> Iterator[bytes]:
        lines = list(self.lines)
        return (
            msgspec.msgpack.encode(lines[start : start + _CHUNK_LINES])
            for start in range(0, len(lines), _CHUNK_LINES)
        )

    def restore(self, chunks: Iterable[bytes]) -> None:
        try:
            decoded = [msgspec.msgpack.decode(chunk, type=list[str]) for chunk in chunks]
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error
        self.lines = [line for chunk in decoded for line in chunk]
        self.positions = {line: position for position, line in enumerate(self.lines, 1)}
        self.applied = []
        self.restored += 1

    def _write(self, index: int, text: str, request_id: str) -> Outcome:
        known = self.positions.get(request_id)
        if known is not None:
            return Accepted(index=index, changed=False, version=known)
        self.lines.append(text)
        self.positions[request_id] = len(self.lines)
        return Accepted(index=index, version=len(self.lines))
