"""Owns what /proc tells about processes: which one a pid names, whose child it is, what it used.

Standard library only: the shims import this file.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_KILL_ROUNDS_MAX: Final = 100
_POLL_S: Final = 0.01


class Stat(NamedTuple):
    """A process as ``/proc/PID/stat`` shows it; ``start_time`` tells two processes of one pid apart."""

    pid: int
    state: str
    parent: int
    session: int
    cpu_ns: int
    start_time: int  # clock ticks since boot
    ram_bytes: int


def boot_id() -> str:
    """Changes when the machine boots, which voids every pid."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def stat_of(pid: int | str) -> Stat | None:
    """The process, or None if there is none of that pid; "self" is this one, by its pid in /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(b")")  # the name before it may hold spaces and parentheses
    fields = tail.split()
    cpu_ticks = int(fields[11]) + int(fields[12])
    return Stat(
        pid=int(head.split(b" ", 1)[0]),
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_ns=cpu_ticks * _TICK_NS,
        start_time=int(fields[19]),
        ram_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def is_running(pid: int, start_time: int) -> bool:
    """Whether that very process exists and has not ended (a zombie has)."""
    stat = stat_of(pid)
    return stat is not None and stat.start_time == start_time and stat.state not in "ZX"


def send(pid: int, start_time: int, number: signal.Signals) -> bool:
    """Signal that very process; False if it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_running(pid, start_time):  # checked after the handle pins it
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def all_processes() -> list[Stat]:
    """Every process that /proc shows."""
    found = (stat_of(name) for name in os.listdir("/proc") if name.isdigit())
    return [stat for stat in found if stat is not None]


def descendants(pid: int) -> list[Stat]:
    """Children of a process, their children and so on, ended ones left out."""
    children: dict[int, list[Stat]] = {}
    for stat in all_processes():
        children.setdefault(stat.parent, []).append(stat)
    found: list[Stat] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += (stat for stat in below if stat.state not in "ZX")
        waiting += (stat.pid for stat in below)
    return found


def session_members(session: int) -> list[Stat]:
    """Processes of a session, ended ones left out."""
    return [stat for stat in all_processes() if stat.session == session and stat.state not in "ZX"]


def kill_all(find: Callable[[], Iterable[Stat]]) -> bool:
    """SIGKILL what ``find`` finds until it finds nothing; False if something is left after a second."""
    for _ in range(_KILL_ROUNDS_MAX):
        found = list(find())
        if not found:
            return True
        for stat in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(stat.pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    return False
