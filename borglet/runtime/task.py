"""Owns what a child does between its fork and its exec: how it becomes the task.

Everything it needs of the machine is opened before its mounts change. Standard library only.
"""

import errno
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from borglet.runtime import namespaces, processes


class ExecFailed(Exception):
    """The task could not be started, and cannot be the next time either; the message is for people."""


def become_task(order: Mapping[str, Any], status: int, go: int) -> NoReturn:
    """Say pid and start time on ``status``, wait for ``go``, exec. Never returns: a failure's text goes to ``status``."""
    try:
        itself = processes.stat_of("self")  # the machine's /proc: its pid there
        assert itself is not None, "this process exists"
        os.write(status, f"{itself.pid} {itself.start_time}".encode())
        if not os.read(go, 1):
            os._exit(127)  # the shim died
        os.setsid()
        groups = open_groups(order)
        _set_oom_score(order["oom_score_adj"])
        if order["isolated"]:
            layout = order["layout"]
            namespaces.isolate(
                namespaces.Layout(
                    layout["work"], layout["tmp"], layout["masked"], layout["visible"]
                )
            )
        exec_in(order, groups, order["argv"])
    except BaseException as error:  # noqa: BLE001  # whatever it is: its text is the reason, and this process must end
        fail(status, error)


def open_groups(order: Mapping[str, Any]) -> list[int]:
    """The files to enter the task's cgroup by, opened while they can be seen."""
    return [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in order["procs_files"]]


def exec_in(order: Mapping[str, Any], groups: Sequence[int], argv: Sequence[str]) -> NoReturn:
    """Enter the cgroup, give up privileges and exec with the task's environment and directory."""
    os.chdir(order["layout"]["work"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.umask(0o022)
    _reset_signals()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if order["isolated"]:
        namespaces.drop_privileges()
    else:
        _limit_data(order["limit"]["ram_bytes"])
    for group in groups:
        os.write(group, b"0")
    try:
        os.execvpe(argv[0], list(argv), dict(order["env"]))
    except OSError as error:
        raise ExecFailed(f"cannot run {argv[0]!r}: {_reason(error)}") from None


def fail(status: int, error: BaseException) -> NoReturn:
    """Say why and end."""
    kind = "" if isinstance(error, ExecFailed | OSError) else f"{type(error).__name__}: "
    os.write(status, f"{kind}{error}".encode(errors="replace"))
    sys.stderr.flush()
    os._exit(127)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return "not a program that this machine can run (no #! line?)"
    return error.strerror or str(error)


def _reset_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ, the shim more, and exec would hand that on."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _set_oom_score(adjustment: int) -> None:
    """When the whole machine runs out of memory, prefer tasks to the Borglet, and batch to prod."""
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
            if adjustment > int(file.read()):  # lowering it would need CAP_SYS_RESOURCE
                file.seek(0)
                file.write(str(adjustment))
    except OSError:
        return  # only a preference


def _limit_data(ram_bytes: int) -> None:
    """All that can be done about ram without cgroups: a limit for each process, on memory of its own."""
    if not ram_bytes:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = ram_bytes if hard == resource.RLIM_INFINITY else min(ram_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
