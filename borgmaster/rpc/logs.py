"""Owns the streaming of task output: from the machine's Borglet through this replica to the user."""

from collections.abc import AsyncIterator
from typing import Final

import grpc
from borgcell import convert
from borgcell.types import TaskKey
from borgcell.v1 import borglet_pb2, borglet_pb2_grpc, cell_pb2

from borgmaster.replica import Replica
from borgmaster.rpc import keys, reads
from borgmaster.rpc.status import Refused, not_found
from borgmaster.state.cell import CellState

CONNECT_TIMEOUT_S: Final = 3.0


async def stream_logs(
    replica: Replica, request: cell_pb2.StreamLogsRequest
) -> AsyncIterator[cell_pb2.StreamLogsResponse]:
    """Pieces of the output; the first names incarnation and machine. Raises Refused."""
    key = keys.task_key(request.task)
    wanted = request.incarnation if request.HasField("incarnation") else None
    number, machine, address = replica.read(lambda cell: _find(cell, key, wanted))
    yield cell_pb2.StreamLogsResponse(incarnation=number, machine=machine)
    read = borglet_pb2.ReadLogsRequest(
        task=convert.task_key_to_wire(key),
        incarnation=number,
        follow=request.follow,
        tail_lines=request.tail_lines,
        stream=request.stream,
    )
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            call = borglet_pb2_grpc.BorgletServiceStub(channel).ReadLogs(read, wait_for_ready=False)
            async for piece in call:
                yield piece
        except grpc.aio.AioRpcError as error:
            raise _explain(error, machine, address) from error


def _explain(error: grpc.aio.AioRpcError, machine: str, address: str) -> Refused:
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Refused(
            grpc.StatusCode.UNAVAILABLE,
            f"machine {machine} ({address}) does not answer; its logs can be read when it is back",
        )
    return Refused(error.code(), error.details() or f"machine {machine} failed")


def _find(cell: CellState, key: TaskKey, wanted: int | None) -> tuple[int, str, str]:
    """Incarnation, machine and its address."""
    task = reads.find_task(cell, key)
    incarnations = (*task.finished, task.current)
    if wanted is not None:
        placed = [one for one in incarnations if one.number == wanted]
        if not placed:
            kept = ", ".join(str(one.number) for one in incarnations)
            raise not_found(f"{key} has no incarnation {wanted} that is kept (there are: {kept})")
    else:
        placed = [one for one in incarnations if one.machine]
    if not placed or not placed[-1].machine:
        raise not_found(f"{key} has not had a machine yet: `borgcfg why {key}` tells why")
    found = placed[-1]
    machine = cell.machines.get(found.machine)
    if machine is None:
        raise not_found(
            f"machine {found.machine} of {key}#{found.number} was removed from the cell"
        )
    return found.number, machine.name, machine.address
