"""Owns the zygote process of this Borglet: starts it, asks it, starts it again when it died."""

import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from borglet.runtime.port import RuntimeFailed

# With nothing but the standard library on its path, and this package.
_CODE: Final = (
    "import sys; sys.path.append(sys.argv[1]); from borglet.runtime.zygote import main; main()"
)
_PACKAGE_ROOT: Final = Path(__file__).resolve().parents[2]
_ANSWER_BYTES_MAX: Final = 1 << 16
_CLOSE_TIMEOUT_S: Final = 5


class Launcher:
    """Asks the zygote to fork; threads may ask at once."""

    def __init__(self, python: str) -> None:
        self._python = python
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Of the zygote; 0 when none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    def ask(
        self, request: Mapping[str, Any], *, timeout_ms: int, lock: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Send a request, with descriptors that the fork shall hold, and wait for the answer.

        Raises RuntimeFailed when the zygote cannot be reached or dies, TimeoutError.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self._send(msgspec.json.encode(request), [*lock, writer])
            finally:
                os.close(writer)
            return _read_answer(reader, timeout_ms)
        finally:
            os.close(reader)

    def close(self) -> None:
        """End the zygote; what it forked lives on."""
        with self._lock:
            self._end()

    def _send(self, data: bytes, descriptors: Sequence[int]) -> None:
        with self._lock:
            for is_retry in (False, True):
                try:
                    socket.send_fds(self._connection(), [data], descriptors)
                except (BrokenPipeError, ConnectionResetError) as error:
                    self._end()
                    if is_retry:
                        raise RuntimeFailed(f"zygote: {error}", permanent=False) from error
                except OSError as error:  # such as a command line that is too long
                    raise RuntimeFailed(f"zygote: {error}") from error
                else:
                    return

    def _connection(self) -> socket.socket:
        if self._requests is None:
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its:
                self._process = subprocess.Popen(
                    [self._python, "-I", "-S", "-B", "-c", _CODE, str(_PACKAGE_ROOT)],
                    stdin=its.fileno(),
                    stdout=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    start_new_session=True,  # Ctrl-C is for the Borglet
                )
            self._requests = ours
        return self._requests

    def _end(self) -> None:
        if self._requests is not None:
            self._requests.close()  # it ends when it has served what we sent
            self._requests = None
        if self._process is not None:
            try:
                self._process.wait(_CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _read_answer(reader: int, timeout_ms: int) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_ms / 1000
    data = b""
    poller = select.poll()  # unlike select it knows descriptors above 1023
    poller.register(reader, select.POLLIN)
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not poller.poll(left_s * 1000):
            raise TimeoutError(f"no answer from the zygote within {timeout_ms} ms")
        piece = os.read(reader, _ANSWER_BYTES_MAX)
        if not piece:
            break
        data += piece
    if not data:
        raise RuntimeFailed("the zygote or the shim died", permanent=False)
    answer: dict[str, Any] = msgspec.json.decode(data)
    return answer
