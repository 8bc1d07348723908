"""Owns running tasks on the machine's Docker Engine: each attempt of a task is one container of it.

Laws:
- The engine's labels are the record; what is remembered here only saves questions, and tells what vanished.
- A call whose answer got lost is resolved by looking at the container's name: it is unique, so never two of one.
- An engine that does not answer is RuntimeFailed, never an empty list: that would say that every task died.
- The engine makes, starts, kills and keeps logs; usage and memory kills come from the kernel's files.

CPU is shares: a task gets its limit when the machine is busy, and what is free besides. Disk is not limited.
"""

import threading
import time
from builtins import list as list_of  # inside the class, ``list`` is the port's method
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from borgcell.resources import MIB, format_bytes
from borgcell.types import RuntimeKind
from msgspec import Struct, structs

from borglet.runtime import docker_labels as labels
from borglet.runtime.cgroups import Cgroup
from borglet.runtime.docker_engine import DockerEngine, Facts, why_unusable
from borglet.runtime.docker_log import LogReader
from borglet.runtime.docker_oom import OomWatch
from borglet.runtime.docker_process import (
    belongs,
    cgroup_of,
    kill_tree,
    usage_of,
    wait_until_executed,
)
from borglet.runtime.docker_stream import parse_time_ns
from borglet.runtime.docker_watch import EndWatch
from borglet.runtime.port import (
    Container,
    ContainerId,
    ContainerSpec,
    ContainerState,
    Exit,
    LogPiece,
    RuntimeFailed,
    Usage,
)

_STARTS_AT_ONCE: Final = (
    3  # starting is the engine's CPU: more only stretches each (runtime.md §1.1)
)
_ALIVE: Final = ("running", "paused", "restarting")
_CREATED: Final = "created"
_INIT_FAILED: Final = (
    1,
    126,
    127,
)  # exit codes of the engine's init when it cannot run the program
_INIT_SAYS: Final = "[FATAL tini"
_END_WAIT_S: Final = 2
_MADE_LOOKS: Final = 20
_MADE_LOOK_S: Final = 0.1


class _Known(Struct, frozen=True):
    """What the engine said last about a container."""

    engine_id: str
    container: Container
    cgroup: Cgroup | None = None

    @property
    def is_alive(self) -> bool:
        return self.container.state is ContainerState.ALIVE


