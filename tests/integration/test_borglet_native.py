"""A real ``borglet run`` on real processes: what it starts, what survives its death, how it ends."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import grpc
import pytest
from borgcell.specs import HealthCheck
from borgcell.v1 import borglet_pb2, borglet_pb2_grpc, cell_pb2, operator_pb2_grpc

from tests.helpers.borglet_link import Master, end_of, run
from tests.helpers.borglet_values import MIB, a_desired, an_id

pytestmark = [pytest.mark.cell, pytest.mark.root]

FIRST_PORT = 18_900


class Process:
    """One ``borglet run`` process of a machine whose state is in a directory."""

    def __init__(self, directory, *options, cell="paris"):
        self.log_path = directory / "borglet.log"
        self.port = free_port()
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                [
                    *(sys.executable, "-m", "borglet.main", "run", "--cell", cell, "--name", "m1"),
                    *(
                        "--listen",
                        f"127.0.0.1:{self.port}",
                        "--state-dir",
                        str(directory / "state"),
                    ),
                    *("--ports", f"{FIRST_PORT}-{FIRST_PORT + 9}", "--cpu", "4", "--ram", "1GiB"),
                    *("--disk", "1GiB", "--runtime", "native", *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self, number=signal.SIGTERM):
        """Send it a signal and wait for its end; the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(40)

    def log(self):
        return self.log_path.read_text()

    @contextlib.asynccontextmanager
    async def master(self, term=1):
        """A link to it, as soon as it serves."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 15)
            master = Master(borglet_pb2_grpc.BorgletServiceStub(channel).Link())
            await master.hello(term=term)
            try:
                yield master
            finally:
                master.stream.cancel()


@pytest.fixture
def machine(tmp_path):
    """Starts Borglets of one machine; at the end the last one stops all tasks."""
    started = []

    def start(*options, **more):
        started.append(Process(tmp_path, *options, **more))
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)
    last = Process(tmp_path, "--stop-tasks-on-exit")
    run(connect(last))
    assert last.end() == 0
    assert '"all": true' in last.log()


async def connect(process):
    async with process.master(term=1_000):
        pass


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def shell(script):
    return ["/bin/sh", "-c", script]


def alive(marker):
    """Pids of live processes whose command line has the marker."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as line:
            if marker.encode() in line.read().split(b"\0"):
                found.append(int(pid))
    return found


async def log_of(process, index):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        request = borglet_pb2.ReadLogsRequest(
            task=cell_pb2.TaskKey(user="ann", job="web", index=index)
        )
        call = borglet_pb2_grpc.BorgletServiceStub(channel).ReadLogs(request)
        return b"".join([piece.data async for piece in call])


def test_tasks_survive_kill_9_of_the_borglet_and_are_adopted_with_the_ends_of_those_that_ended(
    machine,
):
    sleeper = a_desired(an_id(1), argv=shell("exec sleep 600.25"), ram_bytes=32 * MIB)
    ender = a_desired(an_id(2), argv=shell("sleep 2; echo bye; exit 7"), ram_bytes=32 * MIB)

    async def before(process):
        async with process.master() as master:
            await master.poll()
            await master.assign(sleeper, ender)
            await master.phase(sleeper.id, "RUNNING")
            while not alive("600.25"):
                await asyncio.sleep(0.02)

    async def after(process):
        async with process.master(term=2) as master:
            first = await master.poll()
            assert [report.task.index for report in first.tasks] == [1, 2]
            adopted, gone = first.tasks
            assert adopted.phase == borglet_pb2.TASK_PHASE_RUNNING
            assert (end_of(gone), gone.exit_code) == ("EXITED", 7)
            assert await log_of(process, 2) == b"bye\n"
            await master.assign(sleeper, acknowledged=[ender.id])
            assert not (await master.poll(hold_ms=500)).tasks
            assert alive("600.25") == pids, "the same process still runs"
            await master.assign()
            report = await master.phase(sleeper.id, "ENDED")
            assert end_of(report) == "STOPPED"

    process = machine()
    run(before(process))
    pids = alive("600.25")
    assert len(pids) == 1
    process.end(signal.SIGKILL)
    time.sleep(2.5)
    assert alive("600.25") == pids
    process = machine()
    run(after(process))
    assert alive("600.25") == []


