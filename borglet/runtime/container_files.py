"""Owns the directory of a native container: which files there are, who writes them, who holds the lock.

``order.json`` (Borglet: what to run and where), ``state.json`` (shim: its pid), ``exit.json`` (shim, or the Borglet
for one that was lost), ``log*`` (shim), ``work`` and ``tmp`` (task), ``lock``: held by flock from before the task is
started until its shim ended, so that it says without pids whether somebody looks after the task.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from borgcell.resources import Resources
from msgspec import Struct

from borglet.runtime.port import ContainerId, Exit

_SCRATCH: Final = ("work", "tmp")
_T = TypeVar("_T")


class CgroupPlace(Struct, frozen=True):
    """Where a group lies, for ``cgroups.restore``."""

    version: str
    paths: dict[str, str]


class Layout(Struct, frozen=True):
    """For ``namespaces.Layout``."""

    work: str
    tmp: str
    masked: list[str]
    visible: list[str]


class Order(Struct, frozen=True):
    """What the shim is to do, and what the Borglet wants to know of the container later.

    A later Borglet must read what an earlier one wrote: new fields need defaults.
    """

    id: ContainerId
    argv: tuple[str, ...]
    env: dict[str, str]
    limit: Resources
    ports: dict[str, int]
    isolated: bool
    layout: Layout
    cgroup: CgroupPlace | None
    procs_files: list[str]
    oom_score_adj: int
    log: dict[str, int]


class ShimState(Struct, frozen=True):
    """What a shim wrote when its task started; pids are the machine's."""

    pid: int
    start_time: int
    shim_pid: int
    boot_id: str
    started_at_ms: int


class ContainerFiles:
    """The files of one container; they may not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"

    @classmethod
    def of(cls, root: Path, id: ContainerId) -> "ContainerFiles":
        """Those of the container ``id``: no name of a user or job has a dot."""
        task = id.task
        return cls(root / f"{task.user}.{task.job}.{task.index}.{id.incarnation}")

    @property
    def work(self) -> Path:
        """The task's own directory."""
        return self.path / "work"

    @property
    def tmp(self) -> Path:
        """The task's /tmp."""
        return self.path / "tmp"

    def make(self, order: Order) -> int:
        """Make the directory as a whole, locked; the descriptor that holds the lock."""
        new = self.path.with_name(f".new-{self.path.name}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700, parents=True)
        (new / "work").mkdir(mode=0o755)
        (new / "tmp").mkdir()
        (new / "tmp").chmod(0o1777)
        lock = os.open(new / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(new / "order.json", "xb", opener=_private) as file:
                file.write(msgspec.json.encode(order))
            new.rename(self.path)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def is_held(self) -> bool:
        """Whether a shim, or a Borglet that is starting one, holds the lock."""
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two who ask do not see each other
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def order(self) -> Order | None:
        """None when there is no such container, or its file did not survive a crash of the machine."""
        return _read(self.path / "order.json", lambda data: msgspec.json.decode(data, type=Order))

    def state(self) -> ShimState | None:
        """None until its shim started the task."""
        return _read(
            self.path / "state.json", lambda data: msgspec.json.decode(data, type=ShimState)
        )

    def exit(self) -> Exit | None:
        """None until it ended."""
        return _read(self.path / "exit.json", lambda data: msgspec.json.decode(data, type=Exit))

    def write_exit(self, exit: Exit) -> None:
        """Write down the end of a container whose shim could not."""
        new = self.path / "exit.new"
        with open(new, "wb", opener=_private) as file:
            file.write(msgspec.json.encode(exit))
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.path / "exit.json")

    def remove_scratch(self) -> None:
        """Remove what the task wrote, all but its log."""
        for name in _SCRATCH:
            _remove_tree(self.path / name)

    def remove(self) -> None:
        """Remove everything; the name goes first, so that it is never seen half removed."""
        old = self.path.with_name(f".old-{self.path.name}")
        _remove_tree(old)
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(old)
        _remove_tree(old)


def clear_unfinished(root: Path) -> None:
    """Remove what a Borglet that died was about to make or to remove."""
    for path in root.glob(".*"):
        if not ContainerFiles(path).is_held():
            _remove_tree(path)


def list_containers(root: Path) -> list[ContainerFiles]:
    """Every container below ``root``, by name."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [ContainerFiles(root / name) for name in names if not name.startswith(".")]


def _read(path: Path, decode: Callable[[bytes], _T]) -> _T | None:
    try:
        return decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _remove_tree(path: Path) -> None:
    """Remove a directory even if a task that was not root took away its own permissions."""
    shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        return
    path.chmod(0o700)
    for directory, names, _ in os.walk(path):
        for name in names:
            if not os.path.islink(child := os.path.join(directory, name)):
                os.chmod(child, 0o700)
    shutil.rmtree(path)
