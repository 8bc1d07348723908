"""``borgcfg up`` and its neighbours against a real gRPC server that plays a cell step by step."""

import os
import signal
import subprocess
import sys
import time
from concurrent import futures

import grpc
import pytest
from borgcell.types import JobKey
from borgcell.v1 import cell_pb2, cell_pb2_grpc, types_pb2
from click.testing import CliRunner

from borgcfg import exit_codes
from borgcfg.cli import borgcfg
from borgcfg.client import CellClient
from borgcfg.progress import Target, Verdict
from borgcfg.waiting import wait_until_up

CONFIG = """
user: ann
name: web
task_count: 2
task:
  argv: [serve]
  ports: [http]
  health: {http: /, port: http}
"""
PENDING, RUNNING, DEAD = (
    types_pb2.TASK_STATE_PENDING,
    types_pb2.TASK_STATE_RUNNING,
    types_pb2.TASK_STATE_DEAD,
)


class Cell(cell_pb2_grpc.CellServiceServicer):
    """One job whose counts go through ``steps``, one step per GetJob, staying at the last."""

    def __init__(self):
        self.job = None
        self.steps = [{"running": 2}]
        self.tasks = []
        self.plan = cell_pb2.Plan()
        self.misfit = None
        self.killed = []

    def SubmitJob(self, request, context):
        version = self.job.version if self.job else 0
        response = cell_pb2.SubmitJobResponse(version=version + 1, created=version == 0)
        if request.HasField("expected_version") and request.expected_version > version:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"ann/web is at version {version}")
        if self.job and self.job.spec == request.spec:
            response.version = version
        elif not request.dry_run:
            self.job = types_pb2.Job(spec=request.spec, version=version + 1)
        response.tasks_added = request.spec.task_count if response.created else 0
        if request.dry_run:
            response.plan.CopyFrom(self.plan)
        return response

    def GetJob(self, request, context):
        if self.job is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no job ann/web")
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        counts = types_pb2.TaskCounts(**step)
        job = types_pb2.Job(spec=self.job.spec, version=self.job.version, counts=counts)
        return cell_pb2.GetJobResponse(job=job)

    def ListTasks(self, request, context):
        tasks = [task for task in self.tasks if not request.states or task.state in request.states]
        return cell_pb2.ListTasksResponse(tasks=tasks)

    def ExplainTask(self, request, context):
        (task,) = (task for task in self.tasks if task.index == request.task.index)
        response = cell_pb2.ExplainTaskResponse(
            task=task, summary="does not fit on 3 of 3 machines"
        )
        if self.misfit is not None:
            response.misfit.CopyFrom(self.misfit)
        return response

    def KillJob(self, request, context):
        self.killed.append(list(request.indexes))
        return cell_pb2.KillJobResponse(tasks_killed=len(request.indexes) or 2)

    def StreamLogs(self, request, context):
        yield cell_pb2.StreamLogsResponse(incarnation=3, machine="m1")
        for part in (b"one\n\xff\x00", b"two"):
            yield cell_pb2.StreamLogsResponse(data=part)


@pytest.fixture
def cell():
    cell = Cell()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    cell_pb2_grpc.add_CellServiceServicer_to_server(cell, server)
    cell.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield cell
    server.stop(0).wait(5)


@pytest.fixture
def run(cell, tmp_path):
    (tmp_path / "web.yaml").write_text(CONFIG)
    runner = CliRunner(env={"BORGCFG_MASTERS": cell.address, "BORGCFG_CELL": "", "NO_COLOR": "1"})
    file = str(tmp_path / "web.yaml")
    return lambda *words: runner.invoke(
        borgcfg, [file if word == "FILE" else word for word in words]
    )


def a_task(index, state, **fields):
    current = types_pb2.Incarnation(version=1, **fields.pop("current", {}))
    return types_pb2.Task(
        user="ann", job="web", index=index, state=state, current=current, **fields
    )


def test_up_creates_the_job_and_shows_each_change_until_it_is_up(cell, run):
    cell.steps = [{"pending": 2}, {"pending": 2}, {"starting": 1, "running": 1}, {"running": 2}]
    done = run("up", "FILE")
    assert done.exit_code == exit_codes.DONE
    assert done.stdout == "ann/web: created (version 1): 2 tasks added\n"
    assert done.stderr == (
        "ann/web: 2 pending\n"
        "ann/web: 1 running, 1 starting\n"
        "ann/web: 2 running\n"
        "ann/web version 1 is up: 2 running\n"
    )
    assert run("up", "FILE").stdout == "ann/web: unchanged (version 1)\n"


def test_a_task_that_fits_nowhere_ends_the_waiting_with_the_reason(cell, run):
    run("up", "FILE", "--no-wait")
    cell.steps = [{"pending": 1, "running": 1}]
    cell.tasks = [a_task(0, RUNNING), a_task(1, PENDING, pending_reason="no room")]
    cell.misfit = cell_pb2.Misfit(hints=["ask for less"])
    seen = []

    class Recorder:
        def show(self, jobs):
            seen.append(jobs[0].standing.line)

    with CellClient([cell.address]) as client:
        target = Target(JobKey("ann", "web"), 1)
        code, (job,) = wait_until_up(client, [target], 20, Recorder(), stuck_s=0.5)
    assert code == exit_codes.REFUSED
    assert job.standing.verdict is Verdict.FAILED
    assert seen[0] == "1 running, 1 pending"
    assert seen[-1] == "1 running, 1 pending; a task fits nowhere now"
    (reason,) = job.reasons
    assert "does not fit on 3 of 3 machines" in reason
    assert "would fit if you: ask for less" in reason