def test_sigterm_ends_the_borglet_and_leaves_the_tasks(machine):
    sleeper = a_desired(an_id(1), argv=shell("exec sleep 600.5"), ram_bytes=32 * MIB)

    async def scenario(process):
        async with process.master() as master:
            await master.poll()
            await master.assign(sleeper)
            await master.phase(sleeper.id, "RUNNING")

    process = machine()
    run(scenario(process))
    assert process.end(signal.SIGTERM) == 0
    assert len(alive("600.5")) == 1
    again = machine("--stop-tasks-on-exit")
    run(connect(again))
    assert again.end(signal.SIGTERM) == 0
    assert alive("600.5") == []


def test_a_task_serves_on_its_port_is_probed_there_and_knows_who_it_is(machine):
    port = FIRST_PORT + 3
    server = (
        "import http.server, os; print(os.environ['BORG_JOB'], os.environ['PORT_HTTP'], flush=True);"
        "http.server.ThreadingHTTPServer(('127.0.0.1', %port:http%),"
        " http.server.SimpleHTTPRequestHandler).serve_forever()"
    )
    desired = a_desired(
        an_id(1),
        argv=[sys.executable, "-c", server],
        ports={"http": port},
        ram_bytes=64 * MIB,
        health=HealthCheck(http="/", port="http", interval_ms=200),
    )

    async def scenario(process):
        async with process.master() as master:
            await master.poll()
            await master.assign(desired)
            assert (await master.phase(desired.id, "RUNNING")).healthy
            assert (await log_of(process, 1)).splitlines()[0] == f"web {port}".encode()

    run(scenario(machine("--visible", sys.prefix)))


def test_running_out_of_memory_is_told_as_that(machine):
    eater = a_desired(
        an_id(1),
        argv=[sys.executable, "-c", "x = bytearray(200 << 20); print(len(x))"],
        ram_bytes=48 * MIB,
    )

    async def scenario(process):
        async with process.master() as master:
            await master.poll()
            await master.assign(eater)
            report = await master.phase(eater.id, "ENDED")
            assert end_of(report) == "OUT_OF_MEMORY"
            assert "48 MiB" in report.detail

    run(scenario(machine("--visible", sys.prefix)))


def test_a_program_that_does_not_exist_is_a_start_failure(machine):
    desired = a_desired(an_id(1), argv=["/no/such/program"], ram_bytes=32 * MIB)

    async def scenario(process):
        async with process.master() as master:
            await master.poll()
            await master.assign(desired)
            report = await master.phase(desired.id, "ENDED")
            assert end_of(report) == "START_FAILED"
            assert "/no/such/program" in report.detail

    run(scenario(machine()))


# --- how the process refuses to run


def test_two_borglets_on_one_state_directory_do_not_run(machine):
    first = machine()
    run(connect(first))
    second = machine()
    assert second.popen.wait(20) == 1
    assert f"in use by another Borglet (pid {first.popen.pid})" in second.log()


def test_a_borglet_of_the_wrong_cell_ends_with_what_the_master_says(machine):
    async def scenario():
        server = grpc.aio.server()
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(Rome(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        process = machine("--masters", f"127.0.0.1:{port}")
        code = await asyncio.to_thread(process.popen.wait, 20)
        await server.stop(0)
        assert code == 1
        assert "this is cell rome, not paris" in process.log().splitlines()[-1]

    run(scenario())


class Rome(operator_pb2_grpc.OperatorServiceServicer):
    """A master of another cell."""

    async def AddMachine(self, request, context):
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION, f"this is cell rome, not {request.cell}"
        )


def test_an_address_that_is_taken_is_said_so(machine):
    first = machine()
    run(connect(first))
    taken = subprocess.run(
        [
            *(sys.executable, "-m", "borglet.main", "run", "--cell", "paris", "--name", "m1"),
            *("--listen", f"127.0.0.1:{first.port}"),
            *("--state-dir", str(first.log_path.parent / "other")),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert taken.returncode == 75
    assert f"cannot listen on 127.0.0.1:{first.port}" in taken.stderr


def test_a_bad_flag_is_a_usage_error(tmp_path):
    bad = subprocess.run(
        [
            *(sys.executable, "-m", "borglet.main", "check", "--cell", "paris", "--name", "m1"),
            *("--state-dir", str(tmp_path), "--ram", "8 elephants"),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert bad.returncode == 2
    assert "'8 elephants' is not an amount of bytes: write 8GiB" in bad.stderr
