"""The native runtime's deaths: of the agent, the zygote, a shim, the machine; each as the real thing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from borglet.runtime.container_files import ContainerFiles
from borglet.runtime.port import ContainerSpec, ContainerState, RuntimeFailed
from tests.conformance.bench import (
    a_spec,
    found,
    output_of,
    processes_with,
    sh,
    wait_ended,
    wait_output,
    wait_until,
)
from tests.conformance.native_bench import a_runtime, end_all, leftovers, machine_of

pytestmark = pytest.mark.root
REPOSITORY = Path(__file__).parents[2]
# An agent as a process: starts the containers it reads, says so, and waits to be killed.
AGENT = """
import sys, time
from pathlib import Path
import msgspec
from borglet.runtime.port import ContainerSpec
from tests.conformance.native_bench import a_runtime
runtime = a_runtime(Path(sys.argv[1]))
for spec in msgspec.json.decode(sys.stdin.readline(), type=list[ContainerSpec]):
    runtime.start(spec)
print(runtime.zygote_pid, flush=True)
time.sleep(60)
"""

SHARED_MOUNTS = """
import sys
from pathlib import Path
from tests.conformance.bench import a_spec, sh, wait_output
from tests.conformance.native_bench import a_runtime, end_all
mounts = Path("/proc/self/mountinfo")
runtime = a_runtime(Path(sys.argv[1]))
before = mounts.read_text()
print("shared", " shared:" in before)
spec = a_spec(sh("echo up; sleep 60"))
runtime.start(spec)
wait_output(runtime, spec.id, b"up")
print("unchanged", mounts.read_text() == before)
end_all(runtime)
runtime.close()
"""


def files_of(bench, spec: ContainerSpec) -> ContainerFiles:
    """Its files, found through its first process."""
    pid = found(bench.runtime, spec.id).pid
    return ContainerFiles(Path(os.readlink(f"/proc/{pid}/cwd")).parent)


def is_gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def fill(path: Path) -> None:
    """Take all the room of a file system."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def test_tasks_outlive_agent_and_zygote_and_the_next_agent_knows_all(tmp_path):
    lives = a_spec(sh("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"))
    ends = a_spec(sh("sleep 1; echo done; exit 42"))
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/proto"},
    )
    with agent:
        agent.stdin.write(msgspec.json.encode([lives, ends]) + b"\n")
        agent.stdin.flush()
        zygote = int(agent.stdout.readline())
        os.kill(zygote, signal.SIGKILL)
        agent.kill()
        # Both pipes at their end: no shim or task holds on to what was the agent's.
        assert agent.stdout.read() == b""
    wait_until(lambda: is_gone(zygote), "the zygote is gone")
    time.sleep(1.5)
    runtime = a_runtime(tmp_path)
    try:
        ended = found(runtime, ends.id)
        assert ended.state is ContainerState.ENDED
        assert (ended.exit.exit_code, ended.exit.lost) == (42, False)
        assert output_of(runtime, ends.id) == b"done\n"
        assert found(runtime, lives.id).state is ContainerState.ALIVE
        runtime.terminate(lives.id)
        assert wait_ended(runtime, lives.id).exit.exit_code == 5
    finally:
        end_all(runtime)
        runtime.close()
    assert leftovers(tmp_path) == []


def test_the_zygote_ends_with_its_agent(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/proto"},
    ) as agent:
        agent.stdin.write(b"[]\n")
        agent.stdin.flush()
        zygote = int(agent.stdout.readline())
        agent.kill()
    wait_until(lambda: is_gone(zygote), "the zygote is gone", within_s=5)
    a_runtime(tmp_path).close()  # takes away the agent's empty cgroup


def test_a_dead_zygote_is_replaced_and_its_tasks_go_on(native):
    before = native.make_spec(sh("sleep 60"))
    native.runtime.start(before)
    zygote = native.runtime.zygote_pid
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: is_gone(zygote), "the zygote is gone")
    after = native.make_spec(sh("exit 3"))
    native.runtime.start(after)
    assert native.runtime.zygote_pid != zygote
    assert wait_ended(native.runtime, after.id).exit.exit_code == 3
    assert found(native.runtime, before.id).state is ContainerState.ALIVE
    assert native.runtime.execute(before.id, sh("exit 4"), 5000) == 4


def test_a_second_agent_on_the_directory_harms_nothing_when_it_leaves(native):
    spec = native.make_spec(sh("sleep 60"))
    started = native.runtime.start(spec)
    directory = files_of(native, spec).path.parents[1]
    second = a_runtime(directory)
    assert second.list() == [started]
    second.close()
    assert found(native.runtime, spec.id) == started
    assert native.runtime.execute(spec.id, sh("exit 0"), 5000) == 0


def test_a_task_whose_shim_was_killed_is_lost_and_nothing_of_it_goes_on(native):
    mark = "mark-of-a-lost-task"
    spec = native.make_spec(sh(f"/bin/busybox setsid sleep 60 & echo up; sleep 60; : {mark}"))
    native.runtime.start(spec)
    wait_output(native.runtime, spec.id, b"up\n")
    os.kill(files_of(native, spec).state().shim_pid, signal.SIGKILL)
    assert native.runtime.wait_change(5000)
    lost = wait_ended(native.runtime, spec.id)
    assert (lost.exit.exit_code, lost.exit.lost) == (-1, True)
    assert "shim" in lost.exit.detail
    assert processes_with(mark) == []
    assert output_of(native.runtime, spec.id) == b"up\n"
    assert found(native.restart(), spec.id) == lost


