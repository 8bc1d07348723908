"""What a task of the native runtime sees of its machine, and what it cannot do to it."""

import os
import re
import tempfile
import uuid
from pathlib import Path

import pytest

from borglet.runtime import namespaces
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
from tests.conformance.native_bench import a_runtime, end_all, make_native

pytestmark = pytest.mark.root


def run(bench, script: str) -> str:
    """What the script says, both streams."""
    spec = bench.make_spec(sh(f"exec 2>&1; {script}"))
    bench.runtime.start(spec)
    wait_ended(bench.runtime, spec.id)
    return output_of(bench.runtime, spec.id).decode()


def test_attributes_say_how_tasks_are_isolated_here(native):
    attributes = native.runtime.attributes()
    assert attributes["runtime.native"] == "isolated"
    assert attributes["runtime.native.cgroup"] in ("v1", "v2")
    assert attributes["runtime.native.ram"] == "hard"


def test_a_task_sees_only_its_own_processes(native):
    pids = run(native, "cd /proc; echo [0-9]*").split()
    # Its shim is process 1, itself 2.
    assert pids == ["1", "2"]


def test_a_task_cannot_touch_its_shim(native):
    said = run(
        native, "kill -9 1; cat /proc/1/environ; ls /proc/1/root/; cat /proc/1/fd/0; echo on"
    )
    assert said.count("Permission denied") == 3
    assert said.endswith("on\n")


def test_the_root_of_the_machine_is_visible_but_read_only(native):
    said = run(
        native, "cat /etc/hostname; for d in / /etc /usr /var/tmp /work /sys; do touch $d/x; done"
    )
    assert Path("/etc/hostname").read_text().strip() in said
    assert len(re.findall("Read-only file system|Permission denied", said)) == 6
    assert not Path("/etc/x").exists()


def test_a_runtime_inside_a_masked_directory_outside_of_tmp_runs_tasks_that_see_only_their_own():
    # as `borglet run --state-dir /var/lib/borg` has it: the runtime's directory lies in the state directory
    with tempfile.TemporaryDirectory(prefix="borg-native-", dir="/var/tmp") as state:
        secret = Path(state, "secret")
        secret.write_text("42")
        runtime = a_runtime(Path(state, "native"), masked=[Path(state)])
        try:
            spec = a_spec(sh(f"ls {state}; pwd; touch mine && echo made; cat {secret}"))
            runtime.start(spec)
            wait_ended(runtime, spec.id)
            said = output_of(runtime, spec.id).decode()
            end_all(runtime)
        finally:
            runtime.close()
    assert said.startswith("native\n" + state)
    assert "made\n" in said
    assert "42" not in said


def test_a_task_writes_in_its_directory_and_its_own_tmp(native):
    name = uuid.uuid4().hex
    said = run(
        native, f"echo a > {name} && echo b > /tmp/{name} && cat {name} /tmp/{name}; ls /tmp; pwd"
    )
    assert said.startswith("a\nb\n")
    assert not Path(f"/tmp/{name}").exists()
    work = Path(said.splitlines()[-1])
    assert (work / name).read_text() == "a\n"
    assert (work.parent / "tmp" / name).read_text() == "b\n"


def test_a_task_sees_neither_other_tasks_nor_records_of_the_agent(native):
    other = native.make_spec(sh("sleep 60"), env={"PASSWORD": "hush"})
    started = native.runtime.start(other)
    directory = Path(os.readlink(f"/proc/{started.pid}/cwd")).parents[1]
    said = run(native, f"find {directory}; cat {directory}/*/order.json")
    assert "hush" not in said
    assert str(directory / "ann.web") in said
    assert f"{directory}/ann.web.{other.id.task.index}." not in said


def test_secrets_and_sockets_of_the_machine_are_hidden(native):
    said = run(native, "wc -c < /etc/shadow; ls -A /run /etc/ssh")
    assert said.startswith("0\n")
    assert "docker" not in said
    assert "host" not in said


