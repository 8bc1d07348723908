"""Owns which replicas are connected: one stream per pair, opened by the one whose name is greater.

FIFO per pair; a message is lost only together with the stream. Each side says who it is and whom it wants before
anything else; a stream without that, or with a wrong cell, protocol or name, is closed.
"""

import logging
import socket
from collections.abc import Callable
from typing import Final, Protocol

from borgmaster.ports import Clock
from borgmaster.replication.config import LogConfig, split_address
from borgmaster.replication.connection import Connection, Poller, dial, listen
from borgmaster.replication.failure import EXIT_BUG, LogFailed
from borgmaster.replication.wire import PROTOCOL, Frame, Hello, Message, Ping

logger = logging.getLogger(__name__)

PING_MS: Final = 300
STRANGERS_MAX: Final = 16  # accepted streams that have not said who they are
_STALL_MS: Final = 200  # of our own thread: not the peers' silence
_READ_EVENT: Final = 1 | 4  # PySyncObj's READ and ERROR


class Listener(Protocol):
    """Who hears of the other replicas, in the log's thread."""

    def on_connected(self, name: str) -> None:
        """A stream to this replica is up."""
        ...

    def on_disconnected(self, name: str) -> None:
        """It has ended."""
        ...

    def on_message(self, name: str, message: Message) -> None:
        """A replica has said something."""
        ...


class Links(Protocol):
    """The network as a replica needs it; ``Network``, or a simulated one."""

    def start(self, poller: Poller, listener: Listener) -> None:
        """Begin."""
        ...

    def tick(self) -> None:
        """Do what is due."""
        ...

    def send(self, name: str, message: Message) -> bool:
        """Queue a message."""
        ...

    def connected(self, name: str) -> bool:
        """Whether messages may arrive."""
        ...

    def backlog_bytes(self, name: str) -> int:
        """What is queued."""
        ...

    def close(self) -> None:
        """End."""
        ...