def test_after_a_boot_a_task_is_lost_and_a_process_with_its_old_pid_is_left_alone(native):
    spec = native.make_spec(sh("sleep 60"))
    native.runtime.start(spec)
    files = files_of(native, spec)
    os.kill(files.state().shim_pid, signal.SIGKILL)
    wait_until(lambda: not files.is_held(), "the shim is gone")
    with subprocess.Popen(["/bin/busybox", "sleep", "60"], start_new_session=True) as bystander:
        try:
            state = msgspec.structs.replace(
                files.state(), boot_id="another", pid=bystander.pid, shim_pid=bystander.pid
            )
            (files.path / "state.json").write_bytes(msgspec.json.encode(state))
            lost = found(native.runtime, spec.id)
            assert lost.exit.lost
            assert "boot" in lost.exit.detail
            native.runtime.kill(spec.id)
            native.runtime.terminate(spec.id)
            time.sleep(0.1)
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_process_that_got_the_pid_of_a_task_is_left_alone(native):
    spec = native.make_spec(sh("sleep 60"))
    native.runtime.start(spec)
    files = files_of(native, spec)
    os.kill(files.state().shim_pid, signal.SIGKILL)
    wait_until(lambda: not files.is_held(), "the shim is gone")
    with subprocess.Popen(["/bin/busybox", "sleep", "60"], start_new_session=True) as bystander:
        try:
            state = msgspec.structs.replace(files.state(), pid=bystander.pid)
            (files.path / "state.json").write_bytes(msgspec.json.encode(state))
            native.runtime.terminate(spec.id)
            native.runtime.kill(spec.id)
            assert found(native.runtime, spec.id).exit.lost
            time.sleep(0.1)
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_what_an_agent_prepared_but_never_started_is_cleared_away(native):
    spec = native.make_spec(sh("sleep 60"))
    native.runtime.start(spec)
    files = files_of(native, spec)
    order = files.order()
    other = native.make_spec(sh("exit 0"))
    unborn = ContainerFiles.of(files.path.parent, other.id)
    os.close(unborn.make(msgspec.structs.replace(order, id=other.id, cgroup=None)))
    (files.path.parent / ".new-half").mkdir()
    runtime = native.restart()
    assert [container.id for container in runtime.list()] == [spec.id]
    assert not unborn.path.exists()
    assert not (files.path.parent / ".new-half").exists()


def test_a_refused_start_leaves_nothing_at_once_and_can_be_tried_again_at_once(tmp_path):
    """Without a look at the list in between, which would clear it away."""
    runtime = a_runtime(tmp_path)
    missing = a_spec(("/no/such/program",))
    try:
        for _ in range(20):
            with pytest.raises(RuntimeFailed, match="No such file") as refusal:
                runtime.start(missing)
            assert refusal.value.permanent
            assert leftovers(tmp_path) == []
        works = a_spec(sh("exit 3"), id=missing.id)
        runtime.start(works)
        assert wait_ended(runtime, works.id).exit.exit_code == 3
    finally:
        end_all(runtime)
        runtime.close()


def test_containers_of_another_cell_in_the_directory_are_not_listed(tmp_path):
    runtime = a_runtime(tmp_path)
    spec = a_spec(sh("exit 0"))
    runtime.start(spec)
    wait_ended(runtime, spec.id)
    runtime.close()
    (tmp_path / f"cc.{machine_of(tmp_path)}").rename(tmp_path / "other.m1")
    runtime = a_runtime(tmp_path)
    assert runtime.list() == []
    runtime.close()
    (tmp_path / f"cc.{machine_of(tmp_path)}").rmdir()
    (tmp_path / "other.m1").rename(tmp_path / f"cc.{machine_of(tmp_path)}")
    runtime = a_runtime(tmp_path)
    end_all(runtime)
    runtime.close()


def test_a_full_disk_costs_lines_of_the_log_but_not_the_exit_code(tmp_path):
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "borg-test", str(tmp_path)], check=True
    )
    runtime = a_runtime(tmp_path, log_bytes_max=10 << 20)
    try:
        program = (
            'while [ ! -e go ]; do sleep 0.05; done; head -c 100000 /dev/zero | tr "\\0" x; exit 6'
        )
        spec = a_spec(sh(program))
        started = runtime.start(spec)
        fill(tmp_path / "filler")
        (Path(os.readlink(f"/proc/{started.pid}/cwd")) / "go").touch()
        assert wait_ended(runtime, spec.id).exit.exit_code == 6
        assert len(output_of(runtime, spec.id)) < 100_000
        with pytest.raises(RuntimeFailed, match="No space") as refusal:
            runtime.start(a_spec(sh("exit 0")))
        assert not refusal.value.permanent
        assert len(runtime.list()) == 1
    finally:
        (tmp_path / "filler").unlink(missing_ok=True)
        end_all(runtime)
        runtime.close()
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_tasks_do_not_show_their_mounts_where_mounts_are_shared(tmp_path):
    """As under systemd: an agent whose mounts propagate. Here in mounts of its own."""
    command = ["unshare", "--mount", "--propagation", "shared", sys.executable, "-c", SHARED_MOUNTS]
    done = subprocess.run(
        [*command, str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/proto"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "shared True\nunchanged True\n"


def test_the_files_of_a_container_are_for_the_agent_only(native):
    spec = native.make_spec(sh("sleep 60"), env={"PASSWORD": "x"})
    native.runtime.start(spec)
    files = files_of(native, spec)
    assert files.path.stat().st_mode & 0o077 == 0
    assert (files.path / "order.json").stat().st_mode & 0o077 == 0
    assert json.loads((files.path / "order.json").read_text())["env"]["PASSWORD"] == "x"
