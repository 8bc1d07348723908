"""What every runtime does, whatever runs the containers: the port's promises as behaviours."""

import itertools
import os
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from borgcell.resources import MIB, Resources

from borglet.runtime.port import ContainerState, RuntimeFailed
from tests.conformance.bench import (
    found,
    log_of,
    output_of,
    processes_with,
    sh,
    wait_ended,
    wait_output,
    wait_until,
)

SMALL = Resources(cpu_milli=100, ram_bytes=32 * MIB)
# dd's one block is 200 MB of memory of its own.
EAT_RAM = "dd if=/dev/zero of=/dev/null bs=200M count=1"
IN_ENV_OF_ANY_RUNTIME = {"PATH", "HOME", "TMPDIR", "HOSTNAME", "SHLVL", "PWD"}


def run(bench, argv, **fields):
    """Start a container and wait for its end."""
    spec = bench.make_spec(argv, **fields)
    bench.runtime.start(spec)
    return wait_ended(bench.runtime, spec.id)


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_code_is_that_of_the_program(bench, code):
    ended = run(bench, sh(f"exit {code}"))
    assert ended.exit.exit_code == code
    assert not ended.exit.out_of_memory
    assert not ended.exit.lost
    assert ended.pid == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL])
def test_exit_code_of_a_signal_is_128_more(bench, number):
    assert run(bench, sh(f"kill -{number.value} $$")).exit.exit_code == 128 + number


def test_a_started_container_is_alive_with_its_pid_limit_and_ports(bench):
    spec = bench.make_spec(sh("sleep 60"), ports={"http": 20001})
    before_ms = time.time() * 1000
    started = bench.runtime.start(spec)
    assert started == found(bench.runtime, spec.id)
    assert started.state is ContainerState.ALIVE
    assert started.runtime is bench.runtime.kind
    assert (started.limit, started.ports, started.exit) == (spec.limit, {"http": 20001}, None)
    assert before_ms - 1000 <= started.started_at_ms <= time.time() * 1000 + 1000
    assert os.path.exists(f"/proc/{started.pid}")


def test_a_missing_program_is_refused_by_name_and_leaves_no_container(bench):
    spec = bench.make_spec(("/no/such/program", "x"))
    with pytest.raises(RuntimeFailed, match="/no/such/program") as refusal:
        bench.runtime.start(spec)
    assert refusal.value.permanent
    assert found(bench.runtime, spec.id) is None


def test_environment_is_that_of_the_spec_and_nothing_of_the_agent(bench):
    os.environ["SECRET_OF_THE_AGENT"] = "x"
    try:
        env = {"PORT_HTTP": "20001", "GREETING": "good day, cell", "EMPTY": ""}
        spec = bench.make_spec(("/bin/busybox", "env"), env=env)
        bench.runtime.start(spec)
        wait_ended(bench.runtime, spec.id)
    finally:
        del os.environ["SECRET_OF_THE_AGENT"]
    lines = output_of(bench.runtime, spec.id).decode().splitlines()
    seen = dict(line.split("=", 1) for line in lines)
    assert seen.items() >= env.items()
    assert seen.keys() - env.keys() <= IN_ENV_OF_ANY_RUNTIME
    assert "/bin" in seen["PATH"]


def test_environment_of_the_spec_wins_over_defaults(bench):
    spec = bench.make_spec(("/bin/busybox", "env"), env={"HOME": "/elsewhere", "PATH": "/bin"})
    bench.runtime.start(spec)
    wait_ended(bench.runtime, spec.id)
    lines = output_of(bench.runtime, spec.id).decode().splitlines()
    assert {"HOME=/elsewhere", "PATH=/bin"} <= set(lines)


def test_a_program_beyond_its_ram_is_killed_and_reported_with_the_limit(bench):
    ended = run(bench, sh(f"exec {EAT_RAM}"), limit=SMALL)
    assert ended.exit.exit_code == 137
    assert ended.exit.out_of_memory
    assert "32 MiB" in ended.exit.detail