class DockerRuntime:
    """Runs containers of one cell and machine on the machine's Docker Engine."""

    kind: RuntimeKind = RuntimeKind.DOCKER

    def __init__(
        self,
        cell: str,
        machine: str,
        *,
        url: str,
        call_timeout_s: int = 10,
        start_timeout_s: int = 60,
        log_bytes_max: int = 10 * MIB,
        log_file_count: int = 3,
    ) -> None:
        """``url`` is ``unix:///path`` or ``tcp://host:port``, ``log_bytes_max`` of one file of a log.

        Does not talk to the engine yet.
        """
        self._cell = cell
        self._machine = machine
        self._url = url
        self._call_timeout_s = call_timeout_s
        self._selector = labels.selector(cell, machine)
        self._engine = DockerEngine(
            url,
            call_timeout_s=call_timeout_s,
            start_timeout_s=start_timeout_s,
            log_options={"max-size": str(log_bytes_max), "max-file": str(log_file_count)},
        )
        self._attributes: dict[str, str] = {}
        self._lock = threading.Lock()  # guards the two below; not held while the engine is asked
        self._known: dict[ContainerId, _Known] = {}
        self._starting: set[ContainerId] = set()
        self._ooms = OomWatch()
        self._watch = EndWatch(
            url,
            self._selector,
            timeout_s=call_timeout_s,
            has_ended=self._has_any_ended,
            sample=self._ooms.sample,
            on_oom=self._ooms.note,
        )

    @staticmethod
    def probe(url: str) -> str | None:
        """None if a Docker Engine that can run tasks answers there, else why not, for people."""
        return why_unusable(url)

    def attributes(self) -> dict[str, str]:
        """Version of the engine and whether containers outlive it, as it said last; nothing before it did."""
        with suppress(RuntimeFailed):
            facts = self._engine.info()
            self._attributes = {
                "runtime.docker": str(facts["ServerVersion"]),
                "runtime.docker.live_restore": str(bool(facts["LiveRestoreEnabled"])).lower(),
            }
        return dict(self._attributes)

    def list(self) -> list_of[Container]:
        """Every container that ran; one that somebody else removed stays, as lost, until ``forget``.

        One that was made but never ran is not there but cleared away. Of one that a start is at work on, this
        says what it said before: the start will tell.
        """
        with self._lock:
            before, starting = dict(self._known), set(self._starting)
        found: dict[ContainerId, Container] = {}
        for row in self._engine.list(self._selector, all=True):
            id = self._owner(row["Labels"], (row["Names"] or [""])[0])
            if id is not None and id not in starting and not self._is_starting(id):
                container = self._look(id, row["Id"], row["State"])
                if container is not None:
                    found[id] = container
        with self._lock:
            for id, known in list_of(self._known.items()):
                if id not in found:
                    if before.get(id) is known and id not in starting | self._starting:
                        known = self._known[id] = _vanished(known)
                    found[id] = known.container
        return sorted(found.values(), key=lambda container: container.id)

    def start(self, spec: ContainerSpec) -> Container:
        """Make and start it. Raises RuntimeFailed; what a failed start left is removed, now or by ``list``."""
        with self._lock:
            self._starting.add(spec.id)
        try:
            return self._start(spec)
        finally:
            with self._lock:
                self._starting.discard(spec.id)

    def terminate(self, id: ContainerId) -> None:
        """Send SIGTERM to the container's init, which passes it on to the task's program."""
        self._signal(id, "SIGTERM")

    def kill(self, id: ContainerId) -> None:
        """SIGKILL the container's init; with it the kernel kills every process of the container."""
        self._signal(id, "SIGKILL")

    def release(self, id: ContainerId) -> None:
        """Nothing to do: an ended container holds only its log and its ``Exit``."""

    def forget(self, id: ContainerId) -> None:
        """Remove the ended container. Raises RuntimeFailed when it still runs or the engine cannot."""
        engine_id = self._engine_id(id)
        if engine_id is not None:
            self._engine.remove(engine_id)
            self._ooms.forget(engine_id)
        with self._lock:
            self._known.pop(id, None)

    def execute(self, id: ContainerId, argv: tuple[str, ...], timeout_ms: int) -> int:
        """Run a command in it; at the timeout the command and all it started are killed."""
        engine_id = self._engine_id(id)
        if engine_id is None:
            raise RuntimeFailed(f"{id} has no container")
        end = self._engine.execute(engine_id, argv, timeout_ms)
        if end.exit_code is None:
            kill_tree(end.pid, engine_id)
            raise TimeoutError(f"{argv[0]} in {id} took more than {timeout_ms} ms")
        return end.exit_code

    def usage(self, id: ContainerId) -> Usage | None:
        """What it uses, its init not counted as a process; None when it ended or runs elsewhere."""
        self._engine_id(id)  # a new Borglet may not have looked at it yet
        known = self._known.get(id)
        return usage_of(known.cgroup) if known and known.cgroup else None

    def read_log(
        self, id: ContainerId, *, tail_lines: int, follow: bool, is_cancelled: Callable[[], bool]
    ) -> Iterator[LogPiece]:
        """Its log as the engine keeps it; a piece is a line or 16 KiB of one. Raises LookupError, RuntimeFailed."""
        engine_id = self._engine_id(id)
        if engine_id is None or self._engine.inspect(engine_id) is None:
            raise LookupError(f"no log of {id}")
        reader = LogReader(
            self._url,
            engine_id,
            timeout_s=self._call_timeout_s,
            has_ended=lambda: self._has_ended(engine_id),
            is_cancelled=is_cancelled,
        )
        return reader.follow(tail_lines) if follow else reader.pieces(tail_lines)

    def wait_change(self, timeout_ms: int) -> bool:
        """Wait until a container may have ended. An engine that is away is no change."""
        return self._watch.wait(timeout_ms)

    def close(self) -> None:
        """Close the connections; the containers run on."""
        self._watch.close()
        self._ooms.close()
        self._engine.close()

    def _start(self, spec: ContainerSpec) -> Container:
        facts = self._make(spec)
        if facts["State"]["Status"] == _CREATED:
            if facts["Config"]["Labels"].get(labels.SPEC) != labels.spec_hash(spec):
                self._engine.remove(facts["Id"])  # made for another spec, and never ran
                facts = self._make(spec)
            facts = self._run(spec, facts["Id"])
        return self._remember(spec.id, facts)

    def _make(self, spec: ContainerSpec) -> Facts:
        """What the engine says about the container of this task, made now or before."""
        name = labels.container_name(self._cell, self._machine, spec.id)
        wanted = labels.labels_of(self._cell, self._machine, spec)
        self._engine.create(spec, name=name, labels=wanted)
        facts = self._await_made(name)
        if self._owner(facts["Config"]["Labels"], facts["Name"]) != spec.id:
            raise RuntimeFailed(f"the name {name} is taken by a container that is not of this cell")
        return facts

    def _await_made(self, name: str) -> Facts:
        """What the engine says about a container; it has the name in use a moment before it knows it."""
        for _ in range(_MADE_LOOKS):
            facts = self._engine.inspect(name)
            if facts is not None:
                return facts
            time.sleep(_MADE_LOOK_S)
        raise RuntimeFailed(f"the Docker Engine did not make {name} in time", permanent=False)

    def _run(self, spec: ContainerSpec, engine_id: str) -> Facts:
        """Start it and see its program run; what the engine says then."""
        try:
            self._engine.start(engine_id)
        except RuntimeFailed:
            self._clear(engine_id)
            raise
        facts = self._engine.inspect(engine_id)
        if facts is None or facts["State"]["Status"] == _CREATED:
            raise RuntimeFailed(
                f"the Docker Engine did not start {spec.id} in time", permanent=False
            )
        pid = facts["State"]["Pid"]
        if belongs(pid, engine_id) and wait_until_executed(pid):
            return facts
        self._engine.wait_end(engine_id, _END_WAIT_S)  # it learns of an end later than the kernel
        facts = self._engine.inspect(engine_id) or facts
        if not facts["State"]["Running"] and facts["State"]["ExitCode"] in _INIT_FAILED:
            said = self._engine.last_words(engine_id)
            if said.startswith(_INIT_SAYS):
                self._clear(engine_id)
                raise RuntimeFailed(f"cannot start {spec.id}: {said.partition('] ')[2]}")
        return facts

    def _look(self, id: ContainerId, engine_id: str, status: str) -> Container | None:
        """The container behind a row of the engine's list; None if it never ran or is gone by now."""
        known = self._known.get(id)
        if known is not None and known.engine_id != engine_id:
            known = None
        if status == _CREATED:
            if known is not None:
                return known.container  # it was started after the list was made
            self._clear(engine_id)
            return None
        if known is not None and known.is_alive == (status in _ALIVE):
            return known.container
        facts = self._engine.inspect(engine_id)
        return self._remember(id, facts) if facts else None

    def _remember(self, id: ContainerId, facts: Facts) -> Container:
        engine_id = facts["Id"]
        alive = bool(facts["State"]["Running"])
        cgroup = cgroup_of(facts["State"]["Pid"], engine_id) if alive else None
        if alive:
            self._ooms.add(engine_id, cgroup)
        killed_for_ram = not alive and self._ooms.settle(engine_id)
        container = _container(id, facts, killed_for_ram=killed_for_ram)
        with self._lock:
            self._known[id] = _Known(engine_id, container, cgroup)
        return container

    def _engine_id(self, id: ContainerId) -> str | None:
        """The engine's id of its container; None if it has none."""
        known = self._known.get(id)
        if known is not None:
            return known.engine_id
        facts = self._engine.inspect(labels.container_name(self._cell, self._machine, id))
        if facts is None or self._owner(facts["Config"]["Labels"], facts["Name"]) != id:
            return None
        if facts["State"]["Status"] != _CREATED:
            self._remember(id, facts)
        return str(facts["Id"])

    def _is_starting(self, id: ContainerId) -> bool:
        with self._lock:
            return id in self._starting

    def _owner(self, found: dict[str, str], name: str) -> ContainerId | None:
        return labels.id_in(found, cell=self._cell, machine=self._machine, name=name)

    def _signal(self, id: ContainerId, signal: str) -> None:
        engine_id = self._engine_id(id)
        if engine_id is not None:
            self._engine.signal(engine_id, signal)

    def _clear(self, engine_id: str) -> None:
        """Remove what never ran. The engine refuses if it runs after all, and then ``list`` shows it."""
        with suppress(RuntimeFailed):
            self._engine.remove(engine_id)

    def _has_ended(self, engine_id: str) -> bool:
        facts = self._engine.inspect(engine_id)
        return facts is None or not facts["State"]["Running"]

    def _has_any_ended(self) -> bool:
        with self._lock:
            alive = {known.engine_id for known in self._known.values() if known.is_alive}
        return not alive <= {row["Id"] for row in self._engine.list(self._selector, all=False)}