def test_masked_paths_are_hidden_and_visible_ones_are_not(tmp_path):
    secret, tool = tmp_path / "secret", tmp_path / "tool"
    for path in (secret, tool):
        path.mkdir()
        (path / "file").write_text(f"content of {path.name}\n")
    with make_native(visible=[tool]) as bench:
        said = run(bench, f"cat {secret}/file; cat {tool}/file; touch {tool}/x")
        assert "content of tool" in said
        assert "content of secret" not in said
        assert "Read-only file system" in said
    beside = Path(f"/var/tmp/{uuid.uuid4().hex}")
    beside.mkdir()
    (beside / "file").write_text("beside\n")
    try:
        with make_native() as bench:
            assert run(bench, f"cat {beside}/file") == "beside\n"
        with make_native(masked=[beside]) as bench:
            assert "beside\n" not in run(bench, f"cat {beside}/file")
            assert "Read-only" in run(bench, f"touch {beside}/x")
    finally:
        (beside / "file").unlink()
        beside.rmdir()


def test_mounts_of_a_task_do_not_appear_on_the_machine(native):
    before = Path("/proc/self/mountinfo").read_text()
    spec = native.make_spec(sh("echo up; sleep 60"))
    native.runtime.start(spec)
    wait_output(native.runtime, spec.id, b"up\n")
    pid = found(native.runtime, spec.id).pid
    assert Path("/proc/self/mountinfo").read_text() == before
    assert Path(f"/proc/{pid}/mountinfo").read_text() != before


def test_a_task_has_few_capabilities_and_can_gain_none(native):
    said = run(
        native,
        "grep -E 'Cap|NoNewPrivs' /proc/self/status; mount -t tmpfs x /tmp; hostname x; mknod d b 8 0",
    )
    status = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    kept = sum(1 << number for number in namespaces.KEPT_CAPABILITIES)
    assert int(status["CapEff"], 16) & ~kept == 0
    assert int(status["CapBnd"], 16) & ~kept == 0
    assert status["NoNewPrivs"] == "1"
    assert said.count("ermitted") + said.count("ermission denied") == 3


def test_a_command_executed_in_a_task_has_no_more_rights_than_it(native):
    spec = native.make_spec(sh("sleep 60"))
    started = native.runtime.start(spec)
    native.runtime.execute(
        spec.id,
        sh("exec > seen; grep CapEff /proc/self/status; cat /proc/self/cgroup; touch /etc/x"),
        5000,
    )
    seen = Path(f"/proc/{started.pid}/cwd/seen").read_text()
    task = Path(f"/proc/{started.pid}")
    assert (task / "cgroup").read_text() in seen
    effective = next(
        line for line in (task / "status").read_text().splitlines() if "CapEff" in line
    )
    assert effective in seen
    assert not Path("/etc/x").exists()


def test_a_command_that_takes_too_long_ends_with_its_children(native):
    mark = uuid.uuid4().hex
    spec = native.make_spec(sh("sleep 60"))
    native.runtime.start(spec)
    with pytest.raises(TimeoutError):
        native.runtime.execute(spec.id, sh(f"(sleep 60; : {mark}) & sleep 60; : {mark}"), 500)
    wait_until(lambda: not processes_with(mark), "the command is gone", within_s=5)


def test_devices_of_a_task_are_the_harmless_ones(native):
    said = run(
        native,
        "ls /dev; echo x > /dev/null && head -c 3 /dev/zero | wc -c; echo y > /dev/shm/y && cat /dev/shm/y",
    )
    devices = said.split()[:-2]
    assert set(devices) == {
        *("null", "zero", "full", "random", "urandom", "tty"),
        *("fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm"),
    }
    assert said.endswith("3\ny\n")


def test_kernel_settings_are_read_only(native):
    files = [
        path
        for path in ("/proc/sys/kernel/panic", "/proc/irq/default_smp_affinity")
        if os.path.exists(path)
    ]
    said = run(native, "; ".join(f"echo 1 > {path}" for path in files))
    assert files
    assert said.count("Read-only file system") == len(files)


def test_sigpipe_and_other_signals_have_their_defaults(native):
    ignored = int(run(native, "exec grep SigIgn /proc/self/status").split()[-1], 16)
    # 32 and 33 are the C library's own: it neither sets nor resets them, whoever ignored them before us
    assert ignored & ~(0b11 << 31) == 0
    assert run(native, "exec grep SigBlk /proc/self/status").split()[-1].strip("0") == ""


def test_root_is_made_read_only_also_without_mount_setattr(native, tmp_path):
    """As kernels before 5.12 need it: each mount by itself, in a child with mounts of its own."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            namespaces._mount(None, "/", flags=namespaces._MS_REC | namespaces._MS_SLAVE)
            namespaces.make_read_only_one_by_one("/")
            try:
                (tmp_path / "x").touch()
            except OSError as error:
                code = 0 if error.errno == 30 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    (tmp_path / "x").touch()
