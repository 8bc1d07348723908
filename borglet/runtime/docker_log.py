"""Owns reading a container's log from the Docker Engine: both streams in order, with times, across its restarts."""

import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

from borglet.runtime.docker_stream import EngineStream, StreamRefused, format_time, parse_time_ns
from borglet.runtime.port import LogPiece, RuntimeFailed

_POLL_S: Final = 0.2  # how late a cancelled reader notices
_RETRY_S: Final = 0.5
_FRAME_BYTES_MAX: Final = (
    16 << 20
)  # the engine cuts lines at 16 KiB: anything near this is not a log
_FRAME: Final = struct.Struct(">BxxxL")
_STREAMS: Final = {1: "stdout", 2: "stderr"}


class LogFrames:
    """Cuts a log stream into pieces; feed it what ``EngineStream.read`` gave.

    ``last_ns`` is the time of the newest piece, from where a broken stream can be taken up again.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self.last_ns = 0

    def feed(self, data: bytes) -> list[LogPiece]:
        """The pieces that ``data`` completes, in order. Raises OSError when this is not a log stream."""
        self._rest += data
        pieces = []
        while len(self._rest) >= _FRAME.size:
            kind, size = _FRAME.unpack_from(self._rest)
            if kind not in _STREAMS or size > _FRAME_BYTES_MAX:
                raise OSError("the Docker Engine sent no log frames")
            end = _FRAME.size + size
            if len(self._rest) < end:
                break
            stamp, _, text = bytes(self._rest[_FRAME.size : end]).partition(b" ")
            del self._rest[:end]
            at_ns = parse_time_ns(stamp.decode("ascii", "replace"))
            self.last_ns = max(self.last_ns, at_ns)  # the two streams overtake each other a little
            pieces.append(LogPiece(_STREAMS[kind], at_ns // 1_000_000, text))
        return pieces


class LogReader:
    """Reads one log once, oldest first."""

    def __init__(
        self,
        url: str,
        engine_id: str,
        *,
        timeout_s: float,
        has_ended: Callable[[], bool],
        is_cancelled: Callable[[], bool],
    ) -> None:
        """``has_ended`` asks the engine whether the container ended; it may raise RuntimeFailed."""
        self._url = url
        self._path = f"/containers/{engine_id}/logs"
        self._timeout_s = timeout_s
        self._has_ended = has_ended
        self._is_cancelled = is_cancelled
        self._last_ns = 0

    def pieces(self, tail_lines: int) -> Iterator[LogPiece]:
        """What is there now. Raises RuntimeFailed when the engine did not give all of it."""
        try:
            yield from self._read(tail_lines, follow=False)
        except OSError as error:
            raise RuntimeFailed(f"cannot read the log: {error}", permanent=False) from error
        self._has_ended()  # a stream ends alike when the engine dies: it must still answer

    def follow(self, tail_lines: int) -> Iterator[LogPiece]:
        """What is there and what comes, until the container ended; an engine that is away is waited for."""
        while not self._is_cancelled():
            try:
                yield from self._read(tail_lines, follow=True)
                if self._has_ended():
                    # what came between the last piece and its end, if the stream was cut off before
                    yield from self._read(0, follow=False)
                    return
            except (OSError, RuntimeFailed):
                time.sleep(_RETRY_S)  # the engine is away; is_cancelled is asked before each try
            if self._last_ns:
                tail_lines = 0

    def _read(self, tail_lines: int, *, follow: bool) -> Iterator[LogPiece]:
        query = {
            "stdout": "1",
            "stderr": "1",
            "timestamps": "1",
            "follow": str(int(follow)),
            "tail": str(tail_lines) if tail_lines > 0 else "all",
        }
        if self._last_ns:
            query["since"] = format_time(self._last_ns + 1)
        stream = EngineStream(self._url, self._path, query, timeout_s=self._timeout_s)
        frames = LogFrames()
        give_up_at = time.monotonic() + self._timeout_s
        try:
            while not self._is_cancelled():
                data = stream.read(_POLL_S)
                if data == b"":
                    return
                if not stream.is_open and time.monotonic() > give_up_at:
                    raise OSError("the Docker Engine does not answer")
                for piece in frames.feed(data or b""):
                    self._last_ns = max(self._last_ns, frames.last_ns)
                    yield piece
        except StreamRefused as error:
            if error.status == 404:
                return  # forgotten meanwhile
            raise OSError(str(error)) from error
        finally:
            stream.close()