def test_out_of_memory_of_a_child_only_is_reported_with_the_exit_code_of_the_program(bench):
    ended = run(bench, sh(f"{EAT_RAM}; exit 3"), limit=SMALL)
    assert (ended.exit.exit_code, ended.exit.out_of_memory) == (3, True)


def test_being_killed_is_not_being_out_of_memory(bench):
    spec = bench.make_spec(sh("sleep 60"), limit=SMALL)
    bench.runtime.start(spec)
    bench.runtime.kill(spec.id)
    ended = wait_ended(bench.runtime, spec.id)
    assert (ended.exit.exit_code, ended.exit.out_of_memory) == (137, False)


def test_no_more_processes_than_allowed(bench):
    forks = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done; echo all forked"
    spec = bench.make_spec(sh(forks), pids_max=8)
    bench.runtime.start(spec)
    assert wait_ended(bench.runtime, spec.id).exit.exit_code != 0
    assert b"fork" in output_of(bench.runtime, spec.id, "stderr")
    assert b"all forked" not in output_of(bench.runtime, spec.id)


def test_usage_grows_with_work_and_ends_with_the_container(bench):
    spec = bench.make_spec(sh("while :; do :; done"))
    bench.runtime.start(spec)
    first = bench.runtime.usage(spec.id)
    wait_until(
        lambda: bench.runtime.usage(spec.id).cpu_ns > first.cpu_ns + 50_000_000, "50 ms more cpu"
    )
    usage = bench.runtime.usage(spec.id)
    assert 0 < usage.ram_bytes < spec.limit.ram_bytes
    assert 1 <= usage.pids <= 4
    bench.runtime.kill(spec.id)
    wait_ended(bench.runtime, spec.id)
    assert bench.runtime.usage(spec.id) is None


def test_a_program_that_handles_sigterm_ends_as_it_likes(bench):
    spec = bench.make_spec(
        sh("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done")
    )
    bench.runtime.start(spec)
    wait_output(bench.runtime, spec.id, b"up\n")
    bench.runtime.terminate(spec.id)
    assert wait_ended(bench.runtime, spec.id).exit.exit_code == 9
    assert output_of(bench.runtime, spec.id) == b"up\nbye\n"


def test_a_program_without_a_handler_ends_at_sigterm(bench):
    spec = bench.make_spec(("/bin/busybox", "sleep", "60"))
    bench.runtime.start(spec)
    bench.runtime.terminate(spec.id)
    assert wait_ended(bench.runtime, spec.id).exit.exit_code == 143


def test_kill_ends_every_process_also_those_that_left_the_session(bench):
    mark = uuid.uuid4().hex
    script = (
        f"/bin/busybox setsid /bin/busybox sh -c 'trap : TERM; sleep 60; : {mark}' & "
        f"(sleep 60; : {mark}) & echo up; sleep 60; : {mark}"
    )
    spec = bench.make_spec(sh(script))
    bench.runtime.start(spec)
    wait_until(lambda: len(processes_with(mark)) >= 3, "all processes started")
    bench.runtime.kill(spec.id)
    assert wait_ended(bench.runtime, spec.id).exit.exit_code == 137
    wait_until(lambda: not processes_with(mark), "all processes gone", within_s=5)


def test_what_the_program_left_running_ends_with_it(bench):
    mark = uuid.uuid4().hex
    script = f"/bin/busybox setsid /bin/busybox sh -c 'sleep 60; : {mark}' & sleep 0.2; exit 4"
    assert run(bench, sh(script)).exit.exit_code == 4
    wait_until(lambda: not processes_with(mark), "all processes gone", within_s=5)


def test_terminate_and_kill_of_what_ended_or_never_was_do_nothing(bench):
    spec = bench.make_spec(sh("exit 6"))
    bench.runtime.terminate(spec.id)
    bench.runtime.kill(spec.id)
    bench.runtime.forget(spec.id)
    assert bench.runtime.usage(spec.id) is None
    bench.runtime.start(spec)
    wait_ended(bench.runtime, spec.id)
    bench.runtime.terminate(spec.id)
    bench.runtime.kill(spec.id)
    assert found(bench.runtime, spec.id).exit.exit_code == 6


