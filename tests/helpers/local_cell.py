"""A real cell of real processes on this machine, for end-to-end tests: masters, Borglets, tasks.

It starts the very command lines of ``borgmaster dev``, but is its own supervisor: tests kill and restart at will.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
from borgcell import convert
from borgcell.specs import JobSpec, normalize
from borgcell.types import TaskKey
from borgcell.v1 import cell_pb2, cell_pb2_grpc, operator_pb2_grpc, types_pb2

from borgmaster.dev import Layout

T = TypeVar("T")
POLL_S = 0.05


class LocalCell:
    """Processes by the names of ``Layout.commands``: borgmaster-m1…, borglet-machine1…."""

    def __init__(self, directory: Path, base_port: int, **options) -> None:
        self.layout = Layout(
            directory=directory,
            cell=options.pop("cell", "test"),
            replicas=options.pop("replicas", 3),
            machines=options.pop("machines", 3),
            base_port=base_port,
            cpu=options.pop("cpu", "4"),
            ram=options.pop("ram", "1GiB"),
            runtimes=options.pop("runtimes", "native"),
        )
        self.extra: list[str] = options.pop("master_options", [])
        self.environment: dict[str, str] = options.pop("environment", {})
        assert not options, options
        self.processes: dict[str, subprocess.Popen] = {}
        self.founded = False

    def start(self, name: str) -> None:
        """Start one process; its output goes to a log file."""
        command = self.layout.commands(founding=not self.founded)[name]
        if name.startswith("borgmaster-"):
            command = [*command, *self.extra]
        self.layout.directory.mkdir(parents=True, exist_ok=True)
        with (self.layout.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process; after SIGKILL and SIGTERM wait for its end."""
        process = self.processes[name]
        process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            process.wait(30)

    def up(self) -> "LocalCell":
        """Start everything and wait until there is a leader and every machine is up."""
        for name in self.layout.commands(founding=True):
            self.start(name)
        self.wait(self._is_up, "a leader and all machines up", timeout_s=60)
        self.founded = True
        return self

    def _is_up(self) -> bool:
        status = self.status()
        return bool(status.leader) and status.machines_up == self.layout.machines

    def down(self) -> None:
        """Stop everything: Borglets end their tasks, then the masters."""
        for kind in ("borglet-", "borgmaster-"):
            group = [p for name, p in self.processes.items() if name.startswith(kind)]
            for process in group:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.terminate()
            for process in group:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def output(self, name: str) -> str:
        """What a process has written."""
        return (self.layout.directory / f"{name}.log").read_text(errors="replace")

    # Asking the cell; every call tries the replicas in turn, as clients do.

    def ask(self, call: Callable[[cell_pb2_grpc.CellServiceStub], T], timeout_s: float = 20) -> T:
        """The first answer of any replica; refusals other than UNAVAILABLE are raised."""
        deadline = time.monotonic() + timeout_s
        while True:
            error: grpc.RpcError | None = None
            for address in self.layout.api_addresses:
                with grpc.insecure_channel(address) as channel:
                    try:
                        return call(cell_pb2_grpc.CellServiceStub(channel))
                    except grpc.RpcError as caught:
                        if caught.code() not in (
                            grpc.StatusCode.UNAVAILABLE,
                            grpc.StatusCode.DEADLINE_EXCEEDED,
                        ):
                            raise
                        error = caught
            if time.monotonic() > deadline:
                assert error is not None
                raise error
            time.sleep(POLL_S)

    def operate(self, call: Callable[[operator_pb2_grpc.OperatorServiceStub], T]) -> T:
        """Like ``ask``, of OperatorService."""
        last: grpc.RpcError | None = None
        for address in self.layout.api_addresses:
            with grpc.insecure_channel(address) as channel:
                try:
                    return call(operator_pb2_grpc.OperatorServiceStub(channel))
                except grpc.RpcError as caught:
                    if caught.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    last = caught
        assert last is not None
        raise last

    def status(self) -> cell_pb2.GetCellStatusResponse:
        """Cell status from whoever answers; one that knows a leader is preferred."""
        answers = []
        for address in self.layout.api_addresses:
            with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(address) as channel:
                stub = cell_pb2_grpc.CellServiceStub(channel)
                answers.append(stub.GetCellStatus(cell_pb2.GetCellStatusRequest(), timeout=2))
        answers.sort(key=lambda answer: (answer.freshness.leader, bool(answer.leader)))
        return answers[-1] if answers else cell_pb2.GetCellStatusResponse()

    def leader(self) -> str:
        """Name of the leader that says so itself; "" when there is none."""
        status = self.status()
        return status.leader if status.freshness.leader else ""

    def submit(self, spec: JobSpec, **fields) -> cell_pb2.SubmitJobResponse:
        """Submit a job."""
        request = cell_pb2.SubmitJobRequest(
            spec=convert.job_spec_to_wire(normalize(spec)), **fields
        )
        return self.ask(lambda stub: stub.SubmitJob(request, timeout=10))

    def kill_job(self, spec: JobSpec) -> None:
        """Kill a job and wait until none of its tasks is left on a machine."""
        key = convert.job_key_to_wire(spec.key)
        self.ask(lambda stub: stub.KillJob(cell_pb2.KillJobRequest(job=key), timeout=10))
        self.wait(
            lambda: all(task.state == types_pb2.TASK_STATE_DEAD for task in self.tasks(spec)),
            f"every task of {spec.key} is dead",
        )

    def kill_all(self) -> None:
        """Kill every job that is left and wait until no task is on a machine."""
        request = cell_pb2.ListJobsRequest()
        for job in self.ask(lambda stub: stub.ListJobs(request, timeout=10)).jobs:
            key = cell_pb2.JobKey(user=job.spec.user, name=job.spec.name)
            kill = cell_pb2.KillJobRequest(job=key)
            self.ask(lambda stub, kill=kill: stub.KillJob(kill, timeout=10))
        self.wait(lambda: self._placed() == 0, "no task is on a machine")

    def _placed(self) -> int:
        return sum(band.placed for band in self.status().bands)

    def tasks(self, spec: JobSpec) -> list[types_pb2.Task]:
        """The tasks of a job by index."""
        request = cell_pb2.ListTasksRequest(job=convert.job_key_to_wire(spec.key))
        return list(self.ask(lambda stub: stub.ListTasks(request, timeout=5)).tasks)

    def task(self, key: str) -> types_pb2.Task:
        """One task by ``user/job/index``."""
        request = cell_pb2.GetTaskRequest(task=convert.task_key_to_wire(TaskKey.parse(key)))
        return self.ask(lambda stub: stub.GetTask(request, timeout=5)).task

    def pending_reason(self, key: str, address: str) -> str:
        """Why a task is pending, as one replica says in its lists."""
        request = cell_pb2.GetTaskRequest(task=convert.task_key_to_wire(TaskKey.parse(key)))
        with grpc.insecure_channel(address) as channel:
            stub = cell_pb2_grpc.CellServiceStub(channel)
            return stub.GetTask(request, timeout=5).task.pending_reason

    def events(self, key: str = "") -> list[cell_pb2.Event]:
        """The history of a task, job or machine."""
        request = cell_pb2.ListEventsRequest(key=key, limit=10_000)
        return list(self.ask(lambda stub: stub.ListEvents(request, timeout=5)).events)

    def logs(self, key: str, **fields) -> str:
        """Everything a task has written."""
        request = cell_pb2.StreamLogsRequest(
            task=convert.task_key_to_wire(TaskKey.parse(key)), **fields
        )
        return self.ask(
            lambda stub: b"".join(piece.data for piece in stub.StreamLogs(request, timeout=20))
        ).decode()

    def explain(self, key: str) -> cell_pb2.ExplainTaskResponse:
        """Why a task is where it is."""
        request = cell_pb2.ExplainTaskRequest(task=convert.task_key_to_wire(TaskKey.parse(key)))
        return self.ask(lambda stub: stub.ExplainTask(request, timeout=10))

    def running(self, spec: JobSpec) -> list[types_pb2.Task]:
        """Tasks of a job that are RUNNING."""
        return [task for task in self.tasks(spec) if task.state == types_pb2.TASK_STATE_RUNNING]

    def wait_running(self, spec: JobSpec, timeout_s: float = 60) -> list[types_pb2.Task]:
        """Wait until all tasks of a job are RUNNING."""
        self.wait(
            lambda: len(self.running(spec)) == spec.task_count,
            f"{spec.task_count} running tasks of {spec.key}",
            timeout_s,
        )
        return self.running(spec)

    def wait(self, is_true: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Wait for a situation; a failure tells what was waited for and how the cell stands."""
        deadline = time.monotonic() + timeout_s
        while not is_true():
            if time.monotonic() > deadline:
                dead = {n: p.returncode for n, p in self.processes.items() if p.poll() is not None}
                raise AssertionError(
                    f"not within {timeout_s} s: {what}\nended processes: {dead}\n{self.status()}"
                    f"\nevents:\n" + "\n".join(map(_line, self.events()[-40:]))
                )
            time.sleep(POLL_S)


def _line(event: cell_pb2.Event) -> str:
    return f"{event.key}#{event.incarnation} {event.kind} {event.machine} {event.detail}"


@contextlib.contextmanager
def local_cell(directory: Path, base_port: int, **options) -> Iterator[LocalCell]:
    """A cell that is up; it is taken down at the end, whatever happened."""
    cell = LocalCell(directory, base_port, **options)
    try:
        yield cell.up()
    finally:
        cell.down()
