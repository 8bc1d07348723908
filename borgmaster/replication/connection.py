"""Owns one stream of frames to another replica, on the log's poller and in its thread.

The place for mTLS is here: between the socket and ``FrameReader`` on the way in, and between ``encode_frame`` and
``_outgoing`` on the way out (an ``ssl.MemoryBIO`` pair); ``Network`` then compares the certificate with the Hello.
"""

import socket
from collections import deque
from typing import Final, Protocol

from pysyncobj.poller import POLL_EVENT_TYPE

from borgmaster.replication.wire import FRAME_BYTES_MAX, BadFrame, Frame, FrameReader, encode_frame

_READ_BYTES: Final = 256 << 10
_READS_PER_EVENT: Final = 32  # then the others get their turn
OUTGOING_BYTES_MAX: Final = 64 << 20  # a peer that takes nothing is disconnected

_READ: Final[int] = POLL_EVENT_TYPE.READ | POLL_EVENT_TYPE.ERROR
_WRITE: Final[int] = POLL_EVENT_TYPE.WRITE


class Poller(Protocol):
    """PySyncObj's poller."""

    def subscribe(self, descr: int, callback: object, events: int, /) -> None:
        """Call back with (descriptor, events)."""
        ...

    def unsubscribe(self, descr: int, /) -> None:
        """No more calls."""
        ...


class Listener(Protocol):
    """Who hears of a connection."""

    def on_open(self, connection: "Connection") -> None:
        """The stream is up."""
        ...

    def on_frame(self, connection: "Connection", frame: Frame) -> None:
        """A frame has arrived."""
        ...

    def on_closed(self, connection: "Connection", reason: str) -> None:
        """The stream has ended, by either side, and is closed."""
        ...


class Connection:
    """A non-blocking stream; closed at once by anything unexpected."""

    def __init__(
        self, poller: Poller, stream: socket.socket, listener: Listener, *, connecting: bool
    ) -> None:
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.backlog_bytes = 0
        self.received_ms = 0  # kept by Network, as is ``peer``
        self.peer = ""  # name, once the Hello was right
        self._poller = poller
        self._stream = stream
        self._descriptor = stream.fileno()
        self._listener = listener
        self._connecting = connecting
        self._closed = False
        self._reader = FrameReader()
        self._outgoing: deque[memoryview] = deque()
        self._subscribe()

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def trust(self) -> None:
        """The peer has said who it is: large frames are welcome."""
        self._reader.limit = FRAME_BYTES_MAX

    def send(self, frame: Frame) -> bool:
        """Queue a frame and write what the socket takes; False when the connection has ended."""
        if self._closed:
            return False
        data = encode_frame(frame)
        self.backlog_bytes += len(data)
        self._outgoing.append(memoryview(data))
        if self.backlog_bytes > OUTGOING_BYTES_MAX:
            self.close(f"{self.backlog_bytes} bytes wait for it")
        elif not self._connecting:
            self._flush()
        return not self._closed

    def close(self, reason: str) -> None:
        """End it and tell the listener. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._poller.unsubscribe(self._descriptor)
        self._stream.close()
        self._outgoing.clear()
        self._listener.on_closed(self, reason)

    def _subscribe(self) -> None:
        wants_write = self._connecting or bool(self._outgoing)
        self._poller.subscribe(
            self._descriptor, self._on_event, _READ | (_WRITE if wants_write else 0)
        )

    def _flush(self) -> None:
        waited = bool(self._outgoing)
        try:
            while self._outgoing:
                sent = self._stream.send(self._outgoing[0])
                self.backlog_bytes -= sent
                if sent == len(self._outgoing[0]):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = self._outgoing[0][sent:]
        except BlockingIOError:
            pass
        except OSError as error:
            self.close(str(error))
            return
        if waited:
            self._subscribe()

    def _on_event(self, descriptor: int, events: int) -> None:
        if self._closed or descriptor != self._descriptor:
            return
        if self._connecting:
            self._finish_connecting()
            return
        if events & _WRITE:
            self._flush()
        if events & _READ:
            self._read()

    def _finish_connecting(self) -> None:
        error = self._stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.close(f"cannot connect: error {error}")
            return
        self._connecting = False
        self._subscribe()
        self._listener.on_open(self)
        if not self._closed:
            self._flush()

    def _read(self) -> None:
        for _ in range(_READS_PER_EVENT):
            if self._closed:
                return
            try:
                data = self._stream.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self.close(str(error))
                return
            if not data:
                self.close("closed by the peer")
                return
            self._deliver(data)
            if len(data) < _READ_BYTES:
                return

    def _deliver(self, data: bytes) -> None:
        frames = self._reader.feed(data)
        try:
            for frame in frames:
                self._listener.on_frame(self, frame)
                if self._closed:
                    return
        except BadFrame as error:
            self.close(f"sent a bad frame: {error}")
        finally:
            frames.close()  # type: ignore[attr-defined]  # a generator


def dial(address: tuple[str, int]) -> socket.socket:
    """A socket that is connecting. Raises OSError."""
    family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    stream = socket.socket(family, kind, protocol)
    stream.setblocking(False)
    try:
        stream.connect(target)
    except BlockingIOError:
        pass
    except OSError:
        stream.close()
        raise
    return stream


def listen(address: tuple[str, int]) -> socket.socket:
    """A listening socket, on this one address only. Raises OSError."""
    family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    stream = socket.socket(family, kind, protocol)
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.setblocking(False)
        stream.bind(target)
        stream.listen(16)
    except OSError:
        stream.close()
        raise
    return stream