def test_log_keeps_both_streams_in_order_after_death(bench):
    script = "echo one; sleep 0.3; echo two >&2; sleep 0.3; printf three"
    spec = bench.make_spec(sh(script))
    bench.runtime.start(spec)
    wait_ended(bench.runtime, spec.id)
    expected = [("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"three")]
    assert log_of(bench.runtime, spec.id) == expected


def test_log_tail_is_the_last_lines(bench):
    spec = bench.make_spec(sh("for i in 1 2 3 4 5 6 7; do echo line $i; done"))
    bench.runtime.start(spec)
    wait_ended(bench.runtime, spec.id)
    tail = b"".join(data for _, data in log_of(bench.runtime, spec.id, tail_lines=2))
    assert tail == b"line 6\nline 7\n"


def test_log_is_followed_until_the_end(bench):
    spec = bench.make_spec(sh("for i in 1 2 3; do echo $i; sleep 0.3; done; echo end"))
    bench.runtime.start(spec)
    pieces = bench.runtime.read_log(spec.id, tail_lines=0, follow=True, is_cancelled=lambda: False)
    first = next(pieces)
    assert found(bench.runtime, spec.id).state is ContainerState.ALIVE
    rest = b"".join(piece.data for piece in pieces)
    assert first.data + rest == b"1\n2\n3\nend\n"
    assert abs(first.at_ms - time.time() * 1000) < 60_000


def test_following_a_log_ends_soon_after_it_is_cancelled(bench):
    spec = bench.make_spec(sh("echo up; sleep 60"))
    bench.runtime.start(spec)
    cancelled = threading.Event()
    pieces = bench.runtime.read_log(
        spec.id, tail_lines=0, follow=True, is_cancelled=cancelled.is_set
    )
    assert next(pieces).data == b"up\n"
    threading.Timer(0.2, cancelled.set).start()
    started = time.monotonic()
    assert list(pieces) == []
    assert time.monotonic() - started < 5


def test_log_of_what_does_not_exist_is_a_lookup_error(bench):
    with pytest.raises(LookupError):
        log_of(bench.runtime, bench.make_spec(sh("exit")).id)


def test_log_is_bounded_and_keeps_the_newest_lines_without_gap(bench):
    count = bench.log_bytes // 1000 + 100
    program = f'BEGIN {{ x = sprintf("%990s", "x"); for (i = 0; i < {count}; i++) print i, x }}'
    spec = bench.make_spec(("/bin/busybox", "awk", program))
    bench.runtime.start(spec)
    wait_ended(bench.runtime, spec.id, within_s=120)
    numbers = [int(line.split()[0]) for line in output_of(bench.runtime, spec.id).splitlines()]
    assert numbers[-1] == count - 1
    assert numbers[0] > 0
    assert all(second == first + 1 for first, second in itertools.pairwise(numbers))


def test_a_new_agent_finds_a_live_container_and_can_end_it(bench):
    spec = bench.make_spec(sh("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"))
    started = bench.runtime.start(spec)
    wait_output(bench.runtime, spec.id, b"up\n")
    runtime = bench.restart()
    assert found(runtime, spec.id) == started
    assert runtime.execute(spec.id, sh("exit 0"), 10_000) == 0
    assert runtime.usage(spec.id).pids >= 1
    runtime.terminate(spec.id)
    assert wait_ended(runtime, spec.id).exit.exit_code == 5
    assert output_of(runtime, spec.id) == b"up\n"


def test_a_new_agent_finds_how_a_container_ended_meanwhile(bench):
    spec = bench.make_spec(sh("sleep 0.5; echo last words; exit 42"))
    bench.runtime.start(spec)
    bench.runtime.close()
    time.sleep(1.5)
    runtime = bench.restart()
    assert wait_ended(runtime, spec.id).exit.exit_code == 42
    assert output_of(runtime, spec.id) == b"last words\n"


def test_execute_runs_inside_and_gives_the_exit_code(bench):
    spec = bench.make_spec(sh("sleep 60"), env={"COLOUR": "green"})
    bench.runtime.start(spec)
    assert bench.runtime.execute(spec.id, ("/bin/busybox", "true"), 10_000) == 0
    assert bench.runtime.execute(spec.id, sh("exit 7"), 10_000) == 7
    assert bench.runtime.execute(spec.id, sh('test "$COLOUR" = green'), 10_000) == 0
    assert bench.runtime.execute(spec.id, sh("kill -9 $$"), 10_000) == 137


def test_execute_that_takes_too_long_is_a_timeout_and_the_container_goes_on(bench):
    spec = bench.make_spec(sh("sleep 60"))
    bench.runtime.start(spec)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        bench.runtime.execute(spec.id, sh("sleep 30"), 300)
    assert time.monotonic() - started < 10
    assert found(bench.runtime, spec.id).state is ContainerState.ALIVE
    assert bench.runtime.execute(spec.id, sh("exit 0"), 10_000) == 0


def test_execute_in_an_ended_container_is_refused(bench):
    spec = bench.make_spec(sh("exit 0"))
    bench.runtime.start(spec)
    wait_ended(bench.runtime, spec.id)
    with pytest.raises(RuntimeFailed):
        bench.runtime.execute(spec.id, sh("exit 0"), 5000)


def test_starting_what_runs_or_ended_returns_it_and_starts_nothing(bench):
    spec = bench.make_spec(sh("echo once; sleep 1; exit 2"))
    first = bench.runtime.start(spec)
    assert bench.runtime.start(spec) == first
    ended = wait_ended(bench.runtime, spec.id)
    assert bench.runtime.start(spec) == ended
    assert output_of(bench.runtime, spec.id) == b"once\n"


def test_release_keeps_log_and_exit_and_forget_removes_all(bench):
    spec = bench.make_spec(sh("echo words; exit 8"))
    bench.runtime.start(spec)
    ended = wait_ended(bench.runtime, spec.id)
    bench.runtime.release(spec.id)
    bench.runtime.release(spec.id)
    assert found(bench.runtime, spec.id) == ended
    assert output_of(bench.runtime, spec.id) == b"words\n"
    bench.runtime.forget(spec.id)
    assert found(bench.runtime, spec.id) is None
    with pytest.raises(LookupError):
        output_of(bench.runtime, spec.id)
    bench.runtime.start(spec)
    assert wait_ended(bench.runtime, spec.id).exit.exit_code == 8


def test_ten_containers_start_and_end_at_once_without_mixing(bench):
    specs = [bench.make_spec(sh(f"echo {i}; exit {i}")) for i in range(10)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(bench.runtime.start, specs))
    for i, spec in enumerate(specs):
        assert wait_ended(bench.runtime, spec.id).exit.exit_code == i
        assert output_of(bench.runtime, spec.id) == f"{i}\n".encode()


def test_an_end_wakes_who_waits_for_changes(bench):
    # Starts may be news too; let those pass.
    spec = bench.make_spec(sh("sleep 1.5"))
    bench.runtime.start(spec)
    while bench.runtime.wait_change(300):
        pass
    started = time.monotonic()
    assert bench.runtime.wait_change(10_000)
    assert time.monotonic() - started < 5
    assert wait_ended(bench.runtime, spec.id).exit.exit_code == 0


def test_nothing_is_left_of_forgotten_containers(bench):
    specs = [bench.make_spec(sh(script)) for script in ("exit 1", "sleep 60", EAT_RAM)]
    for spec in specs:
        bench.runtime.start(spec)
    for spec in specs:
        bench.runtime.kill(spec.id)
        wait_ended(bench.runtime, spec.id)
        bench.runtime.forget(spec.id)
    assert bench.runtime.list() == []
    assert bench.leftovers() == []
