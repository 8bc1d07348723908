"""Owns running one more command inside a task that runs: same namespaces, cgroup, rights and environment.

Forked by the zygote for each command, as the Borglet itself has threads and cannot fork. Standard library only.
"""

import contextlib
import json
import os
import select
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from borglet.runtime import namespaces, processes, task

_OTHERS: Final = (
    ("ipc", namespaces.CLONE_NEWIPC),
    ("uts", namespaces.CLONE_NEWUTS),
    ("mnt", namespaces.CLONE_NEWNS),
)


def run(directory: str, argv: Sequence[str], timeout_ms: int, reply: int) -> None:
    """Run the command and write the answer to ``reply``: an exit code, an error, or that time was up."""
    try:
        answer = _execute(directory, argv, timeout_ms)
    except (task.ExecFailed, OSError) as error:
        answer = {"error": str(error)}
    with contextlib.suppress(OSError):
        os.write(reply, json.dumps(answer).encode())


def _execute(directory: str, argv: Sequence[str], timeout_ms: int) -> dict[str, Any]:
    order, state = (_load(f"{directory}/{name}.json") for name in ("order", "state"))
    groups = task.open_groups(order)
    spaces = _open_namespaces(state) if order["isolated"] else []
    status, status_child = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become_command(order, groups, spaces, argv, status_child)
    os.close(status_child)
    handle = os.pidfd_open(pid)
    is_over = bool(select.select([handle], [], [], timeout_ms / 1000)[0])
    if not is_over:
        # What it started goes too, unless it left the session; that goes when the task ends.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        signal.pidfd_send_signal(handle, signal.SIGKILL)  # if it had no session yet
    _, ended = os.waitpid(pid, 0)
    failure = os.read(status, 4096)  # no command of ours has this pipe any more
    if failure:
        raise task.ExecFailed(failure.decode(errors="replace"))
    if not is_over:
        return {"timed_out": True}
    code = os.waitstatus_to_exitcode(ended)
    return {"exit_code": code if code >= 0 else 128 - code}


def _open_namespaces(state: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Enter the task's pid namespace, for the next child; the others opened, with their flags."""
    pid = state["pid"]
    pid_space = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    others = [
        (os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag)
        for name, flag in _OTHERS
    ]
    if not processes.is_running(pid, state["start_time"]):
        raise ProcessLookupError("the task has ended")
    namespaces.join(pid_space, namespaces.CLONE_NEWPID)
    return others


def _become_command(
    order: Mapping[str, Any],
    groups: Sequence[int],
    spaces: Sequence[tuple[int, int]],
    argv: Sequence[str],
    status: int,
) -> NoReturn:
    try:
        os.setsid()
        for descriptor, flag in spaces:
            namespaces.join(descriptor, flag)
        task.exec_in(order, groups, argv)
    except BaseException as error:  # noqa: BLE001  # whatever it is: its text is the reason, and this process must end
        task.fail(status, error)


def _load(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        loaded: dict[str, Any] = json.load(file)
        return loaded
