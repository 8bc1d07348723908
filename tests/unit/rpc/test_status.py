"""How refusals look on the wire."""

import grpc
from borgcell.specs import Problem
from google.rpc import error_details_pb2

from borgmaster.errors import NotLeader, OutcomeUnknown, QueueFull, StorageFailed, TooLarge
from borgmaster.rpc import status
from borgmaster.state.outcome import Code, Rejected


def details_of(refused, kind):
    for detail in status.status_of(refused).details:
        message = kind()
        if detail.Unpack(message):
            return message
    return None


def test_every_code_of_the_core_has_a_grpc_code():
    assert set(status.GRPC_CODES) == set(Code)


def test_a_refusal_carries_the_path_of_every_wrong_field():
    problems = (Problem("task_count", "0 is not in 1..100000"), Problem("name", "is empty"))
    refused = status.from_rejected(Rejected(Code.INVALID_ARGUMENT, "bad spec", problems))
    violations = details_of(refused, error_details_pb2.BadRequest).field_violations
    assert [(v.field, v.description) for v in violations] == [
        ("task_count", "0 is not in 1..100000"),
        ("name", "is empty"),
    ]


def test_what_may_work_later_says_when_to_try_again():
    for error in (NotLeader("m2"), OutcomeUnknown("lost"), QueueFull("full")):
        retry = details_of(status.from_error(error), error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToMilliseconds() > 0, error
    for error in (TooLarge("big"), StorageFailed("disk")):
        assert details_of(status.from_error(error), error_details_pb2.RetryInfo) is None, error


def test_an_unknown_outcome_is_unavailable_so_that_clients_retry_with_their_request_id():
    assert status.from_error(OutcomeUnknown("lost")).code is grpc.StatusCode.UNAVAILABLE
