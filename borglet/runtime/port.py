"""Owns the port that every runtime implements; docker.py, native.py and the fake of the simulator do.

Laws of every implementation:
- A container outlives the Borglet that started it; ``list`` of a new Borglet finds it, and its end if it ended.
- All methods block and may be called from several threads at once, but never twice at once for one container.
- After ``start`` raised or timed out, ``list`` tells the truth: a container that was made after all is in it.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol

from borgcell.resources import Resources
from borgcell.types import RuntimeKind, TaskKey
from msgspec import Struct


class ContainerId(Struct, frozen=True, order=True):
    """Names a container on its machine: one attempt of one task."""

    task: TaskKey
    incarnation: int

    def __str__(self) -> str:
        """``user/job/index#incarnation``."""
        return f"{self.task}#{self.incarnation}"


class ContainerSpec(Struct, frozen=True):
    """What to run, substitutions done."""

    id: ContainerId
    argv: tuple[str, ...]
    env: dict[str, str]
    limit: Resources
    pids_max: int
    image: str = ""
    ports: dict[str, int] = {}
    priority: int = 0


class ContainerState(StrEnum):
    """Whether its main process lives."""

    ALIVE = "alive"
    ENDED = "ended"


class Exit(Struct, frozen=True):
    """How a container ended. ``exit_code`` is 128 + signal for a signal, -1 when nobody saw it (``lost``)."""

    exit_code: int
    at_ms: int
    out_of_memory: bool = False
    lost: bool = False
    detail: str = ""


class Container(Struct, frozen=True):
    """A container of this cell and machine as its runtime sees it."""

    id: ContainerId
    runtime: RuntimeKind
    state: ContainerState
    started_at_ms: int
    limit: Resources
    ports: dict[str, int]
    exit: Exit | None = None  # set exactly when ENDED
    pid: int = (
        0  # of the task's first process in the machine's pid namespace; 0 when ended or unknown
    )


class Usage(Struct, frozen=True):
    """What a container used, read from its cgroup."""

    cpu_ns: int
    ram_bytes: int  # without inactive page cache
    pids: int


class LogPiece(Struct, frozen=True):
    """A piece of output; ``stream`` is "stdout" or "stderr"."""

    stream: str
    at_ms: int
    data: bytes


class RuntimeFailed(Exception):
    """The runtime could not do it; the message is for people. ``permanent``: the same call will fail again."""

    def __init__(self, detail: str, *, permanent: bool = True) -> None:
        super().__init__(detail)
        self.permanent = permanent


class Runtime(Protocol):
    """Runs containers of one cell on one machine."""

    @property
    def kind(self) -> RuntimeKind:
        """NATIVE or DOCKER."""
        ...

    def attributes(self) -> dict[str, str]:
        """What it tells the cell about itself: ``runtime.<kind>`` and what it can and cannot isolate."""
        ...

    def list(self) -> list[Container]:
        """Every container of this cell and machine, whoever started it, also ended ones until ``forget``."""
        ...

    def start(self, spec: ContainerSpec) -> Container:
        """Run it, within its limits. Starting what already exists returns it. Raises RuntimeFailed."""
        ...

    def terminate(self, id: ContainerId) -> None:
        """Send SIGTERM to its main process. Nothing happens if it ended or does not exist."""
        ...

    def kill(self, id: ContainerId) -> None:
        """SIGKILL every process of it; returns when sent. Nothing happens if it ended or does not exist."""
        ...

    def release(self, id: ContainerId) -> None:
        """Give back all that an ended container holds except its log and its ``Exit`` (cgroups, mounts, directories)."""
        ...

    def forget(self, id: ContainerId) -> None:
        """Remove an ended container and its log for good. Nothing happens if it does not exist."""
        ...

    def execute(self, id: ContainerId, argv: tuple[str, ...], timeout_ms: int) -> int:
        """Run a command inside the container, within its limits; its exit status. Raises RuntimeFailed, TimeoutError."""
        ...

    def usage(self, id: ContainerId) -> Usage | None:
        """What it uses now; None when it ended or the machine cannot tell."""
        ...

    def read_log(
        self, id: ContainerId, *, tail_lines: int, follow: bool, is_cancelled: Callable[[], bool]
    ) -> Iterator[LogPiece]:
        """Its kept output, oldest first (the last ``tail_lines`` lines if positive); with ``follow`` until it ended.

        Raises LookupError when there is no log of it. Ends soon after ``is_cancelled()`` became true.
        """
        ...

    def wait_change(self, timeout_ms: int) -> bool:
        """Wait until a container may have ended; True then, False at the timeout. One thread calls it."""
        ...

    def close(self) -> None:
        """Let go of everything except the containers."""
        ...
