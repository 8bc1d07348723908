"""The agent behind the link: health, logs, a full disk, the end of the machine; on a fake runtime in real time."""

import asyncio
import os
import subprocess

import grpc
import pytest
from borgcell.specs import HealthCheck
from borgcell.v1 import borglet_pb2, borglet_pb2_grpc, cell_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from borglet.runtime.fake import Script
from borglet.values import Assignment
from tests.helpers.borglet_link import a_borglet, end_of, fake_machine, remembered, run
from tests.helpers.borglet_values import a_desired, an_id

QUICK = HealthCheck(exec=("check",), interval_ms=100, grace_ms=0, failures_max=2)


def test_a_task_is_running_only_when_its_check_is_good_for_the_first_time(tmp_path):
    answers = [1]

    async def scenario():
        machine = fake_machine(lambda _: Script(execute=lambda argv: answers[0]))
        check = HealthCheck(exec=("check",), interval_ms=100, grace_ms=60_000)
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(health=check))
            starting = await master.phase(an_id(), "STARTING")
            assert not starting.healthy
            quiet = await master.poll(hold_ms=300)
            assert not quiet.tasks
            answers[0] = 0
            assert (await master.phase(an_id(), "RUNNING")).healthy
            answers[0] = 1
            sick = await master.phase(an_id(), "RUNNING")
            assert not sick.healthy, "it stays RUNNING while its failures are within bounds"

    run(scenario())


def test_a_task_that_fails_its_check_is_stopped_and_reported_as_unhealthy(tmp_path):
    async def scenario():
        machine = fake_machine(lambda _: Script(execute=lambda argv: 9))
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(health=QUICK))
            report = await master.phase(an_id(), "ENDED")
            assert end_of(report) == "UNHEALTHY"
            assert report.detail == (
                "health check failed 2 times in a row: check exited with status 9"
            )
            assert [call for call, _ in machine.calls][:2] == ["start", "terminate"]

    run(scenario())


def test_an_adopted_task_is_probed_again_with_the_check_that_is_remembered(tmp_path):
    answers = [0]

    async def scenario():
        machine = fake_machine(lambda _: Script(execute=lambda argv: answers[0]))
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(health=QUICK))
            await master.phase(an_id(), "RUNNING")
        answers[0] = 1
        async with a_borglet(tmp_path, machine) as borglet:
            # no master says anything; the check alone ends the task
            async with asyncio.timeout(5):
                while ("terminate", an_id()) not in machine.calls:
                    await asyncio.sleep(0.02)
            async with borglet.master() as master:
                assert end_of(await master.phase(an_id(), "ENDED")) == "UNHEALTHY"

    run(scenario())


# --- logs


async def read_logs(borglet, **request):
    async with grpc.aio.insecure_channel(borglet.address) as channel:
        stub = borglet_pb2_grpc.BorgletServiceStub(channel)
        task = cell_pb2.TaskKey(user="ann", job="web", index=0)
        call = stub.ReadLogs(borglet_pb2.ReadLogsRequest(task=task, **request))
        return [response async for response in call]


def test_logs_can_be_read_while_a_task_lives_and_after_its_end(tmp_path):
    async def scenario():
        machine = fake_machine(lambda _: Script(output=b"one\ntwo\nthree\n"))
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            await master.phase(an_id(), "RUNNING")
            pieces = await read_logs(borglet)
            assert b"".join(piece.data for piece in pieces) == b"one\ntwo\nthree\n"
            assert (pieces[0].machine, pieces[0].incarnation) == ("m1", 0)
            following = asyncio.create_task(read_logs(borglet, follow=True, tail_lines=1))
            await asyncio.sleep(0.1)
            assert not following.done(), "it follows until the task ends"
            machine.end(an_id(), 0)
            assert [piece.data for piece in await following] == [b"three\n"]
            assert len(await read_logs(borglet)) == 3
            assert await read_logs(borglet, stream=cell_pb2.LOG_STREAM_STDERR) == []

    run(scenario())


