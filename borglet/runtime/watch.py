"""Owns waiting for the end of shims, each by a pidfd, all by one epoll."""

import contextlib
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

_DRAIN_BYTES: Final = 8


class ShimWatch:
    """Tells when one of the watched shims ended. Threads may add; one waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: dict[int, Path] = {}  # containers, keyed by the pidfd of their shim
        self._paths: set[Path] = set()
        self._epoll = select.epoll()
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._news, select.EPOLLIN)
        self._is_closed = False

    def add(self, container: Path, shim_pid: int, is_held: Callable[[], bool]) -> None:
        """Watch a shim; ``is_held`` says whether it lives, asked once its pid cannot be reused any more."""
        with self._lock:
            if self._is_closed or container in self._paths:
                return
            try:
                handle = os.pidfd_open(shim_pid)
            except OSError:
                self.wake()
                return
            if not is_held():
                os.close(handle)
                self.wake()
                return
            self._handles[handle] = container
            self._paths.add(container)
            self._epoll.register(handle, select.EPOLLIN)

    def wait(self, timeout_ms: int) -> bool:
        """True as soon as a watched shim ended, or ``wake`` was called."""
        if self._is_closed:
            return False
        ready = self._epoll.poll(timeout_ms / 1000)
        with self._lock:
            if self._is_closed:
                return False
            for handle, _ in ready:
                if handle == self._news:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._news, _DRAIN_BYTES)
                elif handle in self._handles:
                    self._forget(handle)
        return bool(ready)

    def wake(self) -> None:
        """Make the one who waits look."""
        os.eventfd_write(self._news, 1)

    def close(self) -> None:
        """Stop watching. The one who waits returns, so the epoll stays until it is collected."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.wake()
            for handle in list(self._handles):
                self._forget(handle)

    def _forget(self, handle: int) -> None:
        self._paths.discard(self._handles.pop(handle))
        self._epoll.unregister(handle)
        os.close(handle)

    def __del__(self) -> None:
        self._epoll.close()
        os.close(self._news)
