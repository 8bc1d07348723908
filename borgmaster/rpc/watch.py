"""Owns Watch: readers follow the history by sequence; there is no buffer per reader.

A reader that is woken reads what is new after its sequence from the shared, bounded history. One that is
too slow finds that the history no longer reaches back to it, and is told to resync.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from borgcell.v1 import cell_pb2

from borgmaster.replica import Replica
from borgmaster.rpc import reads, render
from borgmaster.state.cell import CellState
from borgmaster.state.events import Recorded

BATCH_MAX: Final = 500
HEARTBEAT_S: Final = (
    5.0  # an empty message, so that a reader can tell a quiet cell from a dead replica
)


class WatchHub:
    """Wakes watchers when something was recorded. Lives in the event loop."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Event] = set()

    def wake(self) -> None:
        """Something was recorded."""
        for waiter in self._waiters:
            waiter.set()

    async def watch(
        self, replica: Replica, request: cell_pb2.WatchRequest
    ) -> AsyncIterator[cell_pb2.WatchResponse]:
        """Messages for one reader, until it goes away."""
        is_wanted = reads.concerns(request.key)
        position = replica.read(lambda cell: _start(cell, request.after_sequence))
        news = asyncio.Event()
        self._waiters.add(news)
        try:
            yield cell_pb2.WatchResponse(sequence=position)
            while True:
                news.clear()
                lines, end, lost = replica.read(partial(_after, after=position))
                wanted = [render.event(line) for line in lines if is_wanted(line)]
                if lost:
                    yield cell_pb2.WatchResponse(resync=True, sequence=end)
                elif wanted:
                    yield cell_pb2.WatchResponse(events=wanted, sequence=end)
                if end != position:
                    position = end
                    continue  # there may be more than one batch
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await news.wait()
                except TimeoutError:
                    yield cell_pb2.WatchResponse(sequence=position)
        finally:
            self._waiters.discard(news)


def _start(cell: CellState, after: int) -> int:
    if after > 0:
        return after
    if after < 0 and cell.history:
        return cell.history[0].sequence - 1
    return cell.sequence


def _after(cell: CellState, after: int) -> tuple[list[Recorded], int, bool]:
    """Up to a batch of lines after a sequence, where they end, and whether older ones are gone."""
    if after > cell.sequence:  # a watcher of another past (restored cell): start over
        return [], cell.sequence, True
    if cell.history and cell.history[0].sequence > after + 1:
        return [], cell.sequence, True
    fresh: list[Recorded] = []
    for line in reversed(cell.history):
        if line.sequence <= after:
            break
        fresh.append(line)
    batch = fresh[::-1][:BATCH_MAX]
    return batch, batch[-1].sequence if batch else after, False
