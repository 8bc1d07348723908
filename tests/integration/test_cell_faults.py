"""What a real cell does when its parts die: leader, Borglet, task, machine, disk; with real kills."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import grpc
import pytest
from borgcell import convert
from borgcell.specs import normalize
from borgcell.v1 import cell_pb2, cell_pb2_grpc, types_pb2

from tests.helpers.copies import live_copies, live_pids
from tests.helpers.local_cell import LocalCell, local_cell
from tests.helpers.specs import a_batch, a_service, a_sleeper

pytestmark = [pytest.mark.cell, pytest.mark.root]

UNREACHABLE_MS, LOST_MS = 3_000, 7_000


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cell")
    options = ["--unreachable-after-ms", str(UNREACHABLE_MS), "--lost-after-ms", str(LOST_MS)]
    with local_cell(directory, 18_800, master_options=options) as cell:
        yield cell


def incarnations(cell, spec):
    return {task.index: task.current.number for task in cell.tasks(spec)}


def test_killing_the_leader_restarts_no_task_and_a_submission_meanwhile_exists_exactly_once(cell):
    spec = a_service("stay")
    cell.submit(spec)
    cell.wait_running(spec)
    before, pids = incarnations(cell, spec), live_pids("test", "ann/stay")
    leader = cell.leader()
    request_id = str(uuid.uuid4())
    other = a_sleeper("meanwhile", task_count=2)
    answers = []
    submitting = threading.Thread(
        target=lambda: answers.append(cell.submit(other, request_id=request_id))
    )
    killed_at = time.monotonic()
    cell.kill(f"borgmaster-{leader}")
    submitting.start()
    cell.wait(lambda: cell.leader() not in ("", leader), "a new leader", timeout_s=15)
    took_s = time.monotonic() - killed_at
    submitting.join(30)
    # a client that never heard the answer sends the same request again
    again = cell.submit(other, request_id=request_id)
    assert (again.version, again.created, again.index) == (1, True, answers[0].index)
    assert took_s < 10, f"a new leader took {took_s:.1f} s"
    cell.wait_running(other)
    submits = [
        e for e in cell.events("ann/meanwhile") if e.subject == "task" and e.kind == "SUBMIT"
    ]
    assert len(submits) == 2
    assert incarnations(cell, spec) == before
    assert live_pids("test", "ann/stay") == pids
    cell.start(f"borgmaster-{leader}")
    cell.wait(
        lambda: all(replica.connected for replica in cell.status().replicas),
        "the killed replica is back",
    )
    for one in (spec, other):
        cell.kill_job(one)


def test_tasks_go_on_without_any_master_and_are_adopted_by_the_next(cell):
    spec = a_service("alone")
    cell.submit(spec)
    cell.wait_running(spec)
    before, pids = incarnations(cell, spec), live_pids("test", "ann/alone")
    for n in (1, 2, 3):
        cell.kill(f"borgmaster-m{n}")
    time.sleep(2)
    assert live_pids("test", "ann/alone") == pids
    for n in (1, 2, 3):
        cell.start(f"borgmaster-m{n}")
    cell.wait(cell._is_up, "the cell is up again")
    cell.wait_running(spec)
    assert incarnations(cell, spec) == before
    assert live_pids("test", "ann/alone") == pids
    cell.kill_job(spec)


def test_a_killed_borglet_adopts_its_tasks_and_knows_how_those_ended_that_ended_meanwhile(cell):
    stays = a_service("adopt", task_count=3)
    # ends while its Borglet is away: exit code 9 must still be known
    ends = a_batch("ends", "sleep 3; exit 9")
    cell.submit(stays)
    cell.submit(ends)
    cell.wait_running(stays)
    cell.wait_running(ends)
    machine = cell.task("ann/ends/0").current.machine
    before, pids = incarnations(cell, stays), live_pids("test", "ann/adopt")
    cell.kill(f"borglet-{machine}")
    cell.wait(lambda: not live_copies("test", "ann/ends"), "the batch task has ended by itself")
    cell.start(f"borglet-{machine}")
    cell.wait(
        lambda: cell.task("ann/ends/0").state == types_pb2.TASK_STATE_DEAD,
        "the end is reported",
    )
    task = cell.task("ann/ends/0")
    assert (task.current.number, task.current.exit_code) == (1, 9), task
    cell.wait_running(stays)
    assert incarnations(cell, stays) == before
    assert live_pids("test", "ann/adopt") == pids
    cell.kill_job(stays)


def test_a_killed_task_comes_back_as_a_new_incarnation_and_history_says_why(cell):
    spec = a_service("killed", task_count=1)
    cell.submit(spec)
    (task,) = cell.wait_running(spec)
    for pid in live_pids("test", "ann/killed"):
        os.kill(pid, signal.SIGKILL)
    cell.wait(lambda: cell.task("ann/killed/0").current.number == 2, "the next incarnation")
    finished = cell.task("ann/killed/0").finished[-1]
    assert finished.end_reason == types_pb2.END_REASON_FAILED
    assert finished.exit_code == 128 + signal.SIGKILL
    kinds = [event.kind for event in cell.events("ann/killed/0")]
    assert kinds[:6] == ["SUBMIT", "SCHEDULE", "START", "HEALTHY", "FAIL", "SUBMIT"]
    assert "back" in cell.explain("ann/killed/0").summary
    del task
    cell.kill_job(spec)


def test_tasks_of_a_cut_off_machine_run_elsewhere_and_the_old_copies_die_on_its_return(cell):
    spec = a_service("cut", task_count=3)
    cell.submit(spec)
    cell.wait_running(spec)
    victim = cell.task("ann/cut/0").current.machine
    cell.kill(f"borglet-{victim}", signal.SIGSTOP)  # it neither answers nor acts; its tasks run on
    try:
        cell.wait(
            lambda: (
                len(cell.running(spec)) == 3
                and victim not in {task.current.machine for task in cell.running(spec)}
            ),
            "all tasks run elsewhere",
        )
        # the situation this test is about: two live copies of a task
        assert {(0, 1), (0, 2)} <= live_copies("test", "ann/cut")
    finally:
        cell.kill(f"borglet-{victim}", signal.SIGCONT)
    cell.wait(lambda: len(live_copies("test", "ann/cut")) == 3, "the old copies are gone")
    current = {(task.index, task.current.number) for task in cell.tasks(spec)}
    for _ in range(40):
        assert live_copies("test", "ann/cut") == current
        time.sleep(0.05)
    kinds = [event.kind for event in cell.events("ann/cut/0")]
    assert "PARTITION" in kinds
    assert "LOST" in kinds
    cell.kill_job(spec)


def test_a_borglet_of_another_cell_is_turned_away_with_a_clear_error(cell, tmp_path):
    command = cell.layout.commands(founding=False)["borglet-machine1"]
    command = [part if part != "test" else "elsewhere" for part in command]
    command[command.index("--state-dir") + 1] = str(tmp_path)
    command[command.index("--listen") + 1] = "127.0.0.1:18899"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "this is cell 'test', not 'elsewhere'" in done.stderr + done.stdout


def test_an_unreachable_cell_is_exit_code_3_with_the_addresses_tried():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "borgcfg.cli",
            "status",
            "--masters",
            "127.0.0.1:9,127.0.0.1:10",
            "--call-timeout",
            "2s",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3, done
    assert "127.0.0.1:9" in done.stderr


def test_a_full_disk_stops_the_replica_with_a_clear_message_and_space_lets_it_come_back(tmp_path):
    state = tmp_path / "small"
    state.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "borg-test-small", str(state)], check=True
    )
    cell = LocalCell(tmp_path / "cell", 19_800, replicas=1, machines=1)
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "m1").symlink_to(state)
    try:
        cell.start("borgmaster-m1")
        cell.wait(lambda: cell.leader() == "m1", "a leader")
        acknowledged = fill(cell)
        assert cell.processes["borgmaster-m1"].wait(30) == 74
        assert "No space left on device" in cell.output("borgmaster-m1")
        subprocess.run(["mount", "-o", "remount,size=64m", str(state)], check=True)
        cell.start("borgmaster-m1")
        cell.wait(lambda: cell.leader() == "m1", "a leader after there is space again")
        jobs = cell.ask(
            lambda stub: stub.ListJobs(cell_pb2.ListJobsRequest(page_size=1000), timeout=10)
        ).jobs
        assert acknowledged
        assert set(acknowledged) <= {job.spec.name for job in jobs}
    finally:
        cell.down()
        subprocess.run(["umount", str(state)], check=True)


def fill(cell) -> list[str]:
    """Submit large jobs until the replica fails; the names of those that were acknowledged."""
    acknowledged = []
    with grpc.insecure_channel(cell.layout.api_addresses[0]) as channel:
        stub = cell_pb2_grpc.CellServiceStub(channel)
        for n in range(200):
            spec = a_sleeper(f"j{n}", labels={f"k{i}": "x" * 250 for i in range(60)})
            request = cell_pb2.SubmitJobRequest(spec=convert.job_spec_to_wire(normalize(spec)))
            try:
                stub.SubmitJob(request, timeout=10)
            except grpc.RpcError:
                return acknowledged
            acknowledged.append(spec.name)
    raise AssertionError("200 large jobs fitted a disk of 1 MiB")
