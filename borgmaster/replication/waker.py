"""Owns the waking of the log's thread from its poll, by any thread."""

import contextlib
import os

from pysyncobj.poller import POLL_EVENT_TYPE

from borgmaster.replication.connection import Poller


class Waker:
    """An eventfd in the poller: never full, unlike PySyncObj's pipe."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def attach(self, poller: Poller) -> None:
        """Wake whoever polls this poller."""
        poller.subscribe(self._descriptor, self._on_event, POLL_EVENT_TYPE.READ)

    def wake(self) -> None:
        """End the current or the next poll at once."""
        with contextlib.suppress(OSError, ValueError):  # closed: nobody polls any more
            os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Let go. Idempotent."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _on_event(self, descriptor: int, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(descriptor)
