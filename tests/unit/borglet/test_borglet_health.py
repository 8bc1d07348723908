"""borglet.health: probes against real servers, and what their failures come to."""

import asyncio
import contextlib
import socket

import pytest
from borgcell.specs import HealthCheck

from borglet.clock import SystemClock
from borglet.health import Health, Prober, Target, after_probe, http_probe, tcp_probe
from borglet.runtime.port import RuntimeFailed
from tests.helpers.borglet_link import run
from tests.helpers.borglet_values import an_id

CHECK = HealthCheck(tcp=True, port="http", failures_max=3)


# --- what a probe means


def test_a_good_probe_makes_healthy_and_clears_failures():
    failing = Health(failures=2, detail="x")
    assert after_probe(failing, "", CHECK, in_grace=False) == Health(healthy=True)


def test_failures_in_a_row_past_the_grace_fail_the_task():
    health = Health(healthy=True)
    for count in (1, 2):
        health = after_probe(health, "refused", CHECK, in_grace=False)
        assert (health.healthy, health.failures, health.failed) == (False, count, False)
    health = after_probe(health, "refused", CHECK, in_grace=False)
    assert health.failed
    assert health.detail == "health check failed 3 times in a row: refused"


def test_failures_during_the_grace_do_not_count():
    health = Health()
    for _ in range(10):
        health = after_probe(health, "refused", CHECK, in_grace=True)
    assert (health.failures, health.failed) == (0, False)


# --- real servers


@contextlib.asynccontextmanager
async def a_server(answer, port=0):
    """A server whose answer to any request is the text; its port. None: it never answers."""
    calls = set()

    async def serve(reader, writer):
        calls.add(asyncio.current_task())
        try:
            await reader.readline()
            if answer is None:
                await asyncio.sleep(60)
            writer.write(answer.encode())
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the prober went, or the test is over
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.01)  # connections accepted just now become calls
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls)
        await asyncio.sleep(0)


def a_closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ("HTTP/1.1 200 OK\r\n\r\n", ""),
        ("HTTP/1.0 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", ""),
        ("HTTP/1.1 399 Odd\r\n\r\n", ""),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "status 400 Bad Request"),
        ("HTTP/1.1 503\r\n\r\n", "status 503"),
        ("HTTP/1.1 199 Early\r\n\r\n", "status 199 Early"),
        ("SSH-2.0-OpenSSH\r\n", "no HTTP answer ('SSH-2.0-OpenSSH')"),
        ("", "no HTTP answer ('')"),
        ("x" * 10_000, "chunk exceed the limit"),
    ],
)
def test_http_is_healthy_from_200_to_399(answer, failure):
    async def scenario():
        async with a_server(answer) as port:
            said = await http_probe(port, "/healthz")
            assert (said == "") == (failure == "")
            assert failure in said

    run(scenario())


def test_tcp_is_healthy_when_somebody_accepts():
    async def scenario():
        async with a_server("") as port:
            assert await tcp_probe(port) == ""
        closed = a_closed_port()
        assert await tcp_probe(closed) == f"port {closed}: connection refused"

    run(scenario())


# --- the prober


class Verdicts:
    """What a prober said, and the exec probes' results."""

    def __init__(self, *statuses):
        self.said = []
        self.statuses = list(statuses)
        self.came = asyncio.Event()

    def changed(self, id, health):
        self.said.append(health)
        self.came.set()

    async def execute(self, id, argv, timeout_ms):
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(status, Exception):
            raise status
        return status

    async def until(self, holds):
        while not (self.said and holds(self.said[-1])):
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), 5)


def a_target(check, port=0, *, age_ms=0):
    return Target(check, {"http": port}, SystemClock().wall_ms() - age_ms)


@contextlib.asynccontextmanager
async def a_prober(verdicts, targets):
    prober = Prober(SystemClock(), verdicts.execute, verdicts.changed, seed=1)
    prober.sync(targets)
    try:
        yield prober
    finally:
        await prober.close()


def test_a_starting_task_is_seen_healthy_long_before_its_interval():
    async def scenario():
        check = HealthCheck(http="/", port="http", interval_ms=60_000, grace_ms=60_000)
        verdicts = Verdicts()
        port = a_closed_port()
        async with a_prober(verdicts, {an_id(): a_target(check, port)}):
            await verdicts.until(lambda health: not health.healthy)
            async with a_server("HTTP/1.1 200 OK\r\n\r\n", port):
                begun = asyncio.get_running_loop().time()
                await verdicts.until(lambda health: health.healthy)
                assert asyncio.get_running_loop().time() - begun < 1

    run(scenario())


def test_a_task_that_stops_answering_fails_after_so_many_probes():
    async def scenario():
        check = HealthCheck(
            http="/", port="http", interval_ms=100, timeout_ms=50, grace_ms=0, failures_max=2
        )
        verdicts = Verdicts()
        async with (
            a_server(None) as port,
            a_prober(verdicts, {an_id(): a_target(check, port)}),
        ):
            await verdicts.until(lambda health: health.failed)
        assert verdicts.said[-1].detail == (
            "health check failed 2 times in a row: no answer within 50 ms"
        )

    run(scenario())


def test_exec_is_healthy_at_status_zero_and_says_what_went_wrong():
    async def scenario():
        check = HealthCheck(exec=("check",), interval_ms=100, grace_ms=0, failures_max=3)
        verdicts = Verdicts(0, 2, RuntimeFailed("no such program"), TimeoutError(), 0)
        async with a_prober(verdicts, {an_id(): a_target(check)}):
            await verdicts.until(lambda health: health.failed)
            assert verdicts.said[0].healthy
            assert verdicts.said[1].detail == "check exited with status 2"
            assert verdicts.said[-1].detail.endswith("no answer within 1000 ms")
            await verdicts.until(lambda health: health.healthy)

    run(scenario())


def test_a_target_that_did_not_change_is_probed_on_and_one_that_left_is_not():
    async def scenario():
        check = HealthCheck(exec=("check",), interval_ms=100, grace_ms=0)
        verdicts = Verdicts(0, 1, 0)
        target = a_target(check)
        async with a_prober(verdicts, {an_id(): target}) as prober:
            await verdicts.until(lambda health: health.healthy)
            prober.sync({an_id(): target})
            await verdicts.until(lambda health: not health.healthy)
            prober.sync({})
            count = len(verdicts.said)
            await asyncio.sleep(0.3)
            assert len(verdicts.said) == count

    run(scenario())
