"""The whole walk of a job through a real cell: 3 masters, 3 Borglets, native runtime; nothing is killed here."""

import tempfile
import urllib.request
from pathlib import Path

import grpc
import pytest
from borgcell.resources import GIB, MIB, Resources
from borgcell.specs import Constraint, Op, TaskSpec
from borgcell.v1 import cell_pb2, cell_pb2_grpc, operator_pb2, types_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from msgspec.structs import replace

from tests.helpers.copies import live_copies
from tests.helpers.local_cell import local_cell
from tests.helpers.specs import PYTHON, a_batch, a_service, a_sleeper

pytestmark = [pytest.mark.cell, pytest.mark.root]


@pytest.fixture(scope="module")
def cell():
    # not in /tmp, which tasks have for themselves: a real state directory lies elsewhere
    with (
        tempfile.TemporaryDirectory(prefix="borg-walk-", dir="/var/tmp") as directory,
        local_cell(Path(directory), 17_800) as cell,
    ):
        yield cell
        # nothing was killed here, so no link may have broken (two writes at once on a stream did it)
        assert [cell.output(f"borglet-machine{n}").count("link_opened") for n in (1, 2, 3)] == [
            1
        ] * 3


@pytest.fixture(autouse=True)
def no_job_is_left(cell):
    yield
    cell.kill_all()


def fields_of(error: grpc.RpcError) -> list[str]:
    status = rpc_status.from_call(error)
    bad_request = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(bad_request):
            return [violation.field for violation in bad_request.field_violations]
    return []


def test_a_service_answers_on_its_assigned_ports_from_different_machines(cell):
    spec = a_service("walk")
    cell.submit(spec)
    tasks = cell.wait_running(spec)
    assert len({task.current.machine for task in tasks}) == 3
    for task in tasks:
        url = f"http://127.0.0.1:{task.current.ports['http']}/"
        assert urllib.request.urlopen(url, timeout=5).read().decode() == f"{task.index}#1"
    assert cell.logs("ann/walk/0") == "serving\n"
    kinds = [event.kind for event in cell.events("ann/walk/1")]
    assert kinds == ["SUBMIT", "SCHEDULE", "START", "HEALTHY"]
    cell.kill_job(spec)
    assert live_copies("test", "ann/walk") == set()


def test_a_batch_job_ends_when_all_tasks_have_finished_and_its_output_stays_readable(cell):
    spec = a_batch("sum", "echo task $BORG_INDEX; exit 0", task_count=4)
    cell.submit(spec)

    def job():
        request = cell_pb2.GetJobRequest(job=cell_pb2.JobKey(user="ann", name="sum"))
        return cell.ask(lambda stub: stub.GetJob(request, timeout=5)).job

    cell.wait(lambda: job().counts.finished == 4, "four finished tasks")
    assert job().ended
    assert [cell.logs(f"ann/sum/{index}") for index in range(4)] == [
        f"task {index}\n" for index in range(4)
    ]


def test_a_failing_batch_task_is_retried_and_then_given_up_with_its_exit_code(cell):
    spec = a_batch("fails", "exit 7", max_failures=0)
    cell.submit(spec)
    cell.wait(lambda: cell.task("ann/fails/0").state == types_pb2.TASK_STATE_DEAD, "a dead task")
    task = cell.task("ann/fails/0")
    assert task.current.end_reason == types_pb2.END_REASON_FAILED
    assert task.current.exit_code == 7


def test_a_task_that_takes_too_much_memory_is_reported_as_out_of_memory(cell):
    spec = a_batch("hog", f"exec {PYTHON} -c 'x = bytearray(200 << 20)'")
    cell.submit(spec)
    cell.wait(lambda: cell.task("ann/hog/0").state == types_pb2.TASK_STATE_DEAD, "a dead task")
    assert "out of memory" in cell.task("ann/hog/0").current.detail


