"""Owns the native runtime: tasks as processes of this machine, each under a shim, without any engine.

Where this process is root and the machine has cgroups, tasks are isolated (namespaces.py) and limited (cgroups.py).
Elsewhere they run plain, as children with rlimits; ``attributes`` says which. What runs is known from directories
and locks (container_files.py), never from memory: a new Borglet sees what the last one started.
"""

import hashlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from borgcell import priority
from borgcell.types import RuntimeKind

from borglet.runtime import cgroups, container_files, logfile, namespaces, processes
from borglet.runtime.container_files import ContainerFiles, Order, ShimState
from borglet.runtime.launcher import Launcher
from borglet.runtime.logreader import read_log
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
from borglet.runtime.watch import ShimWatch

_log = logging.getLogger(__name__)
_START_TIMEOUT_MS: Final = 30_000
_PROBE_TIMEOUT_MS: Final = 10_000
_ANSWER_MARGIN_MS: Final = 5_000
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The kernel adds these to a process's share of ram in thousandths when it must kill: the Borglet's own is 0.
_OOM_SCORE_PROD: Final = 200
_OOM_SCORE_OTHER: Final = 800


class NativeRuntime:
    """Runs containers of one cell on one machine, with their files below ``directory``."""

    kind: ClassVar[RuntimeKind] = RuntimeKind.NATIVE

    def __init__(
        self,
        directory: Path,
        cell: str,
        machine: str,
        *,
        masked: Sequence[Path] = (),
        visible: Sequence[Path] = (),
        python: str = sys.executable,
        log_bytes_max: int = logfile.FILE_BYTES_MAX,
        log_file_count: int = logfile.FILE_COUNT,
    ) -> None:
        """``masked`` is hidden from tasks besides ``directory``; ``visible`` is not, although it lies there or in /tmp."""
        base = directory.resolve()
        self._root = base / f"{cell}.{machine}"
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._masked = [str(path.resolve()) for path in (base, *masked)]
        self._visible = [str(path.resolve()) for path in visible]
        self._log_settings = {"bytes_max": log_bytes_max, "file_count": log_file_count}
        self._launcher = Launcher(python)
        self._watch = ShimWatch()
        self._parent = self._probe(cell, machine)
        container_files.clear_unfinished(self._root)
        self.list()

    def _probe(self, cell: str, machine: str) -> cgroups.Cgroup | None:
        """The cgroup for tasks' cgroups, if tasks can be isolated here."""
        if not namespaces.has_capability(namespaces.CAP_SYS_ADMIN):
            return None
        # Two cells may use one machine, and two directories one cell (tests do).
        mark = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:8]
        parent = cgroups.parent_for(f"borg-{cell}-{machine}-{mark}")
        if parent is None:
            _log.warning("native_runtime_plain", extra={"reason": "no cgroup is writable"})
            return None
        request = {"do": "probe", "in_new_pid_namespace": True}
        answer = self._launcher.ask(request, timeout_ms=_PROBE_TIMEOUT_MS)
        if "error" in answer:
            parent.remove(0)
            _log.warning("native_runtime_plain", extra={"reason": answer["error"]})
            return None
        return parent

    def attributes(self) -> dict[str, str]:
        """How far tasks are isolated and which limits hold."""
        parent = self._parent
        is_isolated = parent is not None
        has_pids = parent is not None and bool({"pids", "unified"} & parent.paths.keys())
        return {
            "runtime.native": "isolated" if is_isolated else "plain",
            "runtime.native.cgroup": parent.version if parent is not None else "none",
            "runtime.native.cpu": "shares" if is_isolated else "none",
            "runtime.native.ram": "hard" if is_isolated else "per-process",
            "runtime.native.pids": "hard" if has_pids else "none",
        }

    def list(self) -> list[Container]:
        """Every container in the directory; those whose shim died are put to their end."""
        found = (self._look(files) for files in container_files.list_containers(self._root))
        return [container for container in found if container is not None]

    def start(self, spec: ContainerSpec) -> Container:
        """Run it; see the port."""
        files = self._files(spec.id)
        existing = self._look(files)
        if existing is not None:
            return existing
        if files.path.exists():
            raise RuntimeFailed(f"{spec.id} is still being started", permanent=False)
        group = self._new_group(files)
        try:
            lock = files.make(self._order_for(spec, files, group))
        except OSError as error:
            raise RuntimeFailed(f"cannot prepare {spec.id}: {error}", permanent=False) from error
        try:
            self._launch(spec, files, group, lock)
        finally:
            os.close(lock)
            if files.state() is None and not files.is_held():
                self._discard(files)
        container = self._look(files)
        if container is None:
            raise RuntimeFailed(f"the shim of {spec.id} died", permanent=False)
        return container

    def _launch(
        self, spec: ContainerSpec, files: ContainerFiles, group: cgroups.Cgroup | None, lock: int
    ) -> None:
        try:
            if group is not None:
                limit = spec.limit
                group.make(cgroups.Limits(limit.cpu_milli, limit.ram_bytes, spec.pids_max))
            request = {
                "do": "start",
                "directory": str(files.path),
                "in_new_pid_namespace": group is not None,
            }
            answer = self._launcher.ask(request, timeout_ms=_START_TIMEOUT_MS, lock=[lock])
        except (OSError, TimeoutError) as error:
            raise RuntimeFailed(f"cannot start {spec.id}: {error}", permanent=False) from error
        if "error" in answer:
            raise RuntimeFailed(answer["error"], permanent=answer.get("permanent", False))

    def terminate(self, id: ContainerId) -> None:
        """SIGTERM to its first process."""
        files = self._files(id)
        state = files.state()
        if state is not None and files.exit() is None:
            self._signal(state, signal.SIGTERM)

    def kill(self, id: ContainerId) -> None:
        """SIGKILL to all; the shim writes down the end."""
        files = self._files(id)
        order, state = files.order(), files.state()
        if order is None or state is None or files.exit() is not None:
            return
        # The first process first: with it the shim ends what escaped the cgroup, or all where there is none.
        self._signal(state, signal.SIGKILL)
        if order.cgroup is not None:
            _group_of(order.cgroup).kill()

    def release(self, id: ContainerId) -> None:
        """Remove its cgroup and what it wrote."""
        files = self._files(id)
        order = files.order()
        if order is None or files.exit() is None:
            return
        if order.cgroup is not None:
            group = _group_of(order.cgroup)
            group.kill()
            if not group.remove():
                raise RuntimeFailed(f"{id}: its cgroup is still busy", permanent=False)
        files.remove_scratch()

    def forget(self, id: ContainerId) -> None:
        """Remove it and its log."""
        files = self._files(id)
        container = self._look(files)
        if container is None:
            return
        if container.state is ContainerState.ALIVE:
            raise RuntimeFailed(f"{id} still runs", permanent=False)
        self.release(id)
        files.remove()

    def execute(self, id: ContainerId, argv: tuple[str, ...], timeout_ms: int) -> int:
        """Run a command inside; its output is not kept."""
        files = self._files(id)
        order = files.order()
        if order is None or files.state() is None or files.exit() is not None:
            raise RuntimeFailed(f"{id} does not run", permanent=False)
        request = {
            "do": "execute",
            "directory": str(files.path),
            "argv": argv,
            "timeout_ms": timeout_ms,
            "in_new_pid_namespace": False,
        }
        answer = self._launcher.ask(request, timeout_ms=timeout_ms + _ANSWER_MARGIN_MS)
        if "timed_out" in answer:
            raise TimeoutError(f"{argv[0]} in {id} took longer than {timeout_ms} ms")
        if "error" in answer:
            raise RuntimeFailed(answer["error"])
        return int(answer["exit_code"])

    def usage(self, id: ContainerId) -> Usage | None:
        """From its cgroup; plain tasks: from /proc, where what ended processes used is missing."""
        files = self._files(id)
        order, state = files.order(), files.state()
        if order is None or state is None or files.exit() is not None:
            return None
        if order.cgroup is None:
            alive = processes.descendants(state.shim_pid) if files.is_held() else []
            cpu_ns = sum(stat.cpu_ns for stat in alive)
            return Usage(cpu_ns, sum(stat.ram_bytes for stat in alive), len(alive))
        try:
            return Usage(*_group_of(order.cgroup).usage())
        except OSError:
            return None  # released meanwhile

    def read_log(
        self, id: ContainerId, *, tail_lines: int, follow: bool, is_cancelled: Callable[[], bool]
    ) -> Iterator[LogPiece]:
        """Its kept output; see the port."""
        files = self._files(id)
        if not files.log.exists():
            raise LookupError(f"no log of {id}")
        records = read_log(
            files.log,
            tail_lines=tail_lines,
            is_growing=lambda: follow and files.exit() is None and files.is_held(),
            is_cancelled=is_cancelled,
        )
        return (LogPiece(*record) for record in records)

    def wait_change(self, timeout_ms: int) -> bool:
        """Wait for the end of a shim."""
        return self._watch.wait(timeout_ms)

    def close(self) -> None:
        """End the zygote; tasks and their shims live on."""
        self._watch.close()
        self._launcher.close()
        if self._parent is not None:
            self._parent.remove(0)  # stays while there is a task in it

    @property
    def zygote_pid(self) -> int:
        """For those who test its death."""
        return self._launcher.pid

    def _files(self, id: ContainerId) -> ContainerFiles:
        return ContainerFiles.of(self._root, id)

    def _look(self, files: ContainerFiles) -> Container | None:
        """What a directory says of its container; None when there is none, or none yet."""
        order = files.order()
        if order is None:
            return None
        is_held = files.is_held()
        # In this order: a shim writes its end before it lets go of the lock.
        state, exit = files.state(), files.exit()
        if exit is None and not is_held:
            if state is None:
                if files.path.exists():
                    self._discard(files)
                return None
            exit = self._bury(files, order, state)
        if state is None:
            return None
        if exit is None:
            self._watch.add(files.path, state.shim_pid, files.is_held)
        return Container(
            id=order.id,
            runtime=RuntimeKind.NATIVE,
            state=ContainerState.ALIVE if exit is None else ContainerState.ENDED,
            started_at_ms=state.started_at_ms,
            limit=order.limit,
            ports=order.ports,
            exit=exit,
            pid=state.pid if exit is None else 0,
        )

    def _bury(self, files: ContainerFiles, order: Order, state: ShimState) -> Exit | None:
        """End a task that lost its shim, which nobody looks after any more; None if it will not die now."""
        if state.boot_id == processes.boot_id():
            if order.cgroup is not None:
                _group_of(order.cgroup).kill()
            if not processes.kill_all(lambda: _leftovers(state)):
                return None
            detail = "its shim was killed"
        else:
            detail = "the machine was booted again"
        exit = Exit(-1, time.time_ns() // 1_000_000, lost=True, detail=detail)
        files.write_exit(exit)
        return exit

    def _discard(self, files: ContainerFiles) -> None:
        """Remove a container that was never started."""
        order = files.order()
        if order is not None and order.cgroup is not None:
            group = _group_of(order.cgroup)
            group.kill()
            group.remove()
        files.remove()

    def _signal(self, state: ShimState, number: signal.Signals) -> None:
        if state.boot_id == processes.boot_id():
            processes.send(state.pid, state.start_time, number)

    def _new_group(self, files: ContainerFiles) -> cgroups.Cgroup | None:
        """Where the container's cgroup shall be; one of that name which was left behind is removed."""
        if self._parent is None:
            return None
        group = cgroups.child(self._parent, files.path.name)
        group.kill()
        group.remove()
        return group

    def _order_for(
        self, spec: ContainerSpec, files: ContainerFiles, group: cgroups.Cgroup | None
    ) -> Order:
        is_isolated = group is not None
        tmp = "/tmp" if is_isolated else str(files.tmp)
        defaults = {"PATH": _DEFAULT_PATH, "HOME": str(files.work), "TMPDIR": tmp}
        is_prod = priority.is_prod(spec.priority)
        return Order(
            id=spec.id,
            argv=spec.argv,
            env=defaults | spec.env,
            limit=spec.limit,
            ports=spec.ports,
            isolated=is_isolated,
            layout=container_files.Layout(
                str(files.work), str(files.tmp), self._masked, self._visible
            ),
            cgroup=container_files.CgroupPlace(group.version, group.paths) if group else None,
            procs_files=group.procs_files() if group else [],
            oom_score_adj=_OOM_SCORE_PROD if is_prod else _OOM_SCORE_OTHER,
            log=self._log_settings,
        )


def _group_of(place: container_files.CgroupPlace) -> cgroups.Cgroup:
    return cgroups.restore(place.version, place.paths)


def _leftovers(state: ShimState) -> Sequence[processes.Stat]:
    """Processes of a task whose shim died: its session, which it led."""
    leader = processes.stat_of(state.pid)
    if leader is not None and leader.start_time != state.start_time:
        return []  # the pid is another's, which it could not be while the session had members
    return processes.session_members(state.pid)
