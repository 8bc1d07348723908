"""The link protocol of borglet.proto, spoken over real gRPC with an agent on a fake runtime."""

import asyncio
import time

import pytest
from borgcell.types import RuntimeKind
from borgcell.v1 import borglet_pb2

from borglet.plan import Retention
from borglet.runtime.fake import FakeRuntime, Script
from tests.helpers.borglet_link import LinkEnded, a_borglet, end_of, fake_machine, remembered, run
from tests.helpers.borglet_values import GIB, a_desired, an_id


def test_an_assigned_task_is_reported_running(tmp_path):
    async def scenario():
        async with a_borglet(tmp_path) as borglet, borglet.master() as master:
            first = await master.poll()
            assert first.full
            assert (first.sequence, list(first.tasks), first.not_ready) == (1, [], "")
            assert first.facts.capacity.ram_bytes == 4 * GIB
            assert dict(first.facts.attributes) == {"arch": "x86_64", "runtime.native": "fake"}
            assert (first.facts.port_first, first.facts.port_last) == (21_000, 21_099)

            await master.assign(a_desired(ports={"http": 21_050}, argv=["serve", "%port:http%"]))
            report = await master.phase(an_id(), "RUNNING")
            assert report.healthy
            spec = borglet.runtimes[RuntimeKind.NATIVE].specs()[an_id()]
            assert spec.argv == ("serve", "21050")
            assert spec.env["PORT_HTTP"] == "21050"

    run(scenario())


def test_a_poll_is_held_until_there_is_news_or_the_hold_is_over(tmp_path):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            await master.phase(an_id(), "RUNNING")

            begun = time.monotonic()
            quiet = await master.poll(hold_ms=300)
            assert 0.29 <= time.monotonic() - begun < 1.5
            assert not quiet.full
            assert not quiet.tasks
            assert not quiet.HasField("facts")

            await master.send_poll(hold_ms=5_000)
            await asyncio.sleep(0.1)
            begun = time.monotonic()
            machine.end(an_id(), 3)
            news = await master.read()
            assert time.monotonic() - begun < 1.0
            assert [(end_of(task), task.exit_code) for task in news.tasks] == [("EXITED", 3)]

    run(scenario())


def test_every_poll_gets_one_report_in_order_also_when_polls_overtake(tmp_path):
    async def scenario():
        async with a_borglet(tmp_path) as borglet, borglet.master() as master:
            for _ in range(5):
                await master.send_poll(hold_ms=20)
            assert [(await master.read()).sequence for _ in range(5)] == [1, 2, 3, 4, 5]

    run(scenario())


def test_after_the_first_report_only_differences_come(tmp_path):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(an_id(1)), a_desired(an_id(2)))
            await master.phase(an_id(1), "RUNNING")
            while (await master.poll(hold_ms=300)).tasks:
                pass
            machine.end(an_id(2), 0)
            news = await master.poll(hold_ms=3_000)
            assert [task.task.index for task in news.tasks] == [2]
            async with borglet.master(term=2) as other:
                full = await other.poll()
                assert full.full
                assert [(task.task.index, task.phase) for task in full.tasks] == [
                    (1, borglet_pb2.TASK_PHASE_RUNNING),
                    (2, borglet_pb2.TASK_PHASE_ENDED),
                ]

    run(scenario())


def test_the_report_tells_which_assignment_it_answers(tmp_path):
    async def scenario():
        async with a_borglet(tmp_path) as borglet, borglet.master() as master:
            assert (await master.poll()).revision == 0
            await master.assign(revision=7)
            report = await master.poll(hold_ms=5_000)
            assert report.revision == 7

    run(scenario())


@pytest.mark.parametrize(
    ("hello", "refusal"),
    [
        ({"cell": "rome"}, "FAILED_PRECONDITION: this Borglet belongs to cell paris, not rome"),
        ({"machine": "m2"}, "FAILED_PRECONDITION: this Borglet is machine m1, not m2"),
        ({"term": 4}, "FAILED_PRECONDITION: term 4 is over: this Borglet has seen term 5"),
    ],
)
def test_a_hello_that_does_not_fit_is_refused_with_the_reason(tmp_path, hello, refusal):
    async def scenario():
        async with a_borglet(tmp_path) as borglet:
            async with borglet.master(term=5) as master:
                await master.poll()
            async with borglet.master(**({"term": 5} | hello)) as master:
                with pytest.raises(LinkEnded) as refused:
                    await master.read()
                assert str(refused.value) == refusal

    run(scenario())


