"""Owns the local cell: masters and Borglets of one machine as one process tree (``borgmaster dev``).

The supervisor is a plain parent: it starts the real commands, restarts those that die, and on its own end
stops all of them together with the tasks. Everything lives under one directory.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from msgspec import Struct

REPLICA_CHOICES: Final = ("1", "3", "5")
RESTART_PAUSE_S: Final = 1.0
NO_RESTART: Final = frozenset({2, 70})  # usage and damaged state: the same again would fail again
STOP_TIMEOUT_S: Final = 30.0
READY_TIMEOUT_S: Final = 60.0
TICK_S: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1
TASK_PORTS_PER_MACHINE: Final = 200


class Layout(Struct, frozen=True):
    """Where the parts of a local cell are."""

    directory: Path
    cell: str
    replicas: int
    machines: int
    base_port: int
    cpu: str
    ram: str
    runtimes: str

    @property
    def api_addresses(self) -> list[str]:
        """The API of every replica."""
        return [f"127.0.0.1:{self.base_port + 10 + n}" for n in range(1, self.replicas + 1)]

    def commands(self, *, founding: bool) -> dict[str, list[str]]:
        """The command line of every process, by name; ``founding``: the cell does not exist yet."""
        members: list[str] = []
        for n in range(1, self.replicas + 1):
            raft, api = self.base_port + n, self.base_port + 10 + n
            members += ["--member", f"m{n}=127.0.0.1:{raft},127.0.0.1:{api}"]
        commands: dict[str, list[str]] = {}
        for n in range(1, self.replicas + 1):
            commands[f"borgmaster-m{n}"] = [
                *(sys.executable, "-m", "borgmaster.main", "run"),
                *("--cell", self.cell, "--name", f"m{n}"),
                *("--state-dir", str(self.directory / f"m{n}")),
                # a replica whose disk was lost later must be seeded by the others, never found a cell anew
                *("--start", "bootstrap" if founding or self.replicas == 1 else "join"),
                *members,
            ]
        for n in range(1, self.machines + 1):
            first = self.base_port + 1_000 + (n - 1) * TASK_PORTS_PER_MACHINE
            commands[f"borglet-machine{n}"] = [
                *(sys.executable, "-m", "borglet.main", "run"),
                *("--cell", self.cell, "--name", f"machine{n}"),
                *("--listen", f"127.0.0.1:{self.base_port + 20 + n}"),
                *("--masters", ",".join(self.api_addresses)),
                *("--state-dir", str(self.directory / f"machine{n}")),
                *("--ports", f"{first}-{first + TASK_PORTS_PER_MACHINE - 1}"),
                *("--cpu", self.cpu, "--ram", self.ram, "--disk", "10GiB"),
                *("--attribute", f"rack=rack{n}", "--runtime", self.runtimes),
                "--stop-tasks-on-exit",
                *(part for path in _visible() for part in ("--visible", path)),
            ]
        return commands


def _visible() -> list[str]:
    """What the tasks of a local cell should see even where it lies in /tmp: this Python, our code, the caller's files."""
    wanted = {Path(sys.prefix), Path(__file__).resolve().parent.parent, Path.cwd()}
    return sorted(str(path) for path in wanted if Path("/tmp") in path.parents)