def test_waiting_ends_after_its_timeout_with_4_and_why(cell, run):
    cell.steps = [{"starting": 1, "running": 1}]
    cell.tasks = [a_task(1, PENDING, pending_reason="no room")]
    done = run("up", "FILE", "--timeout", "0.5s")
    assert done.exit_code == exit_codes.TIMED_OUT
    assert "ann/web/1: PENDING: no room\n" in done.stderr
    assert "does not fit on 3 of 3 machines" in done.stderr
    assert "not up after 0.5 s; the cell goes on with it\n" in done.stderr


def test_a_task_that_fails_again_and_again_ends_the_waiting(cell, run):
    cell.steps = [{"pending": 1, "running": 1}]
    cell.tasks = [a_task(1, PENDING, failures=3)]
    done = run("up", "FILE", "--timeout", "20s")
    assert done.exit_code == exit_codes.REFUSED
    assert "a task fails again and again" in done.stderr


def test_a_batch_job_that_gave_up_a_task_says_how_it_ended(cell, run, tmp_path):
    (tmp_path / "web.yaml").write_text("user: ann\nname: web\nkind: batch\ntask: {argv: [x]}\n")
    cell.steps = [{"running": 1}, {"dead": 1}]
    ending = {"end_reason": types_pb2.END_REASON_FAILED, "exit_code": 4, "detail": "exited with 4"}
    cell.tasks = [a_task(0, DEAD, current=ending)]
    done = run("up", "FILE", "--wait-done")
    assert done.exit_code == exit_codes.REFUSED
    assert "ann/web version 1 is not up: gave up a task: 1 dead\n" in done.stderr
    assert "  ann/web/0: FAILED (exit 4): exited with 4\n" in done.stderr
    assert "the cell keeps trying" not in done.stderr


def test_a_service_that_nothing_probes_is_up_only_after_it_ran_for_a_while(cell, run, tmp_path):
    (tmp_path / "web.yaml").write_text("user: ann\nname: web\ntask: {argv: [x]}\n")
    cell.steps = [{"running": 1}, {"pending": 1}, {"running": 1}]
    started_s = time.monotonic()
    done = run("up", "FILE")
    assert done.exit_code == exit_codes.DONE
    assert "ann/web: 1 pending\n" in done.stderr
    assert time.monotonic() - started_s > 1.0


def test_a_dry_run_shows_the_plan_and_changes_nothing(cell, run):
    key = cell_pb2.TaskKey(user="ann", job="web", index=0)
    victim = cell_pb2.TaskKey(user="bob", job="batch", index=4)
    cell.plan = cell_pb2.Plan(
        placements=[cell_pb2.PlannedPlacement(task=key, machine="m1", victims=[victim])]
    )
    done = run("up", "FILE", "--dry-run")
    assert done.exit_code == exit_codes.DONE
    assert done.stdout == (
        "ann/web: would be created (version 1): 2 tasks added\n"
        "  would place 1 task:\n"
        "    ann/web/0 on m1, evicting bob/batch/4\n"
    )
    assert cell.job is None
    cell.plan.unplaced_count = 1
    assert run("up", "FILE", "--dry-run").exit_code == exit_codes.REFUSED


def test_an_update_from_a_stale_version_is_refused_with_1(cell, run):
    done = run("up", "FILE", "--if-version", "7")
    assert done.exit_code == exit_codes.REFUSED
    assert done.stderr == "refused (failed precondition): ann/web is at version 0\n"


def test_diff_ends_with_1_when_something_differs_and_0_when_nothing_does(cell, run, tmp_path):
    run("up", "FILE")
    assert (run("diff", "FILE").exit_code, run("diff", "FILE").stdout) == (
        exit_codes.DONE,
        "ann/web: no difference\n",
    )
    (tmp_path / "web.yaml").write_text(CONFIG.replace("task_count: 2", "task_count: 3"))
    done = run("diff", "FILE")
    assert done.exit_code == exit_codes.REFUSED
    assert done.stdout == "ann/web: would be updated (version 2)\n  ~ task_count: 2 -> 3\n"


def test_logs_are_copied_byte_by_byte_and_whose_they_are_goes_to_stderr(run):
    done = run("logs", "ann/web/0")
    assert done.stdout_bytes == b"one\n\xff\x00two"
    assert done.stderr == "ann/web/0#3 on m1\n"


def test_kill_names_a_job_or_one_task(cell, run):
    assert run("kill", "ann/web/1", "--yes").stdout == "ann/web/1: 1 task killed\n"
    assert run("kill", "ann/web", "--yes").stdout == "ann/web: 2 tasks killed\n"
    assert cell.killed == [[1], []]


def test_status_of_a_job_that_is_not_there_is_refused_with_1(run):
    done = run("status", "ann/web")
    assert (done.exit_code, done.stdout) == (exit_codes.REFUSED, "")
    assert done.stderr == "refused (not found): there is no job ann/web\n"


def test_ctrl_c_detaches_and_leaves_the_job_to_the_cell(cell, tmp_path):
    (tmp_path / "web.yaml").write_text(CONFIG)
    cell.steps = [{"pending": 2}]
    process = subprocess.Popen(
        [sys.executable, "-m", "borgcfg.cli", "up", str(tmp_path / "web.yaml")],
        env={**os.environ, "BORGCFG_MASTERS": cell.address},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stderr.readline() == "ann/web: 2 pending\n"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(10) == exit_codes.DETACHED
    assert rest.startswith("detached: the cell goes on with ann/web")
    assert cell.killed == []
    assert cell.job.version == 1
