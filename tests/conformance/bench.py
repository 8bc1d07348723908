"""What the conformance suite needs of a runtime under test, and how to wait for its containers."""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from borgcell.resources import MIB, Resources
from borgcell.types import TaskKey

from borglet.runtime.port import Container, ContainerId, ContainerSpec, ContainerState, Runtime

_index = itertools.count()
WAIT_S = 30


@dataclass
class Bench:
    """A runtime on a state of its own. ``restart`` gives a new Runtime on the same state, as after an agent's restart."""

    runtime: Runtime
    make_spec: Callable[..., ContainerSpec]  # (argv, **fields of ContainerSpec)
    restart: Callable[[], Runtime]  # also puts it into ``runtime``
    leftovers: Callable[[], list[str]]  # what a forgotten container left on the machine
    log_bytes: int  # more than it keeps of a log


def a_spec(argv: tuple[str, ...], **fields) -> ContainerSpec:
    """A container of its own name, with small limits."""
    fields.setdefault("id", ContainerId(TaskKey("ann", "web", next(_index)), 1))
    fields.setdefault("env", {})
    fields.setdefault("limit", Resources(cpu_milli=100, ram_bytes=64 * MIB))
    fields.setdefault("pids_max", 64)
    return ContainerSpec(argv=tuple(argv), **fields)


def sh(script: str) -> tuple[str, ...]:
    """A program that this machine and the test image both have."""
    return ("/bin/busybox", "sh", "-c", script)


def found(runtime: Runtime, id: ContainerId) -> Container | None:
    return next((container for container in runtime.list() if container.id == id), None)


def wait_ended(runtime: Runtime, id: ContainerId, within_s: float = WAIT_S) -> Container:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        container = found(runtime, id)
        assert container is not None, f"{id} is not listed"
        if container.state is ContainerState.ENDED:
            assert container.exit is not None
            return container
        runtime.wait_change(200)
    raise AssertionError(f"{id} has not ended within {within_s} s")


def log_of(runtime: Runtime, id: ContainerId, tail_lines: int = 0) -> list[tuple[str, bytes]]:
    pieces = runtime.read_log(id, tail_lines=tail_lines, follow=False, is_cancelled=lambda: False)
    return [(piece.stream, piece.data) for piece in pieces]


def output_of(runtime: Runtime, id: ContainerId, stream: str = "stdout") -> bytes:
    return b"".join(data for name, data in log_of(runtime, id) if name == stream)


def wait_output(runtime: Runtime, id: ContainerId, text: bytes) -> None:
    wait_until(lambda: text in output_of(runtime, id), f"{text!r} in the log of {id}")


def wait_until(is_so: Callable[[], bool], what: str, within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"still not so after {within_s} s: {what}"
        time.sleep(0.02)


def processes_with(mark: str) -> list[int]:
    """Processes of the machine whose command line holds ``mark``, this one and its kin left out."""
    pids = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[0] == b"/bin/busybox" and any(mark.encode() in word for word in words):
            pids.append(int(name))
    return pids
