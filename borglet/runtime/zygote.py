"""Owns forking: a single-threaded process that forks a shim for each task and an executor for each command.

Started by exec with the standard library only, so that a shim costs one fork (11 ms, 1.2 MB) instead of a Python
start (44 ms, 5.4 MB; runtime.md §2.2). It serves the one Borglet that holds the other end of its socket and ends
when that is closed, by whatever death; shims live on. Requests are JSON with descriptors attached; each answer
comes on a pipe of its own, written by whom the request was forked for.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import warnings  # noqa: F401  # os.execvpe imports it late, where the library may be hidden already
from collections.abc import Callable
from typing import Any, Final

from borglet.runtime import executor, namespaces, shim

_REQUEST_BYTES_MAX: Final = 1 << 20
_DESCRIPTORS_MAX: Final = 2
_ERRORS: Final = (OSError, KeyError, ValueError)


def main() -> None:
    """Serve requests from the socket that is our standard input until it is closed."""
    requests = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    wakeup, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # keeps pages shared with the forks
    poller = select.poll()
    poller.register(requests, select.POLLIN)
    poller.register(wakeup, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if wakeup in ready:
            _reap(wakeup)
        if requests.fileno() in ready and not _serve(requests, {wakeup, writer}):
            return


def _serve(requests: socket.socket, ours: set[int]) -> bool:
    """Fork for one request; False when the Borglet is gone."""
    data, descriptors, _, _ = socket.recv_fds(requests, _REQUEST_BYTES_MAX, _DESCRIPTORS_MAX)
    if not data:
        return False
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    reply = descriptors[-1]
    try:
        request = json.loads(data)
        _fork(request, descriptors, {requests.fileno(), *ours})
    except _ERRORS as error:
        with contextlib.suppress(OSError):
            os.write(reply, json.dumps({"error": f"zygote: {error}"}).encode())
    finally:
        for descriptor in descriptors:  # the lock before the reply: at its end the lock is free
            os.close(descriptor)
    return True


def _fork(request: dict[str, Any], descriptors: list[int], ours: set[int]) -> None:
    work = _work_for(request, descriptors)
    # The child is the first process of the new namespace; ours for children is put back behind it.
    own = None
    if request["in_new_pid_namespace"]:
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.unshare(namespaces.CLONE_NEWPID)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if own is not None:
            if pid != 0:
                namespaces.join(own, namespaces.CLONE_NEWPID)
            os.close(own)
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in ours:
            os.close(descriptor)
        _end_with(work)


def _work_for(request: dict[str, Any], descriptors: list[int]) -> Callable[[], None]:
    reply = descriptors[-1]
    match request["do"]:
        case "start":
            return lambda: shim.run(request["directory"], descriptors[0], reply)
        case "execute":
            return lambda: executor.run(
                request["directory"], request["argv"], request["timeout_ms"], reply
            )
        case "probe":
            return lambda: _probe(reply)
        case other:
            raise ValueError(f"unknown request {other!r}")


def _probe(reply: int) -> None:
    """Try in earnest whether tasks can be isolated here; an empty answer means yes."""
    answer = {}
    try:
        namespaces.isolate(namespaces.Layout("/var/tmp", "/var/tmp", (), ()))
        namespaces.drop_privileges()
    except OSError as error:
        answer = {"error": str(error)}
    os.write(reply, json.dumps(answer).encode())


def _end_with(work: Callable[[], None]) -> None:
    """Do the work in this child and end, never returning into the zygote's loop."""
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001  # the last frame of this process
        sys.stderr.write(f"borglet runtime: {type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _reap(wakeup: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(wakeup, 4096)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