def _container(id: ContainerId, facts: Facts, *, killed_for_ram: bool) -> Container:
    state, found = facts["State"], facts["Config"]["Labels"]
    alive = bool(state["Running"])
    exit_code = int(state["ExitCode"])
    # A program that coped with a child's death did not fail.
    killed = exit_code != 0 and (bool(state["OOMKilled"]) or killed_for_ram)
    limit = labels.limit_in(found)
    limit_text = f"out of memory (limit {format_bytes(limit.ram_bytes)})"
    end = Exit(
        exit_code=exit_code,
        at_ms=parse_time_ns(state["FinishedAt"]) // 1_000_000,
        out_of_memory=killed,
        detail=limit_text if killed else str(state["Error"]),
    )
    return Container(
        id=id,
        runtime=RuntimeKind.DOCKER,
        state=ContainerState.ALIVE if alive else ContainerState.ENDED,
        started_at_ms=parse_time_ns(state["StartedAt"]) // 1_000_000,
        limit=limit,
        ports=labels.ports_in(found),
        exit=None if alive else end,
        pid=int(state["Pid"]) if alive else 0,
    )


def _vanished(known: _Known) -> _Known:
    """What is left of a container that the engine does not have any more: its end, or that nobody saw it."""
    if not known.is_alive:
        return known
    end = Exit(
        exit_code=-1,
        at_ms=time.time_ns() // 1_000_000,
        lost=True,
        detail="its container was removed from the Docker Engine, not by this Borglet",
    )
    container = structs.replace(known.container, state=ContainerState.ENDED, exit=end, pid=0)
    return _Known(known.engine_id, container)