def test_a_job_that_fits_nowhere_says_why_and_what_would_fit(cell):
    spec = a_sleeper("huge", cpu_milli=64_000)
    cell.submit(spec)
    answer = cell.explain("ann/huge/0")
    assert {count.reason for count in answer.misfit.counts} == {"cpu"}
    assert answer.misfit.nearest_machine.startswith("machine")
    assert any("4 cpu" in hint for hint in answer.misfit.hints), answer.misfit.hints
    # the leader knows it from its last pass, and every replica tells it
    for address in cell.layout.api_addresses:
        cell.wait(
            lambda address=address: "3 cpu" in cell.pending_reason("ann/huge/0", address),
            f"a pending reason from {address}",
        )
    cell.kill_job(spec)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (a_sleeper("arm", constraints=(Constraint("arch", Op.EQUAL, "riscv"),)), "constraint"),
        (
            replace(
                a_sleeper("ram"),
                task=TaskSpec(argv=("/bin/true",), limit=Resources(100, 100 * GIB)),
            ),
            "ram",
        ),
        (
            replace(
                a_sleeper("disk"),
                task=TaskSpec(argv=("/bin/true",), limit=Resources(100, 32 * MIB, 1 << 49)),
            ),
            "disk",
        ),
    ],
    ids=["constraint", "ram", "disk"],
)
def test_every_reason_is_named(cell, spec, reason):
    cell.submit(spec)
    answer = cell.explain(f"{spec.key}/0")
    assert {count.reason for count in answer.misfit.counts} == {reason}, answer
    cell.kill_job(spec)


def test_a_dry_run_shows_the_placements_that_the_cell_then_makes_and_changes_nothing(cell):
    spec = a_sleeper("dry", task_count=5)
    planned = cell.submit(spec, dry_run=True)
    assert len(planned.plan.placements) == 5
    with pytest.raises(grpc.RpcError) as caught:
        cell.tasks(spec)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    cell.submit(spec)
    cell.wait_running(spec)
    cell.kill_job(spec)


def test_prod_evicts_the_cheapest_batch_tasks_and_both_histories_name_each_other(cell):
    # 3 machines of 4 CPUs: batch fills them up, prod needs 3 of one machine
    batch = a_sleeper("filler", task_count=12, cpu_milli=1_000, priority=100)
    cell.submit(batch)
    cell.wait_running(batch)
    prod = a_sleeper("prod", task_count=1, cpu_milli=2_000, priority=200)
    planned = cell.submit(prod, dry_run=True).plan.placements[0]
    assert len(planned.victims) == 2
    cell.submit(prod)
    (task,) = cell.wait_running(prod)
    evicted = [event for event in cell.events("ann/filler") if event.kind == "EVICT"]
    assert len(evicted) == 2
    assert {event.counterpart for event in evicted} == {"ann/prod/0"}
    assert {event.machine for event in evicted} == {task.current.machine}
    assert {event.cause for event in evicted} == {types_pb2.EVICTION_CAUSE_PREEMPTION}
    scheduled = next(e for e in cell.events("ann/prod/0") if e.kind == "SCHEDULE")
    assert all(event.key in scheduled.detail + scheduled.counterpart for event in evicted)
    for spec in (prod, batch):
        cell.kill_job(spec)


def test_an_update_restarts_only_what_must_and_one_task_at_a_time(cell):
    spec = a_service("upd", task_count=3)
    cell.submit(spec)
    before = {task.index: task.current.number for task in cell.wait_running(spec)}
    relabelled = replace(spec, labels={"team": "ads"}, priority=210)
    assert cell.submit(relabelled).tasks_restarted == 0
    assert {task.index: task.current.number for task in cell.running(spec)} == before
    changed = replace(relabelled, task=replace(spec.task, env={"NEW": "1"}))
    answer = cell.submit(changed)
    assert answer.tasks_restarted == 3
    down_at_once = 0

    def is_updated():
        nonlocal down_at_once
        tasks = cell.tasks(spec)
        down_at_once = max(
            down_at_once, sum(t.state != types_pb2.TASK_STATE_RUNNING for t in tasks)
        )
        return all(
            t.current.version == answer.version and t.state == types_pb2.TASK_STATE_RUNNING
            for t in tasks
        )

    cell.wait(is_updated, "all tasks at the new version")
    assert down_at_once == 1
    shrunk = replace(changed, task_count=1)
    assert cell.submit(shrunk).tasks_removed == 2
    cell.wait(lambda: len(cell.tasks(shrunk)) == 1, "one task left")
    cell.kill_job(shrunk)


