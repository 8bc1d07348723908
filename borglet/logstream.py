"""Owns the way of a task's log from its runtime's blocking iterator to an asynchronous stream."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Final

from borglet.runtime.port import LogPiece

PIECES_MAX: Final = 64  # read ahead of a slow reader
_PUT_TIMEOUT_S: Final = 0.5

Read = Callable[[Callable[[], bool]], Iterator[LogPiece]]


class _End:
    """After the last piece; carries what ended the log, if anything did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


async def stream(read: Read) -> AsyncGenerator[LogPiece, None]:
    """What ``read`` yields, read in a thread of its own that ends when the consumer goes. Raises what it raises."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[LogPiece | _End] = asyncio.Queue(PIECES_MAX)
    cancelled = threading.Event()

    def put(piece: LogPiece | _End) -> None:
        future = asyncio.run_coroutine_threadsafe(queue.put(piece), loop)
        while not cancelled.is_set():
            try:
                future.result(_PUT_TIMEOUT_S)
            except TimeoutError:
                continue
            return
        future.cancel()

    def work() -> None:
        error: BaseException | None = None
        try:
            for piece in read(cancelled.is_set):
                put(piece)
                if cancelled.is_set():
                    return
        except BaseException as caught:  # noqa: BLE001 - raised again where the consumer is
            error = caught
        if not cancelled.is_set():
            put(_End(error))

    threading.Thread(target=work, name="read-log", daemon=True).start()
    try:
        while True:
            piece = await queue.get()
            if isinstance(piece, _End):
                if piece.error is not None:
                    raise piece.error
                return
            yield piece
    finally:
        cancelled.set()
