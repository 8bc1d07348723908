"""The Docker runtime when its engine hangs, is killed and comes back: tasks run on, and nothing runs twice."""

import threading
import time

import pytest
from borgcell.resources import MIB, Resources

from borglet.runtime.port import ContainerState, RuntimeFailed
from tests.conformance.bench import (
    found,
    log_of,
    sh,
    wait_ended,
    wait_output,
    wait_until,
)
from tests.conformance.docker_bench import make_docker
from tests.helpers.docker_engine import private_engine

pytestmark = [
    pytest.mark.docker,
    pytest.mark.root,
    # the SDK's HTTP client leaves the socket of an engine that was killed to the garbage collector
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

ALIVE = ContainerState.ALIVE


@pytest.fixture(scope="module")
def engine():
    with private_engine() as engine:
        yield engine


@pytest.fixture
def bench(engine):
    with make_docker(engine.url, call_timeout_s=2, start_timeout_s=2) as bench:
        wait_ended(bench.runtime, bench.run("true").id)  # it has met its engine
        try:
            yield bench
        finally:
            if engine.is_killed:
                engine.start()


def test_a_start_that_a_hung_engine_swallowed_is_one_container_later(engine, bench):
    spec = bench.make_spec(("sleep", "99"))
    engine.freeze()
    try:
        for _ in range(2):
            with pytest.raises(RuntimeFailed) as failed:
                bench.runtime.start(spec)
            assert not failed.value.permanent
        with pytest.raises(RuntimeFailed):
            bench.runtime.list()
    finally:
        engine.thaw()
    started = start_as_the_agent_does(bench, spec)
    assert started.state is ALIVE
    assert [each for each in bench.runtime.list() if each.state is ALIVE] == [started]
    assert len(bench.engine_ids()) == 2, "that one and the fixture's"


def start_as_the_agent_does(bench, spec):
    """Again while the failure may pass: the engine has a name in use before it knows the container."""
    for _ in range(20):
        try:
            return bench.runtime.start(spec)
        except RuntimeFailed as failed:
            if failed.permanent:
                raise
            time.sleep(0.1)
    raise AssertionError(f"{spec.id} does not start")


def test_a_start_whose_answer_was_lost_goes_on_when_the_engine_wakes(engine, bench):
    """The engine sleeps through the time-out of the first call, and wakes during the next."""
    engine.freeze()
    waker = threading.Timer(3, engine.thaw)
    waker.start()
    try:
        started = bench.run("sleep", "99")
    finally:
        waker.join()
    assert started.state is ALIVE
    assert len(bench.engine_ids()) == 2, "that one and the fixture's"


def test_a_start_given_up_while_the_engine_hung_leaves_nothing(engine, bench):
    """The engine makes the container when it wakes; nobody wants it any more."""
    engine.freeze()
    try:
        with pytest.raises(RuntimeFailed):
            bench.run("sleep", "99")
    finally:
        engine.thaw()
    wait_until(lambda: len(bench.engine_ids()) == 2, "the engine did make it")
    assert [each for each in bench.runtime.list() if each.state is ALIVE] == []
    assert len(bench.engine_ids()) == 1


def test_tasks_outlive_a_killed_engine_and_are_known_when_it_returns(engine, bench):
    lives = bench.run("sleep", "99")
    ends = bench.run("sh", "-c", "sleep 1; exit 7")
    engine.kill()
    with pytest.raises(RuntimeFailed) as failed:
        bench.runtime.list()
    assert not failed.value.permanent
    assert bench.runtime.usage(lives.id).pids == 1, "the kernel's files are still there"
    wait_until(lambda: bench.runtime.usage(ends.id) is None, "it ended")
    engine.start()
    assert wait_ended(bench.runtime, ends.id).exit.exit_code == 7
    assert found(bench.runtime, lives.id) == lives
    assert found(bench.restart(), lives.id) == lives


def test_an_end_while_the_engine_was_down_wakes_the_waiting_borglet(engine, bench):
    bench.run("sh", "-c", "sleep 1; exit 7")
    assert bench.runtime.wait_change(200) is False
    woken = []
    waiter = threading.Thread(target=lambda: woken.append(bench.runtime.wait_change(60_000)))
    waiter.start()
    engine.kill()
    engine.start()
    waiter.join(timeout=15)
    assert woken == [True]


def test_memory_a_child_died_for_while_the_engine_was_down_is_found_in_the_kernel(engine, bench):
    eat = "dd if=/dev/zero of=/dev/null bs=200M count=1"
    script = f"echo up; sleep 2; {eat}; sleep 99 & wait; exit 3"
    started = bench.run(*sh(script), limit=Resources(ram_bytes=32 * MIB))
    wait_output(bench.runtime, started.id, b"up")
    engine.kill()
    for _ in range(6):
        bench.runtime.wait_change(1000)
    engine.start()
    bench.runtime.execute(started.id, sh("kill -KILL $(pidof sleep)"), 10_000)
    exit = wait_ended(bench.runtime, started.id).exit
    assert (exit.exit_code, exit.out_of_memory) == (3, True)


def test_a_follower_of_a_log_misses_and_repeats_nothing_over_a_restart_of_the_engine(engine, bench):
    started = bench.run(*sh("for i in $(seq 60); do echo $i; sleep 0.1; done"))
    followed = []

    def follow():
        pieces = bench.runtime.read_log(
            started.id, tail_lines=0, follow=True, is_cancelled=lambda: False
        )
        followed.extend(int(piece.data) for piece in pieces)

    follower = threading.Thread(target=follow)
    follower.start()
    wait_until(lambda: len(followed) > 10, "the log is followed")
    engine.kill()
    engine.start()
    follower.join(timeout=60)
    assert followed == list(range(1, 61))
    assert len(log_of(bench.runtime, started.id)) == 60


def test_a_log_cut_short_by_the_engines_death_is_not_taken_for_all_of_it(engine):
    with make_docker(engine.url, log_bytes_max=10 << 20) as bench:
        line = "x" * 99
        started = bench.run(*sh(f"yes {line} | head -n 40000"))
        wait_ended(bench.runtime, started.id)
        pieces = bench.runtime.read_log(
            started.id, tail_lines=0, follow=False, is_cancelled=lambda: False
        )
        next(pieces)
        engine.kill()
        try:
            with pytest.raises(RuntimeFailed):
                list(pieces)
        finally:
            engine.start()


def test_a_log_cannot_be_read_from_a_dead_engine_and_says_so(engine, bench):
    started = bench.run("sleep", "99")
    engine.kill()
    with pytest.raises(RuntimeFailed):
        log_of(bench.runtime, started.id)
