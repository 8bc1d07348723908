"""Owns the cell state of this process: the log applies to it, everyone else reads through ``read``.

The log's thread applies entries; all other threads only read, under the same lock and for a short time.
Listeners hear of every applied entry, in order, in the log's thread: they must be quick and must not read.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from borgmaster.state import checkpoint, core
from borgmaster.state.cell import CellState
from borgmaster.state.core import Applied

log = logging.getLogger(__name__)

T = TypeVar("T")
Listener = Callable[[Applied | None], None]


class Replica:
    """The state machine as the log drives it, and the reads of all others."""

    def __init__(self, cell: str) -> None:
        self._cell = CellState(cell)
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` after every applied entry, and with None when the whole state was replaced."""
        self._listeners.append(listener)

    def read(self, question: Callable[[CellState], T]) -> T:
        """The answer to a question about the state at one index. The question must not keep the state."""
        with self._lock:
            return question(self._cell)

    def apply(self, index: int, data: bytes) -> object:
        """Apply one entry of the log; the outcomes of its proposals."""
        with self._lock:
            applied = core.apply_bytes(self._cell, index, data)
        for fault in applied.faults:
            log.error("apply_fault", extra={"index": index, "detail": fault})
        for listener in self._listeners:
            listener(applied)
        return applied.outcomes

    def capture(self) -> Iterator[bytes]:
        """A consistent picture of the state, encoded lazily."""
        with self._lock:
            return checkpoint.capture(self._cell)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by a captured one. Raises ValueError when it is damaged, too new or of another cell."""
        restored = checkpoint.restore(chunks)
        if restored.name != self._cell.name:
            raise ValueError(
                f"the snapshot is of cell {restored.name!r}, this replica serves {self._cell.name!r}"
            )
        with self._lock:
            self._cell = restored
        for listener in self._listeners:
            listener(None)