def test_a_link_that_does_not_begin_with_a_hello_is_refused(tmp_path):
    async def scenario():
        async with a_borglet(tmp_path) as borglet, borglet.stranger() as master:
            await master.send_poll()
            with pytest.raises(LinkEnded, match="INVALID_ARGUMENT"):
                await master.read()

    run(scenario())


def test_terms_are_remembered_over_a_restart(tmp_path):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master(term=9) as master:
            await master.poll()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master(term=8) as master:
            with pytest.raises(LinkEnded, match="term 8 is over"):
                await master.read()

    run(scenario())


def test_a_newer_term_closes_the_older_link_and_its_assignments_count_no_more(tmp_path):
    async def scenario():
        async with a_borglet(tmp_path) as borglet, borglet.master(term=1) as old:
            await old.poll()
            await old.send_poll(hold_ms=20_000)
            async with borglet.master(term=2) as new:
                await new.poll()
                with pytest.raises(LinkEnded, match=r"newer link took over \(term 2\)"):
                    await old.read()
                await new.assign(a_desired(), term=1)  # a stale sender on whatever way
                quiet = await new.poll(hold_ms=200)
                assert not quiet.tasks
                assert quiet.revision == 0

    run(scenario())


def test_an_older_assignment_is_ignored(tmp_path):
    async def scenario():
        async with a_borglet(tmp_path) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(), revision=5)
            await master.phase(an_id(), "RUNNING")
            await master.assign(revision=4)
            report = await master.poll(hold_ms=300)
            assert (list(report.tasks), report.revision) == ([], 5)

    run(scenario())


def test_an_end_is_in_every_full_report_until_it_is_acknowledged_and_then_released_and_forgotten(
    tmp_path,
):
    async def scenario():
        machine = fake_machine()
        keep = Retention(per_task_max=0)
        async with a_borglet(tmp_path, machine, retention=keep) as borglet:
            async with borglet.master() as master:
                await master.poll()
                await master.assign(a_desired())
                await master.phase(an_id(), "RUNNING")
                machine.end(an_id(), 5)
                await master.phase(an_id(), "ENDED")
            for term in (2, 3):
                async with borglet.master(term=term) as master:
                    (report,) = (await master.poll()).tasks
                    assert (end_of(report), report.exit_code) == ("EXITED", 5)
            assert machine.released(an_id()), "its room is given back at once"
            async with borglet.master(term=4) as master:
                await master.poll()
                await master.assign(acknowledged=[an_id()])
                while machine.list():
                    await asyncio.sleep(0.01)
            async with borglet.master(term=5) as master:
                assert not (await master.poll()).tasks
        assert remembered(tmp_path) == ()

    run(scenario())


def test_an_ended_incarnation_is_not_run_again_while_the_master_still_asks_for_it(tmp_path):
    async def scenario():
        machine = fake_machine(lambda _: Script(duration_ms=30, exit_code=1))
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            await master.phase(an_id(), "ENDED")
            await master.assign(a_desired())
            await master.assign(a_desired(), acknowledged=[an_id()])
            await master.poll(hold_ms=300)
            assert machine.calls.count(("start", an_id())) == 1

    run(scenario())


def test_a_restarted_borglet_adopts_what_runs_and_tells_what_ended_meanwhile(tmp_path):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(an_id(1)), a_desired(an_id(2)))
            await master.phase(an_id(1), "RUNNING")
            while (await master.poll(hold_ms=200)).tasks:
                pass
        machine.end(an_id(2), 7)
        async with a_borglet(tmp_path, machine) as borglet:
            await asyncio.sleep(0.2)
            assert machine.calls.count(("terminate", an_id(1))) == 0, "no master, no stops"
            async with borglet.master(term=2) as master:
                running, ended = (await master.poll()).tasks
                assert running.phase == borglet_pb2.TASK_PHASE_RUNNING
                assert (end_of(ended), ended.exit_code) == ("EXITED", 7)
        assert [call for call, _ in machine.calls].count("start") == 2

    run(scenario())


def test_a_stop_under_way_survives_a_restart_and_is_reported_as_a_stop(tmp_path):
    async def scenario():
        machine = fake_machine(lambda _: Script(term_ms=None))  # ignores SIGTERM
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(grace_ms=400))
            await master.phase(an_id(), "RUNNING")
            await master.assign(a_desired(grace_ms=400, stop=True))
            await master.phase(an_id(), "STOPPING")
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            report = await master.phase(an_id(), "ENDED")
            assert (end_of(report), report.exit_code) == ("STOPPED", 137)

    run(scenario())


