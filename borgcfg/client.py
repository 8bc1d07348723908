"""Owns talking to a cell: which replica is asked, what is asked again, and what a refusal says.

Any replica answers reads and forwards writes, so the client stays with the one that answered last and goes on to
the next when it fails. A write carries one request id through all its tries: the cell does it at most once.
The only importer of gRPC in borgcfg.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, TypeVar

import grpc
from borgcell import convert
from borgcell.specs import JobSpec
from borgcell.types import JobKey, TaskKey
from borgcell.v1 import cell_pb2, cell_pb2_grpc, operator_pb2_grpc, types_pb2
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from borgcfg.failures import CellRefused, CellUnreachable, Violation

Q = TypeVar("Q")
R = TypeVar("R")

TIMEOUT_S: Final = 30.0  # of a call with all its tries: longer than any election
TRY_S_MAX: Final = (
    10.0  # of one try, so that one silent replica does not use up the time of the others
)
BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 2.0
PAGE_SIZE: Final = 1_000
PAGES_MAX: Final = 200  # 100,000 tasks of a job, twice
MESSAGE_BYTES_MAX: Final = 32 << 20
# The outcome is not known or nothing happened: with the same request id, asking again is safe.
RETRIED: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
    }
)
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    (
        "grpc.enable_http_proxy",
        0,
    ),  # masters are named by address; a proxy of the web has no part in it
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


@dataclass(frozen=True)
class Stubs:
    """The services of one replica."""

    cell: cell_pb2_grpc.CellServiceStub
    operator: operator_pb2_grpc.OperatorServiceStub


@dataclass
class CellClient:
    """A cell behind the addresses of its replicas. Use it as a context manager, from one thread."""

    addresses: Sequence[str]
    timeout_s: float = TIMEOUT_S
    notice: Callable[[str], None] = lambda _: None  # told once when an answer is late
    try_s_max: float = TRY_S_MAX
    _channels: dict[str, grpc.Channel] = field(default_factory=dict)
    _current: int = 0  # position of the address that is asked first

    def __enter__(self) -> "CellClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def call(self, pick: Callable[[Stubs], "grpc.UnaryUnaryMultiCallable[Q, R]"], request: Q) -> R:
        """The answer of the first replica that gives one. Raises CellRefused and CellUnreachable."""
        tries = self._tries()
        while True:
            address = self.addresses[self._current]
            try:
                return pick(self._stubs(address))(request, timeout=tries.next_timeout_s())
            except grpc.RpcError as error:
                tries.failed(address, error)
                self._current = (self._current + 1) % len(self.addresses)

    def stream(
        self, pick: Callable[[Stubs], "grpc.UnaryStreamMultiCallable[Q, R]"], request: Q
    ) -> Iterator[R]:
        """Messages of the first replica that sends one. A stream that breaks later raises CellRefused."""
        tries = self._tries()
        while True:
            address = self.addresses[self._current]
            started = False
            call = pick(self._stubs(address))(request)
            try:
                for message in call:
                    started = True
                    yield message
            except grpc.RpcError as error:
                if started:
                    raise _refused(error) from error
                tries.failed(address, error)
                self._current = (self._current + 1) % len(self.addresses)
            else:
                return
            finally:
                call.cancel()

    def submit(
        self, spec: JobSpec, *, dry_run: bool = False, expected_version: int = -1
    ) -> cell_pb2.SubmitJobResponse:
        """Create or update a job, once."""
        request = cell_pb2.SubmitJobRequest(
            spec=convert.job_spec_to_wire(spec),
            request_id="" if dry_run else str(uuid.uuid4()),
            expected_version=expected_version,
            dry_run=dry_run,
        )
        return self.call(lambda stubs: stubs.cell.SubmitJob, request)

    def kill(self, key: JobKey, indexes: Sequence[int] = ()) -> cell_pb2.KillJobResponse:
        """Kill a job, or some of its tasks, once."""
        request = cell_pb2.KillJobRequest(
            job=convert.job_key_to_wire(key), indexes=indexes, request_id=str(uuid.uuid4())
        )
        return self.call(lambda stubs: stubs.cell.KillJob, request)

    def job(self, key: JobKey) -> types_pb2.Job | None:
        """The job, or None when there is none."""
        request = cell_pb2.GetJobRequest(job=convert.job_key_to_wire(key))
        try:
            return self.call(lambda stubs: stubs.cell.GetJob, request).job
        except CellRefused as error:
            if error.code == grpc.StatusCode.NOT_FOUND.name:
                return None
            raise

    def jobs(self, *, user: str = "", include_ended: bool = False) -> list[types_pb2.Job]:
        """All jobs, in order of their keys."""
        request = cell_pb2.ListJobsRequest(
            user=user, include_ended=include_ended, page_size=PAGE_SIZE
        )
        jobs: list[types_pb2.Job] = []
        for _ in range(PAGES_MAX):
            page = self.call(lambda stubs: stubs.cell.ListJobs, request)
            jobs.extend(page.jobs)
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        return jobs

    def tasks(
        self,
        job: JobKey | None = None,
        *,
        machine: str = "",
        states: Sequence["types_pb2.TaskState.ValueType"] = (),
        count_max: int = PAGE_SIZE * PAGES_MAX,
    ) -> list[types_pb2.Task]:
        """Tasks in order of their keys, at most ``count_max``."""
        request = cell_pb2.ListTasksRequest(
            machine=machine, states=states, page_size=min(count_max, PAGE_SIZE)
        )
        if job is not None:
            request.job.CopyFrom(convert.job_key_to_wire(job))
        tasks: list[types_pb2.Task] = []
        for _ in range(PAGES_MAX):
            page = self.call(lambda stubs: stubs.cell.ListTasks, request)
            tasks.extend(page.tasks)
            request.page_token = page.next_page_token
            if not request.page_token or len(tasks) >= count_max:
                break
        return tasks[:count_max]

    def machines(self) -> list[types_pb2.Machine]:
        """All machines, in order of their names."""
        request = cell_pb2.ListMachinesRequest(page_size=PAGE_SIZE)
        machines: list[types_pb2.Machine] = []
        for _ in range(PAGES_MAX):
            page = self.call(lambda stubs: stubs.cell.ListMachines, request)
            machines.extend(page.machines)
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        return machines

    def machine(self, name: str) -> types_pb2.Machine:
        """One machine. Raises CellRefused when there is none of the name."""
        request = cell_pb2.GetMachineRequest(name=name)
        return self.call(lambda stubs: stubs.cell.GetMachine, request).machine

    def explain(self, key: TaskKey) -> cell_pb2.ExplainTaskResponse:
        """Why a task is where it is."""
        request = cell_pb2.ExplainTaskRequest(task=convert.task_key_to_wire(key))
        return self.call(lambda stubs: stubs.cell.ExplainTask, request)

    def _tries(self) -> "_Tries":
        return _Tries(self.timeout_s, self.try_s_max, len(self.addresses), self.notice)

    def _stubs(self, address: str) -> Stubs:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address, options=_OPTIONS)
        channel = self._channels[address]
        return Stubs(
            cell_pb2_grpc.CellServiceStub(channel), operator_pb2_grpc.OperatorServiceStub(channel)
        )


class _Tries:
    """The tries of one call: how long each may take, how long to wait between rounds, when to give up."""

    def __init__(
        self,
        timeout_s: float,
        try_s_max: float,
        replica_count: int,
        notice: Callable[[str], None],
    ) -> None:
        self._timeout_s = timeout_s
        self._try_s_max = try_s_max
        self._deadline_s = time.monotonic() + timeout_s
        self._replica_count = replica_count
        self._notice = notice
        self._failed_count = 0
        self._tried: dict[str, str] = {}

    def next_timeout_s(self) -> float:
        return max(0.05, min(self._deadline_s - time.monotonic(), self._try_s_max))

    def failed(self, address: str, error: grpc.RpcError) -> None:
        """Wait until the next try. Raises CellRefused when there should be none, CellUnreachable when it is too late."""
        if error.code() not in RETRIED and not _asks_to_retry(error):
            raise _refused(error) from error
        said = (error.details() or "no details").rpartition("last error: ")[2]
        self._tried[address] = f"{error.code().name.lower()}: {said}"
        self._failed_count += 1
        rounds, position = divmod(self._failed_count, self._replica_count)
        wait_s = 0.0
        if position == 0:  # every replica was asked since the last wait
            ceiling_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** min(rounds, 10))
            wait_s = ceiling_s * random.uniform(0.5, 1.0)
            if rounds == 3:
                self._notice(f"the cell does not answer yet ({self._tried[address]}); trying again")
        if time.monotonic() + wait_s >= self._deadline_s:
            raise CellUnreachable(self._tried, self._timeout_s) from error
        time.sleep(wait_s)


def _asks_to_retry(error: grpc.RpcError) -> bool:
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in _details(error))


def _refused(error: grpc.RpcError) -> CellRefused:
    violations: list[Violation] = []
    for detail in _details(error):
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            violations += (
                Violation(violation.field, violation.description)
                for violation in bad_request.field_violations
            )
    message = error.details() or "no details"
    return CellRefused(error.code().name, message, tuple(violations))


def _details(error: grpc.RpcError) -> "Sequence[any_pb2.Any]":
    """The rich details of a status; none when there are none or they cannot be read."""
    try:
        status = rpc_status.from_call(error) if isinstance(error, grpc.Call) else None
    except ValueError:  # a status whose rich form contradicts the plain one
        return ()
    return status.details if status is not None else ()
