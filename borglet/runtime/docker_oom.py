"""Owns noticing that the kernel killed for memory in a Docker container.

The engine was seen to miss one, once in a few hundred runs; the likely cause is that it looks at the cgroup only
after it was told, and the cgroup may be gone by then. On cgroup v1 we have the kernel count for us: it adds one to an eventfd for
each time the limit was hit in vain, and one more when the cgroup goes. On v2 there is only the counter while it lives.
"""

import contextlib
import os
import threading
from typing import Final

from borglet.runtime.cgroups import Cgroup, CgroupV1

_OF_REMOVAL: Final = 1


class OomWatch:
    """Watches containers, known by the engine's ids. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._killed: set[str] = set()

    def add(self, engine_id: str, cgroup: Cgroup | None) -> None:
        """Watch a living container from now on; None: nothing of it is to be seen from here."""
        with self._lock:
            if cgroup is not None and engine_id not in self._watched:
                self._watched[engine_id] = _Watched(cgroup)

    def note(self, engine_id: str) -> None:
        """The engine told of a kill."""
        with self._lock:
            self._killed.add(engine_id)

    def sample(self) -> None:
        """Look at every container that is watched."""
        with self._lock:
            for engine_id, watched in self._watched.items():
                if watched.has_killed():
                    self._killed.add(engine_id)

    def settle(self, engine_id: str) -> bool:
        """It ended: whether a process of it was killed for memory. Not watched any more."""
        with self._lock:
            watched = self._watched.pop(engine_id, None)
            if watched is not None:
                if watched.has_killed():
                    self._killed.add(engine_id)
                watched.close()
            return engine_id in self._killed

    def forget(self, engine_id: str) -> None:
        """Remember nothing of it."""
        self.settle(engine_id)
        with self._lock:
            self._killed.discard(engine_id)

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            for watched in self._watched.values():
                watched.close()
            self._watched.clear()


class _Watched:
    """One container and the kernel's count of it."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._counter = _register(cgroup) if isinstance(cgroup, CgroupV1) else None
        self._signals = 0
        self._had_killed = self._counts_kill()  # before the kernel counted for us

    def has_killed(self) -> bool:
        if self._had_killed or self._counts_kill():
            return True
        if self._counter is not None:
            with contextlib.suppress(BlockingIOError):
                self._signals += os.eventfd_read(self._counter)
        return self._signals > _OF_REMOVAL

    def close(self) -> None:
        if self._counter is not None:
            os.close(self._counter)

    def _counts_kill(self) -> bool:
        try:
            return self._cgroup.oom_count().kills > 0
        except OSError:
            return False


def _register(cgroup: CgroupV1) -> int | None:
    """An eventfd that counts; None where the kernel gives none (it needs root), or the cgroup is gone."""
    directory = cgroup.paths["memory"]
    counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        with (
            open(f"{directory}/memory.oom_control", encoding="ascii") as source,
            open(f"{directory}/cgroup.event_control", "w", encoding="ascii") as control,
        ):
            control.write(f"{counter} {source.fileno()}")
    except OSError:
        os.close(counter)
        return None
    return counter
