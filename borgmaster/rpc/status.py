"""Owns how refusals and failures look on the wire: the one map from our codes to gRPC's."""

from typing import Any, Final, NoReturn

import grpc
from borgcell.specs import Problem
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from borgmaster.errors import (
    BorgmasterError,
    NotLeader,
    OutcomeUnknown,
    QueueFull,
    StorageFailed,
    TooLarge,
)
from borgmaster.state.outcome import Code, Rejected

GRPC_CODES: Final = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
    Code.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
}
_RETRY_AFTER_MS: Final = 500  # what a refused client is told to wait; about one election


class Refused(Exception):
    """Ends an RPC with a status; raised by handlers, sent by ``abort``."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        problems: tuple[Problem, ...] = (),
        *,
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.problems = problems
        self.retry_after_ms = retry_after_ms


def from_rejected(rejected: Rejected) -> Refused:
    """The refusal of the core, with its field paths."""
    return Refused(GRPC_CODES[rejected.code], rejected.detail, rejected.problems)


def from_error(error: BorgmasterError) -> Refused:
    """A failure of the world, and when to try again."""
    match error:
        case NotLeader():
            code = grpc.StatusCode.UNAVAILABLE
        case OutcomeUnknown():
            # the client must ask again with the same request id
            code = grpc.StatusCode.UNAVAILABLE
        case QueueFull():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
        case TooLarge():
            return Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        case StorageFailed():
            return Refused(grpc.StatusCode.INTERNAL, str(error))
        case _:
            code = grpc.StatusCode.INTERNAL
    return Refused(code, str(error), retry_after_ms=_RETRY_AFTER_MS if error.retryable else 0)


def no_leader() -> Refused:
    """What a write gets while nobody leads."""
    return Refused(
        grpc.StatusCode.UNAVAILABLE,
        "the cell has no leader now (an election takes about a second; without a majority of replicas there is none)",
        retry_after_ms=_RETRY_AFTER_MS,
    )


def not_found(what: str) -> Refused:
    """What a read of something unknown gets."""
    return Refused(grpc.StatusCode.NOT_FOUND, what)


def invalid(field: str, message: str) -> Refused:
    """What a malformed request gets."""
    return Refused(
        grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {message}", (Problem(field, message),)
    )


def status_of(refused: Refused) -> status_pb2.Status:
    """The rich status: code, message, BadRequest with field paths, RetryInfo."""
    details: list[any_pb2.Any] = []
    if refused.problems:
        bad_request = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=problem.field, description=problem.message
                )
                for problem in refused.problems
            ]
        )
        details.append(any_pb2.Any())
        details[-1].Pack(bad_request)
    if refused.retry_after_ms:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(refused.retry_after_ms)
        details.append(any_pb2.Any())
        details[-1].Pack(retry)
    return status_pb2.Status(code=refused.code.value[0], message=refused.message, details=details)


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", refused: Refused) -> NoReturn:
    """End the RPC with the refusal."""
    rich = rpc_status.to_status(status_of(refused))
    await context.abort(rich.code, rich.details, rich.trailing_metadata)
    raise AssertionError("abort returned")
