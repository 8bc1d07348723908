"""Owns how a Borglet makes itself known: AddMachine at any master, until one accepts."""

import asyncio
import logging
import random
import socket
from collections.abc import Sequence
from typing import Final

import grpc
from borgcell.v1 import operator_pb2, operator_pb2_grpc

from borglet.config import split_address

log = logging.getLogger(__name__)

CALL_TIMEOUT_S: Final = 5.0
PAUSE_S_MIN: Final = 0.2
PAUSE_S_MAX: Final = 10.0
WILDCARDS: Final = frozenset({"0.0.0.0", "[::]", "::", "*"})
# What no other master and no later attempt would answer differently.
REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


class Refused(Exception):
    """The cell does not want this machine; the message is the master's."""


async def join(masters: Sequence[str], *, cell: str, name: str, address: str) -> None:
    """Return once a master has accepted the machine. Raises Refused."""
    pause_s, attempt = PAUSE_S_MIN, 0
    request = operator_pb2.AddMachineRequest(name=name, address=address, cell=cell)
    while True:
        for master in masters:
            if await _ask(master, request):
                log.info("joined", extra={"master": master, "address": address})
                return
        attempt += 1
        if attempt % 10 == 1:
            log.warning("no_master_accepts_yet", extra={"masters": list(masters)})
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 2, PAUSE_S_MAX)


async def _ask(master: str, request: operator_pb2.AddMachineRequest) -> bool:
    async with grpc.aio.insecure_channel(master) as channel:
        stub = operator_pb2_grpc.OperatorServiceStub(channel)
        try:
            await stub.AddMachine(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in REFUSALS:
                raise Refused(f"{master} refuses this machine: {error.details()}") from error
            log.debug(
                "master_does_not_accept",
                extra={"master": master, "code": error.code().name, "detail": error.details()},
            )
            return False
    return True


def advertised_address(listen: str, port: int, masters: Sequence[str]) -> str:
    """What masters should call: ``listen`` with its real port, and for a wildcard the address that faces the master.

    Raises ValueError when no such address can be found.
    """
    host, _ = split_address(listen)
    if host not in WILDCARDS:
        return f"{host}:{port}"
    for master in masters:
        master_host, master_port = split_address(master)
        try:
            family, kind, _, _, target = socket.getaddrinfo(
                master_host.strip("[]"), master_port, type=socket.SOCK_DGRAM
            )[0]
            with socket.socket(family, kind) as probe:
                probe.connect(target)  # sends nothing: it only chooses the route
                found = str(probe.getsockname()[0])
        except OSError:
            continue
        return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"
    raise ValueError(f"--listen {listen} is a wildcard and no master resolves: give --address")