def test_a_log_that_is_not_there_is_not_found(tmp_path):
    async def scenario():
        async with a_borglet(tmp_path) as borglet:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await read_logs(borglet, incarnation=4)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            assert refused.value.details() == "no log of ann/web/0#4 on this machine"

    run(scenario())


def test_a_reader_that_goes_away_leaves_no_thread_behind(tmp_path):
    async def scenario():
        machine = fake_machine(lambda _: Script(output=b"line\n"))
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            await master.phase(an_id(), "RUNNING")
            following = asyncio.create_task(read_logs(borglet, follow=True))
            await asyncio.sleep(0.2)
            assert log_threads() == 1
            following.cancel()
            async with asyncio.timeout(5):
                while log_threads():
                    await asyncio.sleep(0.02)

    run(scenario())


def log_threads():
    import threading

    return sum(thread.name == "read-log" for thread in threading.enumerate())


# --- disk


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a disk of 20 MiB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.root
def test_on_a_full_disk_the_machine_is_not_ready_starts_nothing_and_still_stops(small_disk):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(small_disk, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(an_id(1)))
            await master.phase(an_id(1), "RUNNING")
            fill(small_disk / "ballast")
            await master.assign(a_desired(an_id(2)))
            waiting = await master.phase(an_id(2), "WAITING")
            assert "state directory" in waiting.detail
            report = await master.poll(hold_ms=200)
            assert borglet.agent.published.not_ready == waiting.detail
            assert report.not_ready == waiting.detail
            await asyncio.sleep(1.2)
            assert [call for call, _ in machine.calls] == ["start", "terminate", "release"]
            (small_disk / "ballast").unlink()
            await master.phase(an_id(2), "RUNNING")
        names = sorted(os.listdir(small_disk))
        assert names == ["borglet.json", "borglet.lock"]
        assert an_id(2) in {record.id for record in remembered(small_disk)}

    run(scenario())


def fill(path):
    with path.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"x" * 4096)
        except OSError:
            pass


# --- the rest


def test_stopping_the_whole_machine_leaves_no_container(tmp_path):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(*[a_desired(an_id(index)) for index in range(5)])
            while len(machine.specs()) < 5:
                await asyncio.sleep(0.01)
            assert await borglet.agent.stop_tasks(5)
            assert machine.list() == []
        assert remembered(tmp_path) == ()

    run(scenario())


@pytest.mark.parametrize("ticks", range(6))
def test_an_agent_that_is_cancelled_just_as_it_wakes_ends_all_the_same(tmp_path, ticks):
    async def scenario():
        async with a_borglet(tmp_path) as borglet:
            await borglet.agent.ready.wait()
            await asyncio.sleep(0.05)
            borglet.agent.assign(Assignment(term=1, revision=1, tasks=()))
            for _ in range(ticks):
                await asyncio.sleep(0)
            begun = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - begun < 3

    run(scenario())


def test_a_grace_that_is_longer_than_the_stop_of_the_machine_is_cut(tmp_path):
    async def scenario():
        machine = fake_machine(lambda _: Script(term_ms=None))
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(grace_ms=3_600_000))
            await master.phase(an_id(), "RUNNING")
            assert await borglet.agent.stop_tasks(10)
            assert ("kill", an_id()) in machine.calls

    run(scenario())


def test_a_stock_client_can_ask_for_health_and_services(tmp_path):
    async def scenario():
        async with (
            a_borglet(tmp_path) as borglet,
            grpc.aio.insecure_channel(borglet.address) as channel,
        ):
            health = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="borgcell.v1.BorgletService")
            )
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            answer = await call.read()
            await call.done_writing()
            names = [service.name for service in answer.list_services_response.service]
            assert "borgcell.v1.BorgletService" in names
            while await call.read() is not grpc.aio.EOF:
                pass

    run(scenario())