def test_a_drained_machine_is_emptied_and_takes_tasks_again_afterwards(cell):
    spec = a_service("drain", task_count=3)
    cell.submit(spec)
    cell.wait_running(spec)
    cell.operate(
        lambda stub: stub.DrainMachine(operator_pb2.DrainMachineRequest(name="machine2"), timeout=5)
    )
    cell.wait(
        lambda: (
            {task.current.machine for task in cell.running(spec)} == {"machine1", "machine3"}
            and len(cell.running(spec)) == 3
        ),
        "all tasks on the other machines",
    )
    causes = {e.cause for e in cell.events("ann/drain") if e.kind == "EVICT"}
    assert causes == {types_pb2.EVICTION_CAUSE_MAINTENANCE}
    cell.operate(
        lambda stub: stub.UndrainMachine(
            operator_pb2.UndrainMachineRequest(name="machine2"), timeout=5
        )
    )
    more = a_sleeper("again", task_count=3, max_per_machine=1)
    cell.submit(more)
    cell.wait_running(more)
    for one in (spec, more):
        cell.kill_job(one)


def test_a_stock_client_can_explore_masters_and_borglets(cell):
    borglet = cell.layout.commands(founding=False)["borglet-machine1"]
    servers = {
        cell.layout.api_addresses[0]: {"CellService", "OperatorService"},
        borglet[borglet.index("--listen") + 1]: {"BorgletService"},
    }
    for address, services in servers.items():
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            wanted = {f"borgcell.v1.{service}" for service in services}
            assert wanted <= set(database.get_services())
            for service in wanted:
                request = health_pb2.HealthCheckRequest(service=service)
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_watcher_sees_what_happens_and_is_told_to_resync_when_it_asks_for_what_is_gone(cell):
    spec = a_sleeper("watched")
    with grpc.insecure_channel(cell.layout.api_addresses[2]) as channel:
        stub = cell_pb2_grpc.CellServiceStub(channel)
        watch = stub.Watch(cell_pb2.WatchRequest(key="ann/watched"), timeout=30)
        next(watch)
        cell.submit(spec)
        kinds = []
        for message in watch:
            kinds += [event.kind for event in message.events if event.subject == "task"]
            if "HEALTHY" in kinds:
                break
        assert kinds == ["SUBMIT", "SCHEDULE", "START", "HEALTHY"]
        watch.cancel()
        future = stub.Watch(cell_pb2.WatchRequest(after_sequence=10**9), timeout=30)
        next(future)
        assert next(future).resync
        future.cancel()


class TestBadInput:
    """Refusals: a code, a message, the field; and nothing half-done."""

    def refused(self, call) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        return caught.value

    def test_a_spec_with_wrong_fields_names_them_all(self, cell):
        spec = replace(
            a_sleeper("Bad Name"),
            task_count=1_000_001,
            priority=999,
            task=TaskSpec(argv=("a",), limit=Resources(-5, 1)),
        )
        error = self.refused(lambda: cell.submit(spec))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert set(fields_of(error)) >= {
            "name",
            "task_count",
            "priority",
            "task.limit.cpu_milli",
            "task.limit.ram_bytes",
        }

    def test_an_update_of_a_stale_version_is_refused(self, cell):
        spec = a_sleeper("stale")
        version = cell.submit(spec).version
        cell.submit(replace(spec, labels={"a": "b"}))
        error = self.refused(
            lambda: cell.submit(replace(spec, labels={"c": "d"}), expected_version=version)
        )
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert str(version) in error.details()
        cell.kill_job(spec)

    def test_killing_what_does_not_exist_is_not_found(self, cell):
        request = cell_pb2.KillJobRequest(job=cell_pb2.JobKey(user="ann", name="nobody"))
        error = self.refused(lambda: cell.ask(lambda stub: stub.KillJob(request, timeout=5)))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "ann/nobody" in error.details()

    def test_a_machine_of_another_cell_is_refused(self, cell):
        request = operator_pb2.AddMachineRequest(name="x", address="127.0.0.1:1", cell="other")
        error = self.refused(lambda: cell.operate(lambda stub: stub.AddMachine(request, timeout=5)))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "other" in error.details()

    def test_the_same_request_id_gets_the_first_answer(self, cell):
        spec = a_sleeper("once")
        first = cell.submit(spec, request_id="abc")
        again = cell.submit(spec, request_id="abc")
        assert (again.version, again.created, again.index) == (1, True, first.index)
        cell.kill_job(spec)