class Supervisor:
    """Keeps the processes of a layout alive until told to stop."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._founded = layout.directory / "founded"
        self._commands = layout.commands(founding=not self._founded.exists())
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._restart_at: dict[str, float] = {}
        self._stopping = False

    def run(self) -> None:
        """Start everything; return when SIGTERM or SIGINT came and all children are gone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            for name in self._commands:
                self._start(name)
            while not self._stopping:
                time.sleep(TICK_S)
                self._restart_dead()
                self._note_founding()
        finally:
            self._stop_all()

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._stopping = True

    def _start(self, name: str) -> None:
        log_path = self._layout.directory / "logs" / f"{name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as output:
            # an own session: Ctrl-C reaches only the supervisor, which stops the children in order
            self._children[name] = subprocess.Popen(
                self._commands[name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._write_pids()

    def _restart_dead(self) -> None:
        now = time.monotonic()
        for name, child in [*self._children.items()]:
            code = child.poll()
            if code is None or code in NO_RESTART:
                continue
            due = self._restart_at.setdefault(name, now + RESTART_PAUSE_S)
            if now >= due:
                del self._restart_at[name]
                self._start(name)

    def _note_founding(self) -> None:
        """Remember that the cell exists once every replica has a journal."""
        if not self._founded.exists() and all(
            any((self._layout.directory / f"m{n}").rglob("*journal*"))
            for n in range(1, self._layout.replicas + 1)
        ):
            self._founded.touch()
            self._commands = self._layout.commands(founding=False)

    def _stop_all(self) -> None:
        """Borglets first, as they stop their tasks; then the masters."""
        for kind in ("borglet-", "borgmaster-"):
            group = [child for name, child in self._children.items() if name.startswith(kind)]
            for child in group:
                if child.poll() is None:
                    child.terminate()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            for child in group:
                try:
                    child.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        self._children.clear()
        self._write_pids()

    def _write_pids(self) -> None:
        pids = {name: child.pid for name, child in self._children.items()}
        path = self._layout.directory / "pids.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"supervisor": os.getpid(), **pids}, indent=2))
        temporary.replace(path)


def _die_with_parent() -> None:
    """Stop in good order even when the supervisor is killed: no part of the cell is left behind."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[bool]:
    """Hold the directory; False when another supervisor does."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _wait_until_up(layout: Layout) -> bool:
    """Whether a leader and all machines are there within the time limit."""
    from borgcell.v1 import cell_pb2, cell_pb2_grpc
    from grpc import RpcError, insecure_channel

    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        for address in layout.api_addresses:
            with insecure_channel(address) as channel:
                try:
                    stub = cell_pb2_grpc.CellServiceStub(channel)
                    status = stub.GetCellStatus(cell_pb2.GetCellStatusRequest(), timeout=2)
                except RpcError:
                    continue
                if status.leader and status.machines_up >= layout.machines:
                    return True
        time.sleep(0.3)
    return False


def _write_profile(layout: Layout) -> Path:
    path = layout.directory / "cells.yaml"
    addresses = "".join(f"\n      - {address}" for address in layout.api_addresses)
    path.write_text(f"default: {layout.cell}\ncells:\n  {layout.cell}:\n    masters:{addresses}\n")
    return path


def _announce(layout: Layout, profile: Path) -> None:
    masters = ", ".join(layout.api_addresses)
    click.echo(
        f"cell {layout.cell}: {layout.replicas} masters ({masters}), {layout.machines} machines"
    )
    click.echo(f"state and logs: {layout.directory}")
    click.echo(f"export BORGCFG_PROFILE={profile}")


@click.command()
@click.option(
    "--directory",
    default=".state",
    type=click.Path(path_type=Path, file_okay=False),
    show_default=True,
    help="Everything the cell writes.",
)
@click.option("--cell", default="dev", show_default=True, help="Name of the cell.")
@click.option("--replicas", default="3", type=click.Choice(REPLICA_CHOICES), show_default=True)
@click.option("--machines", default=3, type=click.IntRange(1, 20), show_default=True)
@click.option(
    "--base-port",
    default=7_800,
    type=click.IntRange(1_024, 55_000),
    show_default=True,
    help="Raft from +1, API from +11, Borglets from +21, tasks from +1000.",
)
@click.option("--cpu", default="4", show_default=True, help="CPUs that each machine offers.")
@click.option("--ram", default="4GiB", show_default=True, help="Memory that each machine offers.")
@click.option("--runtime", default="native", show_default=True, help="Runtimes of the Borglets.")
@click.option("--detach", is_flag=True, help="Leave it running in the background once it is up.")
def dev(
    directory: Path,
    cell: str,
    replicas: str,
    machines: int,
    base_port: int,
    cpu: str,
    ram: str,
    runtime: str,
    *,
    detach: bool,
) -> None:
    """Run a whole cell on this machine: masters and Borglets, state under one directory.

    In the foreground, Ctrl-C stops it and its tasks; with --detach, `borgmaster stop-dev` does. Calling it
    again while it runs changes nothing.
    """
    layout = Layout(
        directory.resolve(), cell, int(replicas), machines, base_port, cpu, ram, runtime
    )
    if detach:
        _detach(layout)
        return
    with _lock(layout.directory) as locked:
        if not locked:
            raise click.ClickException(f"a local cell runs in {layout.directory} already")
        _announce(layout, _write_profile(layout))
        click.echo("Ctrl-C stops the cell and its tasks")
        Supervisor(layout).run()


def _detach(layout: Layout) -> None:
    with _lock(layout.directory) as locked:
        runs_already = not locked
    if not runs_already:
        log_path = layout.directory / "logs" / "supervisor.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as output:
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "borgmaster.main", "dev"),
                    *("--directory", str(layout.directory), "--cell", layout.cell),
                    *("--replicas", str(layout.replicas), "--machines", str(layout.machines)),
                    *("--base-port", str(layout.base_port), "--cpu", layout.cpu),
                    *("--ram", layout.ram, "--runtime", layout.runtimes),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    if not _wait_until_up(layout):
        raise click.ClickException(
            f"the cell is not up after {READY_TIMEOUT_S:.0f} s: look into {layout.directory}/logs"
        )
    _announce(layout, _write_profile(layout))


@click.command("stop-dev")
@click.option(
    "--directory",
    default=".state",
    type=click.Path(path_type=Path, file_okay=False),
    show_default=True,
)
def stop_dev(directory: Path) -> None:
    """Stop the local cell of a directory, and its tasks."""
    directory = directory.resolve()
    with _lock(directory) as locked:
        if locked:
            click.echo(f"no local cell runs in {directory}")
            return
    pid = int(json.loads((directory / "pids.json").read_text())["supervisor"])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 2 * STOP_TIMEOUT_S + 10
    while time.monotonic() < deadline:
        with _lock(directory) as locked:
            if locked:
                click.echo(f"the local cell in {directory} has stopped")
                return
        time.sleep(TICK_S)
    raise click.ClickException(f"the supervisor (pid {pid}) is still running")