def test_a_stop_is_terminate_grace_kill(tmp_path):
    async def scenario():
        machine = fake_machine(lambda _: Script(term_ms=None))
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(grace_ms=300))
            await master.phase(an_id(), "RUNNING")
            begun = time.monotonic()
            await master.assign()
            report = await master.phase(an_id(), "ENDED")
            assert 0.29 < time.monotonic() - begun < 2
            assert (end_of(report), report.exit_code) == ("STOPPED", 137)
            assert [call for call, _ in machine.calls][:3] == ["start", "terminate", "kill"]

    run(scenario())


def test_a_start_that_fails_for_good_is_reported_with_its_reason(tmp_path):
    async def scenario():
        machine = fake_machine(lambda _: Script(fail="no such program: serve"))
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            report = await master.phase(an_id(), "ENDED")
            assert (end_of(report), report.detail) == ("START_FAILED", "no such program: serve")

    run(scenario())


def test_a_start_that_fails_for_a_passing_reason_is_tried_again(tmp_path):
    attempts = []

    def script(spec):
        attempts.append(spec)
        return Script(fail="busy" if len(attempts) < 2 else "", fail_permanent=False)

    async def scenario():
        async with a_borglet(tmp_path, fake_machine(script)) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            waiting = await master.phase(an_id(), "WAITING")
            assert waiting.detail == "busy; trying again"
            await master.phase(an_id(), "RUNNING")

    run(scenario())


def test_an_unknown_port_name_is_a_start_failure_that_says_so(tmp_path):
    async def scenario():
        async with a_borglet(tmp_path) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(argv=["serve", "%port:http%"]))
            report = await master.phase(an_id(), "ENDED")
            assert (end_of(report), report.detail) == (
                "START_FAILED",
                "%port:http% names no port of the task; it has: none",
            )

    run(scenario())


def test_a_port_that_another_process_uses_is_refused(tmp_path):
    async def scenario():
        listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with a_borglet(tmp_path) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(ports={"http": port}))
            report = await master.phase(an_id(), "ENDED")
            assert end_of(report) == "REFUSED"
            assert report.detail == f"port {port} is in use by another process"
        listener.close()
        await listener.wait_closed()

    run(scenario())


def test_out_of_memory_is_reported_as_such(tmp_path):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            await master.phase(an_id(), "RUNNING")
            machine.end(an_id(), 137, out_of_memory=True)
            report = await master.phase(an_id(), "ENDED")
            assert (end_of(report), report.detail) == (
                "OUT_OF_MEMORY",
                "out of memory (limit 64 MiB)",
            )

    run(scenario())


def test_a_container_that_somebody_removes_is_lost(tmp_path):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            await master.phase(an_id(), "RUNNING")
            machine.vanish(an_id())
            assert end_of(await master.phase(an_id(), "ENDED")) == "LOST"

    run(scenario())


def test_a_runtime_that_does_not_answer_makes_the_machine_not_ready_and_loses_nothing(tmp_path):
    async def scenario():
        machine = fake_machine()
        async with a_borglet(tmp_path, machine) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            await master.phase(an_id(), "RUNNING")
        machine.broken = "the engine is gone"
        async with a_borglet(tmp_path, machine) as borglet, borglet.master(term=2) as master:
            full = await master.poll()
            assert full.not_ready == "native runtime: the engine is gone"
            assert [task.phase for task in full.tasks] == [borglet_pb2.TASK_PHASE_RUNNING]
            machine.broken = ""
            back = await master.poll(hold_ms=5_000)
            assert back.not_ready == ""
            assert back.HasField("facts"), "facts come with a changed readiness"
            assert "runtime.native" in back.facts.attributes

    run(scenario())


def test_two_runtimes_live_side_by_side(tmp_path):
    async def scenario():
        native = fake_machine()
        docker = FakeRuntime(lambda: time.time_ns() // 1_000_000, kind=RuntimeKind.DOCKER)
        async with a_borglet(tmp_path, native, docker) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired(an_id(1)), a_desired(an_id(2), image="busybox"))
            await master.phase(an_id(1), "RUNNING")
            while not docker.specs():
                await asyncio.sleep(0.01)
            assert (list(native.specs()), list(docker.specs())) == ([an_id(1)], [an_id(2)])

    run(scenario())
