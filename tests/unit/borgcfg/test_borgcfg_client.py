"""The client against real gRPC servers: replicas that fail, elections, refusals, and the one request id of a write."""

import threading
from concurrent import futures

import grpc
import pytest
from borgcell.specs import JobSpec, TaskSpec
from borgcell.types import JobKey
from borgcell.v1 import cell_pb2, cell_pb2_grpc, types_pb2
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from borgcfg.client import CellClient
from borgcfg.failures import CellRefused, CellUnreachable, Violation

SPEC = JobSpec("ann", "web", TaskSpec(argv=("x",)))
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Replica(cell_pb2_grpc.CellServiceServicer):
    """Answers with what the test has queued, and remembers what it was asked."""

    def __init__(self):
        self.answers = []  # of SubmitJob: a response, a status code, a rich status, or a function
        self.asked = []
        self.jobs = []
        self.lock = threading.Lock()

    def SubmitJob(self, request, context):
        with self.lock:
            self.asked.append(request)
            answer = self.answers.pop(0) if self.answers else cell_pb2.SubmitJobResponse(version=1)
        if callable(answer):
            answer = answer()
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "no leader now")
        if isinstance(answer, status_pb2.Status):
            context.abort_with_status(rpc_status.to_status(answer))
        return answer

    def ListJobs(self, request, context):
        start = int(request.page_token or 0)
        page = self.jobs[start : start + 2]
        more = str(start + 2) if start + 2 < len(self.jobs) else ""
        return cell_pb2.ListJobsResponse(jobs=page, next_page_token=more)

    def Watch(self, request, context):
        yield cell_pb2.WatchResponse(sequence=request.after_sequence + 1)
        context.abort(UNAVAILABLE, "going away")


class Replicas:
    """Servers on loopback, each with its Replica."""

    def __init__(self, count):
        self.replicas = [Replica() for _ in range(count)]
        self.servers = []
        self.addresses = []
        for replica in self.replicas:
            server = grpc.server(futures.ThreadPoolExecutor(4))
            cell_pb2_grpc.add_CellServiceServicer_to_server(replica, server)
            self.addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            server.start()
            self.servers.append(server)

    def stop(self):
        for server in self.servers:
            server.stop(0).wait(5)


@pytest.fixture
def cell():
    cell = Replicas(3)
    yield cell
    cell.stop()


def rich_status(code, message, *details):
    packed = [any_pb2.Any() for _ in details]
    for each, detail in zip(packed, details, strict=True):
        each.Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def test_a_write_is_repeated_at_the_next_replica_with_the_same_request_id(cell):
    first, second, third = cell.replicas
    first.answers = [UNAVAILABLE]
    second.answers = [grpc.StatusCode.UNKNOWN]
    with CellClient(cell.addresses, timeout_s=10) as client:
        assert client.submit(SPEC).version == 1
    asked = [*first.asked, *second.asked, *third.asked]
    assert len(asked) == 3
    assert len({request.request_id for request in asked}) == 1
    assert len(asked[0].request_id) == 36


def test_two_writes_have_two_request_ids_and_a_dry_run_has_none(cell):
    with CellClient(cell.addresses[:1]) as client:
        client.submit(SPEC)
        client.submit(SPEC)
        client.submit(SPEC, dry_run=True)
    first, second, third = (request.request_id for request in cell.replicas[0].asked)
    assert first != second
    assert third == ""


def test_an_election_is_waited_out_with_the_same_request_id(cell):
    for replica in cell.replicas:
        replica.answers = [UNAVAILABLE] * 3  # nobody leads for three rounds
    said = []
    with CellClient(cell.addresses, timeout_s=20, notice=said.append) as client:
        assert client.submit(SPEC).version == 1
    ids = {request.request_id for replica in cell.replicas for request in replica.asked}
    assert len(ids) == 1
    assert sum(len(replica.asked) for replica in cell.replicas) == 10
    assert len(said) == 1
    assert "trying again" in said[0]


def test_the_client_stays_with_the_replica_that_answered(cell):
    cell.replicas[0].answers = [UNAVAILABLE]
    with CellClient(cell.addresses) as client:
        for _ in range(3):
            client.submit(SPEC)
    assert [len(replica.asked) for replica in cell.replicas] == [1, 3, 0]


def test_a_replica_that_never_answers_is_given_up_for_the_next_one(cell):
    release = threading.Event()
    cell.replicas[0].answers = [lambda: (release.wait(20), cell_pb2.SubmitJobResponse())[1]]
    with CellClient(cell.addresses, timeout_s=20, try_s_max=0.3) as client:
        assert client.submit(SPEC).version == 1
    release.set()
    assert cell.replicas[0].asked[0].request_id == cell.replicas[1].asked[0].request_id


def test_a_cell_that_does_not_answer_is_unreachable_and_every_address_was_tried(cell):
    cell.stop()
    with (
        CellClient(cell.addresses, timeout_s=0.5) as client,
        pytest.raises(CellUnreachable) as caught,
    ):
        client.submit(SPEC)
    assert set(caught.value.tried) == set(cell.addresses)
    for address in cell.addresses:
        assert f"  {address}: unavailable: " in str(caught.value)


def test_a_refusal_is_not_repeated_and_names_the_fields(cell):
    violation = error_details_pb2.BadRequest.FieldViolation(field="task.argv", description="empty")
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    cell.replicas[0].answers = [
        rich_status(grpc.StatusCode.INVALID_ARGUMENT, "the spec is wrong", bad_request)
    ]
    with CellClient(cell.addresses) as client, pytest.raises(CellRefused) as caught:
        client.submit(SPEC)
    assert (caught.value.code, str(caught.value)) == ("INVALID_ARGUMENT", "the spec is wrong")
    assert caught.value.violations == (Violation("task.argv", "empty"),)
    assert [len(replica.asked) for replica in cell.replicas] == [1, 0, 0]


def test_a_refusal_that_asks_to_retry_is_repeated(cell):
    full = rich_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", error_details_pb2.RetryInfo()
    )
    cell.replicas[0].answers = [full]
    with CellClient(cell.addresses) as client:
        assert client.submit(SPEC).version == 1


def test_lists_are_read_page_by_page(cell):
    spec = lambda n: types_pb2.JobSpec(user="ann", name=f"j{n}")  # noqa: E731
    cell.replicas[0].jobs = [types_pb2.Job(spec=spec(n)) for n in range(5)]
    with CellClient(cell.addresses) as client:
        assert [job.spec.name for job in client.jobs()] == ["j0", "j1", "j2", "j3", "j4"]


def test_a_job_that_is_not_there_is_none_but_other_refusals_are_raised(cell):
    with CellClient(cell.addresses[:1]) as client, pytest.raises(CellRefused) as caught:
        client.job(JobKey("ann", "web"))  # this replica does not implement GetJob
    assert caught.value.code == "UNIMPLEMENTED"


def test_a_stream_that_breaks_after_its_first_message_is_the_callers_to_take_up(cell):
    request = cell_pb2.WatchRequest(after_sequence=7)
    with CellClient(cell.addresses) as client:
        stream = client.stream(lambda stubs: stubs.cell.Watch, request)
        assert next(stream).sequence == 8
        with pytest.raises(CellRefused) as caught:
            next(stream)
    assert caught.value.code == "UNAVAILABLE"
