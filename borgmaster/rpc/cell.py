"""Owns CellService: thin methods; the answers are in ``reads``, ``writes``, ``watch``, ``logs`` and ``planning``."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
from borgcell.v1 import cell_pb2, cell_pb2_grpc, types_pb2
from google.protobuf.message import Message

from borgmaster.rpc import keys, planning, reads, status
from borgmaster.rpc.calls import FORWARDED_KEY, Calls
from borgmaster.rpc.logs import stream_logs
from borgmaster.rpc.watch import WatchHub
from borgmaster.rpc.writes import Writes
from borgmaster.scheduling.loop import SchedulingLoop
from borgmaster.state.cell import CellState

R = TypeVar("R", bound=Message)
SERVICE = "/borgcell.v1.CellService/"


class CellServicer(cell_pb2_grpc.CellServiceServicer):
    """Serves ``borgcell.v1.CellService`` on one replica."""

    def __init__(
        self,
        calls: Calls,
        writes: Writes,
        hub: WatchHub,
        scheduling: Callable[[], SchedulingLoop | None],
    ) -> None:
        self._calls = calls
        self._writes = writes
        self._hub = hub
        self._scheduling = scheduling

    async def SubmitJob(
        self, request: cell_pb2.SubmitJobRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.SubmitJobResponse:
        """Create or update, or plan."""
        return await self._calls.run_on_leader(
            context,
            SERVICE + "SubmitJob",
            request,
            cell_pb2.SubmitJobResponse,
            lambda: self._writes.submit(request, self._scheduling()),
        )

    async def KillJob(
        self, request: cell_pb2.KillJobRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.KillJobResponse:
        """Kill a job or tasks."""
        return await self._calls.run_on_leader(
            context,
            SERVICE + "KillJob",
            request,
            cell_pb2.KillJobResponse,
            lambda: self._writes.kill(request),
        )

    async def ExplainTask(
        self, request: cell_pb2.ExplainTaskRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.ExplainTaskResponse:
        """Why a task is where it is. The leader's scheduler knows best; without a leader the state must do."""

        async def answer() -> cell_pb2.ExplainTaskResponse:
            return await planning.explain(
                self._calls, keys.task_key(request.task), self._scheduling()
            )

        if self._calls.log.status().leader:
            return await self._calls.run_on_leader(
                context, SERVICE + "ExplainTask", request, cell_pb2.ExplainTaskResponse, answer
            )
        return await self._calls.run(context, answer)

    async def GetJob(
        self, request: cell_pb2.GetJobRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.GetJobResponse:
        """One job."""
        return await self._read(context, lambda cell: reads.get_job(cell, request))

    async def ListJobs(
        self, request: cell_pb2.ListJobsRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.ListJobsResponse:
        """A page of jobs."""
        return await self._read(context, lambda cell: reads.list_jobs(cell, request))

    async def GetTask(
        self, request: cell_pb2.GetTaskRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.GetTaskResponse:
        """One task."""
        response = await self._read(
            context, lambda cell: reads.get_task(cell, request, self._pending_reasons())
        )
        if response.task.state == types_pb2.TASK_STATE_PENDING:
            return await self._leaders(context, "GetTask", request, response)
        return response

    async def ListTasks(
        self, request: cell_pb2.ListTasksRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.ListTasksResponse:
        """A page of tasks."""
        response = await self._read(
            context, lambda cell: reads.list_tasks(cell, request, self._pending_reasons())
        )
        if any(task.state == types_pb2.TASK_STATE_PENDING for task in response.tasks):
            return await self._leaders(context, "ListTasks", request, response)
        return response

    async def GetMachine(
        self, request: cell_pb2.GetMachineRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.GetMachineResponse:
        """One machine."""
        return await self._read(context, lambda cell: reads.get_machine(cell, request))

    async def ListMachines(
        self, request: cell_pb2.ListMachinesRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.ListMachinesResponse:
        """A page of machines."""
        return await self._read(context, lambda cell: reads.list_machines(cell, request))

    async def ListEvents(
        self, request: cell_pb2.ListEventsRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.ListEventsResponse:
        """Past events."""
        return await self._read(context, lambda cell: reads.list_events(cell, request))

    async def GetCellStatus(
        self, request: cell_pb2.GetCellStatusRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> cell_pb2.GetCellStatusResponse:
        """The cell at a glance."""
        del request
        response = await self._read(context, reads.summary)
        standing = self._calls.log.status()
        response.leader = standing.leader
        response.term = standing.term
        response.replicas.extend(planning.replicas(self._calls))
        response.versions[self._calls.config.name] = planning.VERSION
        return response

    async def Watch(
        self, request: cell_pb2.WatchRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[cell_pb2.WatchResponse]:
        """Events as they happen."""
        if request.after_sequence < -1:
            await status.abort(
                context, status.invalid("after_sequence", "must be -1, 0 or a sequence")
            )
        async for message in self._hub.watch(self._calls.replica, request):
            yield message

    async def StreamLogs(
        self, request: cell_pb2.StreamLogsRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[cell_pb2.StreamLogsResponse]:
        """Output of a task."""
        try:
            async for piece in stream_logs(self._calls.replica, request):
                yield piece
        except status.Refused as refused:
            await status.abort(context, refused)

    async def _leaders(
        self, context: "grpc.aio.ServicerContext[Any, Any]", method: str, request: Message, own: R
    ) -> R:
        """The leader's answer, as only the leader knows why tasks are pending; ours if it gives none."""
        if self._calls.log.leading() or FORWARDED_KEY in dict(context.invocation_metadata() or ()):
            return own
        return await self._calls.ask_leader(SERVICE + method, request, type(own)) or own

    def _pending_reasons(self) -> reads.PendingReasons:
        scheduling = self._scheduling()
        return {} if scheduling is None else scheduling.pending_reasons

    async def _read(
        self,
        context: "grpc.aio.ServicerContext[Any, Any]",
        question: Callable[[CellState], R],
    ) -> R:
        async def answer() -> R:
            response, index = self._calls.replica.read(
                lambda cell: (question(cell), cell.applied_index)
            )
            response.freshness.CopyFrom(self._calls.freshness(index))  # type: ignore[attr-defined]
            return response

        return await self._calls.run(context, answer)
