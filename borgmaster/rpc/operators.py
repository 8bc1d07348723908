"""Owns OperatorService: machines and members."""

from typing import Any

import grpc
from borgcell.v1 import operator_pb2, operator_pb2_grpc

from borgmaster.rpc import planning
from borgmaster.rpc.calls import Calls
from borgmaster.rpc.writes import Writes

SERVICE = "/borgcell.v1.OperatorService/"


class OperatorServicer(operator_pb2_grpc.OperatorServiceServicer):
    """Serves ``borgcell.v1.OperatorService`` on one replica."""

    def __init__(self, calls: Calls, writes: Writes) -> None:
        self._calls = calls
        self._writes = writes

    async def AddMachine(
        self, request: operator_pb2.AddMachineRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> operator_pb2.AddMachineResponse:
        """Make a machine known."""
        return await self._calls.run_on_leader(
            context,
            SERVICE + "AddMachine",
            request,
            operator_pb2.AddMachineResponse,
            lambda: self._writes.add_machine(request),
        )

    async def RemoveMachine(
        self,
        request: operator_pb2.RemoveMachineRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> operator_pb2.RemoveMachineResponse:
        """Forget a machine."""
        return await self._calls.run_on_leader(
            context,
            SERVICE + "RemoveMachine",
            request,
            operator_pb2.RemoveMachineResponse,
            lambda: self._writes.remove_machine(request),
        )

    async def DrainMachine(
        self,
        request: operator_pb2.DrainMachineRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> operator_pb2.DrainMachineResponse:
        """Empty a machine."""

        async def answer() -> operator_pb2.DrainMachineResponse:
            tasks = await self._writes.set_draining(request.name, draining=True)
            return operator_pb2.DrainMachineResponse(tasks=tasks)

        return await self._calls.run_on_leader(
            context, SERVICE + "DrainMachine", request, operator_pb2.DrainMachineResponse, answer
        )

    async def UndrainMachine(
        self,
        request: operator_pb2.UndrainMachineRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> operator_pb2.UndrainMachineResponse:
        """Let a machine take tasks again."""

        async def answer() -> operator_pb2.UndrainMachineResponse:
            await self._writes.set_draining(request.name, draining=False)
            return operator_pb2.UndrainMachineResponse()

        return await self._calls.run_on_leader(
            context,
            SERVICE + "UndrainMachine",
            request,
            operator_pb2.UndrainMachineResponse,
            answer,
        )

    async def ListMembers(
        self,
        request: operator_pb2.ListMembersRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> operator_pb2.ListMembersResponse:
        """The replicas. The leader sees all of them; without one this replica says what it sees."""

        async def answer() -> operator_pb2.ListMembersResponse:
            replicas = planning.replicas(self._calls)
            connected = sum(replica.connected for replica in replicas)
            quorum = len(replicas) // 2 + 1
            standing = self._calls.log.status()
            index = self._calls.replica.read(lambda cell: cell.applied_index)
            return operator_pb2.ListMembersResponse(
                replicas=replicas,
                fault_tolerance=connected - quorum if standing.leader else -1,
                term=standing.term,
                freshness=self._calls.freshness(index),
            )

        if self._calls.log.status().leader:
            return await self._calls.run_on_leader(
                context, SERVICE + "ListMembers", request, operator_pb2.ListMembersResponse, answer
            )
        return await self._calls.run(context, answer)
