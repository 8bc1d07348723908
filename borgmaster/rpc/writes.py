"""Owns what submit, kill and the operators' calls do on the leader: unpack, one command, pack."""

import asyncio

import grpc
from borgcell import convert
from borgcell.convert import WireError
from borgcell.specs import SPEC_BYTES_MAX, Problem
from borgcell.v1 import cell_pb2, operator_pb2

from borgmaster.config import check_address
from borgmaster.ports import Clock, CommandLog
from borgmaster.replica import Replica
from borgmaster.rpc import keys, planning
from borgmaster.rpc.status import Refused, from_rejected, invalid
from borgmaster.scheduling.loop import SchedulingLoop
from borgmaster.state.commands import (
    ANY_VERSION,
    AddMachine,
    Command,
    KillJob,
    RemoveMachine,
    SetDraining,
    SubmitJob,
)
from borgmaster.state.entry import Proposal
from borgmaster.state.outcome import Accepted, Rejected


class Writes:
    """The mutating calls, on the replica that leads."""

    def __init__(self, cell: str, replica: Replica, command_log: CommandLog, clock: Clock) -> None:
        self._cell = cell
        self._replica = replica
        self._log = command_log
        self._clock = clock

    async def _commit(self, command: Command, request_id: str = "") -> Accepted:
        proposal = Proposal(command, keys.request_id(request_id))
        (outcome,) = await asyncio.wrap_future(self._log.propose([proposal]))
        if isinstance(outcome, Rejected):
            raise from_rejected(outcome)
        return outcome

    async def submit(
        self, request: cell_pb2.SubmitJobRequest, scheduling: SchedulingLoop | None
    ) -> cell_pb2.SubmitJobResponse:
        """Create or update a job, or plan it only."""
        command = _submit_command(request)
        if request.dry_run:
            return await planning.dry_run(self._replica, scheduling, command, self._clock.wall_ms())
        done = await self._commit(command, request.request_id)
        return cell_pb2.SubmitJobResponse(
            version=done.version,
            created=done.created,
            index=done.index,
            tasks_added=done.tasks_added,
            tasks_removed=done.tasks_removed,
            tasks_restarted=done.tasks_restarted,
        )

    async def kill(self, request: cell_pb2.KillJobRequest) -> cell_pb2.KillJobResponse:
        """Kill a job or some of its tasks."""
        job = keys.job_key(request.job)
        indexes = tuple(sorted(set(request.indexes)))
        if indexes and indexes[0] < 0:
            raise invalid("indexes", f"{indexes[0]} is negative")
        done = await self._commit(KillJob(job, indexes), request.request_id)
        return cell_pb2.KillJobResponse(tasks_killed=done.tasks_affected, index=done.index)

    async def add_machine(
        self, request: operator_pb2.AddMachineRequest
    ) -> operator_pb2.AddMachineResponse:
        """Make a machine known."""
        name = keys.machine_name(request.name)
        if request.cell != self._cell:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is cell {self._cell!r}, not {request.cell[:80]!r}: check --cell and --masters",
                (Problem("cell", f"must be {self._cell!r}"),),
            )
        try:
            check_address(request.address)
        except ValueError as error:
            raise invalid("address", str(error)) from error
        known = self._replica.read(lambda cell: cell.machines.get(name))
        if known is not None and known.address == request.address:
            return operator_pb2.AddMachineResponse()
        done = await self._commit(AddMachine(name, request.address))
        return operator_pb2.AddMachineResponse(index=done.index if done.changed else 0)

    async def remove_machine(
        self, request: operator_pb2.RemoveMachineRequest
    ) -> operator_pb2.RemoveMachineResponse:
        """Forget a machine."""
        done = await self._commit(RemoveMachine(keys.machine_name(request.name), request.force))
        return operator_pb2.RemoveMachineResponse(tasks_evicted=done.tasks_affected)

    async def set_draining(self, name: str, *, draining: bool) -> int:
        """Start or end the emptying of a machine; the number of tasks on it."""
        done = await self._commit(SetDraining(keys.machine_name(name), draining))
        return done.tasks_affected


def _submit_command(request: cell_pb2.SubmitJobRequest) -> SubmitJob:
    size = request.spec.ByteSize()
    if size > SPEC_BYTES_MAX:
        raise invalid(
            "spec",
            f"is {size} bytes; at most {SPEC_BYTES_MAX} fit: use %index% instead of many overrides",
        )
    if not request.HasField("spec"):
        raise invalid("spec", "is missing")
    try:
        spec = convert.job_spec_from_wire(request.spec)
    except WireError as error:
        raise invalid(f"spec.{error.problem.field}", error.problem.message) from error
    expected = request.expected_version if request.HasField("expected_version") else ANY_VERSION
    if expected < ANY_VERSION:
        raise invalid("expected_version", f"{expected} is not a version; -1 means any")
    return SubmitJob(spec, expected)
