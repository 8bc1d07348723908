"""borglet.join against a real operator service: who accepts, who refuses, who is away."""

import asyncio
import contextlib

import grpc
import pytest
from borgcell.v1 import operator_pb2, operator_pb2_grpc

from borglet.join import Refused, join
from tests.helpers.borglet_link import run

NOBODY = "127.0.0.1:1"


class Operator(operator_pb2_grpc.OperatorServiceServicer):
    """Answers AddMachine with the codes given, one after the other, and then accepts."""

    def __init__(self, *codes):
        self.codes = list(codes)
        self.requests = []

    async def AddMachine(self, request, context):
        self.requests.append(request)
        if self.codes:
            await context.abort(self.codes.pop(0), "this cell is rome, not paris")
        return operator_pb2.AddMachineResponse(index=1)


@contextlib.asynccontextmanager
async def a_master(operator):
    server = grpc.aio.server()
    operator_pb2_grpc.add_OperatorServiceServicer_to_server(operator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def test_the_first_master_that_accepts_is_enough():
    async def scenario():
        operator = Operator()
        async with a_master(operator) as address:
            await join([NOBODY, address], cell="paris", name="m1", address="10.0.0.1:7")
        (request,) = operator.requests
        assert (request.cell, request.name, request.address) == ("paris", "m1", "10.0.0.1:7")

    run(scenario())


def test_what_may_pass_is_tried_again():
    async def scenario():
        operator = Operator(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
        async with a_master(operator) as address:
            await join([address], cell="paris", name="m1", address="10.0.0.1:7")
        assert len(operator.requests) == 3

    run(scenario())


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT]
)
def test_a_refusal_ends_it_with_the_masters_words(code):
    async def scenario():
        async with a_master(Operator(code)) as address:
            with pytest.raises(Refused, match="refuses this machine: this cell is rome, not paris"):
                await join([address], cell="paris", name="m1", address="10.0.0.1:7")

    run(scenario())


def test_while_no_master_answers_it_goes_on_trying():
    async def scenario():
        joining = asyncio.create_task(join([NOBODY], cell="paris", name="m1", address="10.0.0.1:7"))
        await asyncio.sleep(1)
        assert not joining.done()
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)

    run(scenario())
