"""Owns one task: starts it, keeps its log, waits for it and writes down how it ended.

A shim outlives the Borglet and the zygote that forked it (so it never asks for a signal at its parent's death). It
holds the flock of its container as long as it lives: immune to reused pids. An isolated shim is the first process
of the task's pid namespace, in the machine's mounts and outside the task's cgroup: it reaps what the task orphans,
is not killed along when the task runs out of memory, and when it dies the kernel kills the task.

Standard library only, imported by the zygote; everything here is paid for once per task in memory.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from borglet.runtime import cgroups, namespaces, processes
from borglet.runtime.logfile import FLUSH_MS, LogWriter
from borglet.runtime.task import ExecFailed, become_task

_READ_BYTES: Final = 1 << 16
_EXIT_ROOM_BYTES: Final = 4096
_END_TIMEOUT_S: Final = 10.0
_MIB: Final = 1 << 20


class _Task(NamedTuple):
    """The task's first process, by its pid here, and the ends of the pipes that its output comes from."""

    pid: int
    streams: dict[int, str]


def run(directory: str, lock: int, reply: int) -> None:
    """Start the task that ``directory`` describes, say so on ``reply``, and stay until its end was written down.

    ``lock`` stays open as long as there is a task: whoever reads a refusal to its end finds the lock free.
    """
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_IGN
        )  # who stops tasks is the Borglet, not who signals a session
    complaints = os.open(f"{directory}/shim.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(complaints, 2)  # the Borglet's own stderr must not be held open by us
    os.close(complaints)
    with open(f"{directory}/order.json", encoding="utf-8") as file:
        order = json.load(file)
    if not order["isolated"]:
        namespaces.become_subreaper()
    wakeup = _wake_on_child()
    try:
        _reserve_exit(directory)
        log = LogWriter(f"{directory}/log", **order["log"])
        task = _launch(directory, order)
    except (ExecFailed, OSError) as error:
        os.close(lock)
        _answer(reply, {"error": str(error), "permanent": isinstance(error, ExecFailed)})
        return
    _answer(reply, {})
    status = _pump_until_end(task, wakeup, log)
    _end_rest(order, task.pid)
    _drain(task, log)
    log.close()
    _write_exit(directory, _exit_of(order, status))


def _wake_on_child() -> int:
    """The end of a pipe that becomes readable when a child ended."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _launch(directory: str, order: Mapping[str, Any]) -> _Task:
    """Fork the task and let it exec once its pid is on disk. Raises ExecFailed with the reason."""
    out, out_task = os.pipe2(os.O_CLOEXEC)
    err, err_task = os.pipe2(os.O_CLOEXEC)
    status, status_task = os.pipe2(os.O_CLOEXEC)
    go_task, go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.dup2(out_task, 1)
        os.dup2(err_task, 2)
        become_task(order, status_task, go_task)
    for descriptor in (out_task, err_task, status_task, go_task):
        os.close(descriptor)
    # The pid as the machine sees it; the one from fork is that of our own namespace.
    first = os.read(status, 64)
    if first.replace(b" ", b"").isdigit():
        host_pid, start_time = first.split()
        state = {
            "pid": int(host_pid),
            "start_time": int(start_time),
            "shim_pid": int(os.readlink("/proc/self")),
            "boot_id": processes.boot_id(),
            "started_at_ms": time.time_ns() // 1_000_000,
        }
        _write(f"{directory}/state.json", json.dumps(state))
        os.write(go, b"g")
        first = b""
    os.close(go)
    failure = first + b"".join(iter(lambda: os.read(status, _READ_BYTES), b""))
    os.close(status)
    if failure:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/state.json")
        os.waitpid(pid, 0)
        raise ExecFailed(failure.decode(errors="replace"))
    for descriptor in (out, err):
        os.set_blocking(descriptor, False)
    return _Task(pid, {out: "stdout", err: "stderr"})


def _pump_until_end(task: _Task, wakeup: int, log: LogWriter) -> int:
    """Log what the task writes until its first process ended; its wait status. Reaps orphans meanwhile."""
    poller = select.poll()
    for descriptor in (wakeup, *task.streams):
        poller.register(descriptor, select.POLLIN)
    while True:
        events = poller.poll(FLUSH_MS if log.has_partial else None)
        if not events:
            log.flush()
        for descriptor, _ in events:
            if descriptor == wakeup:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup, _READ_BYTES)
            elif _read_into(log, task.streams[descriptor], descriptor) == b"":
                poller.unregister(descriptor)  # closed by the task
        for pid, status in _reap():
            if pid == task.pid:
                return status


def _read_into(log: LogWriter, stream: str, descriptor: int) -> bytes | None:
    """Log a piece; empty at the end of the stream, None when there is nothing now."""
    try:
        data = os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        return None
    if data:
        log.write(stream, data)
    return data


def _drain(task: _Task, log: LogWriter) -> None:
    """Log what is left in the pipes once nobody writes any more."""
    for descriptor, stream in task.streams.items():
        while _read_into(log, stream, descriptor):
            pass


def _reap() -> list[tuple[int, int]]:
    """Pid and wait status of every child that ended."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append((pid, status))
    return ended


def _end_rest(order: Mapping[str, Any], pid: int) -> None:
    """Kill and reap all that the task left running: a container ends with its first process."""
    if order["isolated"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # the first process of a namespace: all in it but itself
    else:
        processes.kill_all(
            lambda: [*processes.descendants(os.getpid()), *processes.session_members(pid)]
        )
    deadline = time.monotonic() + _END_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.002)
        except ChildProcessError:
            return


def _exit_of(order: Mapping[str, Any], status: int) -> dict[str, Any]:
    """The ``Exit`` of runtime/port.py."""
    code = os.waitstatus_to_exitcode(status)
    exit: dict[str, Any] = {"exit_code": code, "at_ms": time.time_ns() // 1_000_000}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        exit |= {"exit_code": 128 + number, "detail": f"killed by {_signal_name(number)}"}
    if order["cgroup"] is None:
        return exit
    with contextlib.suppress(OSError):
        count = cgroups.restore(**order["cgroup"]).oom_count()
        if count.kills:
            limit = f"limit {order['limit']['ram_bytes'] / _MIB:g} MiB"
            whose = limit if count.at_own_limit else f"of the machine, within its {limit}"
            exit |= {"out_of_memory": True, "detail": f"out of memory ({whose})"}
    return exit


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal


def _reserve_exit(directory: str) -> None:
    """Take the room that the end will need: the disk may be full by then."""
    _write(f"{directory}/exit.room", " " * _EXIT_ROOM_BYTES)


def _write_exit(directory: str, exit: Mapping[str, Any]) -> None:
    room = f"{directory}/exit.room"
    descriptor = os.open(room, os.O_WRONLY | os.O_CLOEXEC)
    text = json.dumps(exit).encode()
    os.write(descriptor, text)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(room, f"{directory}/exit.json")
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(parent)
    os.close(parent)


def _write(path: str, text: str) -> None:
    """Write a file as a whole or not at all."""
    new = f"{path}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(new, path)


def _answer(reply: int, answer: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a Borglet that died meanwhile finds us by our directory
        os.write(reply, json.dumps(answer).encode())
    os.close(reply)