class Network:
    """The streams to the other replicas. Called from the log's thread only."""

    def __init__(self, config: LogConfig, clock: Clock) -> None:
        self._config = config
        self._now_ms: Callable[[], int] = clock.mono_ms
        self._peers: dict[str, Connection] = {}  # connected replicas, by name
        self._dialing: dict[str, Connection] = {}  # not yet answered, by name
        self._strangers: list[Connection] = []
        self._next_dial_ms: dict[str, int] = {}
        self._next_ping_ms = 0
        self._last_tick_ms = self._now_ms()
        self._socket: socket.socket | None = None
        self._poller: Poller | None = None
        self._listener: Listener | None = None

    def start(self, poller: Poller, listener: Listener) -> None:
        """Listen for the others. Raises LogFailed when the address is taken."""
        self._poller, self._listener = poller, listener
        try:
            self._socket = listen(split_address(self._config.listen))
        except OSError as error:
            raise LogFailed(
                f"cannot listen on {self._config.listen}: {error.strerror or error}", EXIT_BUG
            ) from error
        poller.subscribe(self._socket.fileno(), self._on_accept, _READ_EVENT)

    def tick(self) -> None:
        """Dial who is missing, ping, and drop who is silent."""
        now = self._now_ms()
        self._forgive_own_stall(now)
        for name in self._config.members:
            if name < self._config.name and self._should_dial(name, now):
                self._dial(name, now)
        everyone = [*self._peers.values(), *self._dialing.values(), *self._strangers]
        for connection in everyone:
            if now - connection.received_ms > self._config.silence_max_ms:
                connection.close(f"silent for {now - connection.received_ms} ms")
        if now >= self._next_ping_ms:
            self._next_ping_ms = now + PING_MS
            for connection in list(self._peers.values()):
                connection.send(Ping())

    def send(self, name: str, message: Message) -> bool:
        """Queue a message to a connected replica; False when it is not connected."""
        connection = self._peers.get(name)
        return connection is not None and connection.send(message)

    def connected(self, name: str) -> bool:
        """Whether there is a stream to this replica."""
        return name in self._peers

    def backlog_bytes(self, name: str) -> int:
        """How much waits for the socket of this replica."""
        connection = self._peers.get(name)
        return connection.backlog_bytes if connection else 0

    def close(self) -> None:
        """Close all, without telling the listener."""
        self._listener = None
        if self._socket is not None and self._poller is not None:
            self._poller.unsubscribe(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for connection in [*self._peers.values(), *self._dialing.values(), *self._strangers]:
            connection.close("this replica stops")

    # The life of a stream, called by Connection

    def on_open(self, connection: Connection) -> None:
        """A dialed stream is up: introduce ourselves."""
        for name, dialing in self._dialing.items():
            if dialing is connection:
                connection.send(self._hello(name))
                return

    def on_frame(self, connection: Connection, frame: Frame) -> None:
        """Hand a message on, or check who speaks."""
        connection.received_ms = self._now_ms()
        if isinstance(frame, Hello):
            self._on_hello(connection, frame)
        elif not connection.peer:
            connection.close("spoke before saying who it is")
        elif not isinstance(frame, Ping) and self._listener is not None:
            self._listener.on_message(connection.peer, frame)

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Forget a stream."""
        if connection in self._strangers:
            self._strangers.remove(connection)
        for name, dialing in list(self._dialing.items()):
            if dialing is connection:
                del self._dialing[name]
        name = connection.peer
        if name and self._peers.get(name) is connection:
            del self._peers[name]
            logger.info("replica_disconnected", extra={"replica": name, "reason": reason})
            if self._listener is not None:
                self._listener.on_disconnected(name)

    def _on_accept(self, _descriptor: int, _events: int) -> None:
        if self._socket is None or self._poller is None:
            return
        try:
            stream, _ = self._socket.accept()
        except OSError:  # gone again, or out of descriptors: it will be dialed anew
            return
        if len(self._strangers) >= STRANGERS_MAX:
            stream.close()
            return
        connection = Connection(self._poller, stream, self, connecting=False)
        connection.received_ms = self._now_ms()
        self._strangers.append(connection)

    def _on_hello(self, connection: Connection, hello: Hello) -> None:
        dialed = next((n for n, c in self._dialing.items() if c is connection), "")
        problem = self._problem_with(hello, dialed)
        if connection.peer or problem:
            logger.warning(
                "replica_refused", extra={"claims": hello.sender[:64], "reason": problem}
            )
            connection.close(f"refused: {problem or 'a second Hello'}")
            return
        name = hello.sender
        if dialed:
            del self._dialing[name]
        else:
            self._strangers.remove(connection)
            connection.send(self._hello(name))
        if connection.closed:
            return
        previous = self._peers.get(name)
        if previous is not None:
            previous.close("replaced by a newer stream")
        connection.trust()
        connection.peer = name
        self._peers[name] = connection
        logger.info("replica_connected", extra={"replica": name})
        if self._listener is not None:
            self._listener.on_connected(name)

    def _problem_with(self, hello: Hello, dialed: str) -> str:
        if hello.protocol != PROTOCOL:
            return f"it speaks protocol {hello.protocol}, we speak {PROTOCOL}"
        if hello.cell != self._config.cell:
            return "it belongs to another cell"
        if hello.receiver != self._config.name:
            return "it wants another replica: the addresses of the members differ"
        if dialed and hello.sender != dialed:
            return f"at the address of {dialed} answers {hello.sender[:64]}"
        if not dialed and (
            hello.sender not in self._config.members or hello.sender <= self._config.name
        ):
            return "it is not a replica that may dial this one"
        return ""

    def _hello(self, receiver: str) -> Hello:
        return Hello(PROTOCOL, self._config.cell, self._config.name, receiver)

    def _should_dial(self, name: str, now: int) -> bool:
        return (
            name not in self._peers
            and name not in self._dialing
            and now >= self._next_dial_ms.get(name, 0)
        )

    def _dial(self, name: str, now: int) -> None:
        self._next_dial_ms[name] = now + self._config.reconnect_ms
        try:
            stream = dial(split_address(self._config.members[name]))
        except OSError:
            return
        assert self._poller is not None, "started"
        connection = Connection(self._poller, stream, self, connecting=True)
        connection.received_ms = now
        self._dialing[name] = connection

    def _forgive_own_stall(self, now: int) -> None:
        stalled_ms = now - self._last_tick_ms
        self._last_tick_ms = now
        if stalled_ms > _STALL_MS:
            for connection in [*self._peers.values(), *self._dialing.values(), *self._strangers]:
                connection.received_ms += stalled_ms
