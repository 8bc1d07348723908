"""Owns control groups: limits, killing, OOM counts and usage, the same on cgroup v1 and v2.

Where a group lies is found from /proc, never assumed: v1 controllers may each have their own mount, alone or
joined, and this process may itself live below the root. Standard library only: the shims import this file.

A cpu limit is a share: it binds only under contention, as in Borg, and what is idle goes to whoever can use it
(B15 §6.2). ``cpu_hard`` adds a quota. Memory and swap are one hard limit.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Mapping
from typing import ClassVar, Final, NamedTuple

CONTROLLERS: Final = ("memory", "cpu", "cpuacct", "pids")
_UNIFIED: Final = "unified"
_UNIFIED_CONTROLLERS: Final = ("memory", "cpu", "pids")
_QUOTA_PERIOD_US: Final = 100_000
_SHARES_PER_CPU: Final = 1024
# A group is busy until its last process is reaped, which a lazy init may delay (runtime.md §0: 0.1 to 2 s).
REMOVE_TIMEOUT_MS: Final = 2000
_KILL_ROUNDS_MAX: Final = 100
_POLL_S: Final = 0.005
_HUGE_PAGE_BYTES: Final = 2 << 20  # the most that one refused allocation would have added


class Limits(NamedTuple):
    """What a group may use; 0 leaves a resource unlimited."""

    cpu_milli: int = 0
    ram_bytes: int = 0
    pids_max: int = 0
    cpu_hard: bool = False


class Sample(NamedTuple):
    """What a group used: cpu since it was made, the others now."""

    cpu_ns: int
    ram_bytes: int  # without inactive page cache
    pids: int


class OomCount(NamedTuple):
    """Processes of the group killed for want of memory, and whether its own limit was ever hit."""

    kills: int
    at_own_limit: bool


class CgroupV1:
    """A group of cgroup v1: one directory per controller."""

    version: ClassVar[str] = "v1"

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = dict(paths)  # directories, keyed by controller

    def make(self, limits: Limits) -> None:
        """Make its directories, parents included, and set the limits."""
        for path in self.paths.values():
            _make_directories(path)
        if limits.ram_bytes:
            self._limit_ram(limits.ram_bytes)
        if limits.cpu_milli and "cpu" in self.paths:
            _write(self._file("cpu", "cpu.shares"), str(_shares(limits.cpu_milli)))
            if limits.cpu_hard:
                _write(self._file("cpu", "cpu.cfs_period_us"), str(_QUOTA_PERIOD_US))
                _write(self._file("cpu", "cpu.cfs_quota_us"), str(_quota_us(limits.cpu_milli)))
        if limits.pids_max and "pids" in self.paths:
            _write(self._file("pids", "pids.max"), str(limits.pids_max))

    def _limit_ram(self, ram_bytes: int) -> None:
        ram = self._file("memory", "memory.limit_in_bytes")
        both = self._file("memory", "memory.memsw.limit_in_bytes")
        # The sum may never be below ram alone, so the order depends on whether the limit grows.
        order = (ram, both) if _read_int(ram) >= ram_bytes else (both, ram)
        for path in order:
            if path != both or os.path.exists(both):  # no memsw: swap is not accounted here
                _write(path, str(ram_bytes))

    def procs_files(self) -> list[str]:
        """The files that a process writes ``0`` to in order to enter the group."""
        return [os.path.join(path, "cgroup.procs") for path in dict.fromkeys(self.paths.values())]

    def pids(self) -> list[int]:
        """Its processes, in the pid namespace of the caller."""
        return _read_pids(next(iter(self.paths.values())))

    def kill(self) -> None:
        """SIGKILL every process of it, also those that are forked meanwhile; gives up after half a second."""
        _kill_until_empty(self)

    def oom_count(self) -> OomCount:
        """OOM kills so far."""
        kills = _read_keyed(self._file("memory", "memory.oom_control")).get("oom_kill", 0)
        # The kernel no longer counts failures (6.18: failcnt stays 0), but it keeps the peak.
        peak = _read_int(self._file("memory", "memory.max_usage_in_bytes"))
        limit = _read_int(self._file("memory", "memory.limit_in_bytes"))
        return OomCount(kills, kills > 0 and peak + _HUGE_PAGE_BYTES >= limit)

    def usage(self) -> Sample:
        """What it uses."""
        cache = _read_keyed(self._file("memory", "memory.stat")).get("total_inactive_file", 0)
        ram = _read_int(self._file("memory", "memory.usage_in_bytes")) - cache
        cpu_ns = _read_int(self._file("cpuacct", "cpuacct.usage")) if "cpuacct" in self.paths else 0
        pids = (
            _read_int(self._file("pids", "pids.current"))
            if "pids" in self.paths
            else len(self.pids())
        )
        return Sample(cpu_ns, max(ram, 0), pids)

    def remove(self, timeout_ms: int = REMOVE_TIMEOUT_MS) -> bool:
        """Remove it, processes must be gone; False if it was still busy at the timeout."""
        return _remove(list(self.paths.values()), timeout_ms)

    def _file(self, controller: str, name: str) -> str:
        return os.path.join(self.paths[controller], name)


class CgroupV2:
    """A group of cgroup v2: one directory for all controllers."""

    version: ClassVar[str] = "v2"

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = dict(paths)  # one directory, keyed by "unified"
        self._path = self.paths[_UNIFIED]

    def make(self, limits: Limits) -> None:
        """Make its directory, its parent included, and set the limits."""
        parent = os.path.dirname(self._path)
        _make_directories(parent)
        _enable_controllers(parent)
        _make_directories(self._path)
        if limits.ram_bytes:
            _write(self._file("memory.max"), str(limits.ram_bytes))
            if os.path.exists(swap := self._file("memory.swap.max")):
                _write(swap, "0")
        if limits.cpu_milli:
            shares = _shares(limits.cpu_milli)
            # The kernel's own mapping of 2..262144 shares to weights 1..10000.
            weight = 1 + (min(shares, 262_144) - 2) * 9999 // 262_142
            _write(self._file("cpu.weight"), str(weight))
            if limits.cpu_hard:
                _write(self._file("cpu.max"), f"{_quota_us(limits.cpu_milli)} {_QUOTA_PERIOD_US}")
        if limits.pids_max:
            _write(self._file("pids.max"), str(limits.pids_max))

    def procs_files(self) -> list[str]:
        """The files that a process writes ``0`` to in order to enter the group."""
        return [self._file("cgroup.procs")]

    def pids(self) -> list[int]:
        """Its processes, in the pid namespace of the caller."""
        return _read_pids(self._path)

    def kill(self) -> None:
        """SIGKILL every process of it, also those that are forked meanwhile; gives up after half a second."""
        with contextlib.suppress(FileNotFoundError):  # cgroup.kill came with Linux 5.14
            _write(self._file("cgroup.kill"), "1")
        _kill_until_empty(self)

    def oom_count(self) -> OomCount:
        """OOM kills so far."""
        events = _read_keyed(self._file("memory.events"))
        return OomCount(events.get("oom_kill", 0), events.get("oom", 0) > 0)

    def usage(self) -> Sample:
        """What it uses."""
        cpu_us = _read_keyed(self._file("cpu.stat")).get("usage_usec", 0)
        cache = _read_keyed(self._file("memory.stat")).get("inactive_file", 0)
        ram = _read_int(self._file("memory.current")) - cache
        return Sample(cpu_us * 1000, max(ram, 0), _read_int(self._file("pids.current")))

    def remove(self, timeout_ms: int = REMOVE_TIMEOUT_MS) -> bool:
        """Remove it, processes must be gone; False if it was still busy at the timeout."""
        return _remove([self._path], timeout_ms)

    def _file(self, name: str) -> str:
        return os.path.join(self._path, name)


Cgroup = CgroupV1 | CgroupV2


def restore(version: str, paths: Mapping[str, str]) -> Cgroup:
    """The group that ``version`` and ``paths`` of an earlier one describe."""
    return CgroupV2(paths) if version == CgroupV2.version else CgroupV1(paths)


def of_process(pid: int) -> Cgroup | None:
    """The group that a process is in; None when memory is not controlled on this machine.

    Raises OSError when there is no such process.
    """
    return _group_of(str(pid))


def child(parent: Cgroup, name: str) -> Cgroup:
    """The group ``name`` below ``parent``; ``make`` makes it."""
    paths = {key: os.path.join(path, name) for key, path in parent.paths.items()}
    return restore(parent.version, paths)


def parent_for(name: str) -> Cgroup | None:
    """A group ``name`` that tasks' groups can be made in, made; None when this process may not.

    It lies below the group of this process, so that limits set on this process hold for its tasks too. A v2 group
    that holds processes cannot have children with limits: if only this process is in it, it moves to a leaf;
    otherwise the groups go to the top of the tree, as those of Docker do.
    """
    own = _group_of("self")
    if own is None:
        return None
    # Together they may use the whole machine: tasks share by their own limits, not by those of the parent.
    limits = Limits(cpu_milli=1000 * (os.cpu_count() or 1))
    for base in _bases(own):
        group = child(base, name)
        with contextlib.suppress(OSError):
            if isinstance(base, CgroupV2):
                _make_room(base)
            group.make(limits)
            if isinstance(group, CgroupV2):
                _enable_controllers(group.paths[_UNIFIED])
            return group
    return None


def _bases(own: Cgroup) -> list[Cgroup]:
    if isinstance(own, CgroupV1):
        return [own]
    return [own, CgroupV2({_UNIFIED: _mounts()[_UNIFIED][1]})]


def _make_room(base: CgroupV2) -> None:
    try:
        _enable_controllers(base.paths[_UNIFIED])
    except OSError as error:
        if error.errno != errno.EBUSY or base.pids() != [os.getpid()]:
            raise
        leaf = os.path.join(base.paths[_UNIFIED], "borglet")
        _make_directories(leaf)
        _write(os.path.join(leaf, "cgroup.procs"), "0")
        _enable_controllers(base.paths[_UNIFIED])


def _enable_controllers(path: str) -> None:
    _write(
        os.path.join(path, "cgroup.subtree_control"),
        " ".join(f"+{controller}" for controller in _UNIFIED_CONTROLLERS),
    )


def _group_of(process: str) -> Cgroup | None:
    mounts = _mounts()
    places = _places_of(process)
    if _UNIFIED in mounts and _UNIFIED in places:
        path = _resolve(mounts[_UNIFIED], places[_UNIFIED])
        if "memory" in _read(os.path.join(mounts[_UNIFIED][1], "cgroup.controllers")).split():
            return CgroupV2({_UNIFIED: path})
    paths: dict[str, str] = {
        controller: _resolve(mounts[controller], places[controller])
        for controller in CONTROLLERS
        if controller in mounts and controller in places
    }
    return CgroupV1(paths) if "memory" in paths else None


def _mounts() -> dict[str, tuple[str, str]]:
    """Root inside the hierarchy and mount point, keyed by controller ("unified" for v2)."""
    found: dict[str, tuple[str, str]] = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        fields, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        root, point = (_unescape(field) for field in fields.split(" ")[3:5])
        if kind == "cgroup2":
            found.setdefault(_UNIFIED, (root, point))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, (root, point))
    return found


def _places_of(process: str) -> dict[str, str]:
    """Path inside the hierarchy, keyed by controller ("unified" for v2)."""
    places = {}
    for line in _read(f"/proc/{process}/cgroup").splitlines():
        number, names, path = line.split(":", 2)
        for name in names.split(","):
            places[_UNIFIED if number == "0" else name] = path
    return places


def _resolve(mount: tuple[str, str], place: str) -> str:
    root, point = mount
    below = place.removeprefix(root) if root != "/" else place
    return os.path.normpath(os.path.join(point, below.lstrip("/")))


def _unescape(text: str) -> str:
    return text.encode().decode("unicode_escape") if "\\" in text else text


def _shares(cpu_milli: int) -> int:
    return max(2, cpu_milli * _SHARES_PER_CPU // 1000)


def _quota_us(cpu_milli: int) -> int:
    return max(1000, cpu_milli * _QUOTA_PERIOD_US // 1000)  # the kernel refuses less than 1 ms


def _kill_until_empty(group: Cgroup) -> None:
    for _ in range(_KILL_ROUNDS_MAX):
        try:
            pids = [pid for pid in group.pids() if pid]  # 0: not visible from this namespace
        except FileNotFoundError:
            return
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _remove(paths: list[str], timeout_ms: int) -> bool:
    deadline = time.monotonic() + timeout_ms / 1000
    left = list(dict.fromkeys(paths))
    while True:
        left = [path for path in left if not _rmdir(path)]
        if not left:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def _make_directories(path: str) -> None:
    os.makedirs(path, mode=0o755, exist_ok=True)


def _read_pids(path: str) -> list[int]:
    return [int(pid) for pid in _read(os.path.join(path, "cgroup.procs")).split()]


def _read_keyed(path: str) -> dict[str, int]:
    """Lines of ``key value``; others are left out."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _read_int(path: str) -> int:
    return int(_read(path))


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="surrogateescape") as file:
        return file.read()


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
