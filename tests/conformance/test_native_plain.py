"""The native runtime of an agent that is not root: plain processes with rlimits, and it says so."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from tests.conformance.bench import processes_with

pytestmark = pytest.mark.root  # to become another user
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
REPOSITORY = Path(__file__).parents[2]
MARK = "mark-of-a-plain-task"
PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from borgcell.resources import MIB, Resources
from borglet.runtime.container_files import ContainerFiles
from borglet.runtime.native import NativeRuntime
from borglet.runtime.port import RuntimeFailed
from tests.conformance.bench import *

def a_runtime():
    return NativeRuntime(Path(sys.argv[1]), "cc", "m1")

def run(argv, **fields):
    spec = a_spec(argv, **fields)
    runtime.start(spec)
    return spec.id, wait_ended(runtime, spec.id).exit

def shim_of(spec):
    return ContainerFiles.of(Path(sys.argv[1]) / "cc.m1", spec.id).state().shim_pid

runtime = a_runtime()
"""


def python_for_nobody() -> str:
    """This interpreter, or the system's where another user may not run it."""
    # By a program of that user: setpriv itself still has the rights of root when it execs.
    command = [*AS_NOBODY, "/bin/busybox", "sh", "-c", 'test -x "$0"', sys.executable]
    done = subprocess.run(command, check=False)
    return sys.executable if done.returncode == 0 else "/usr/bin/python3"


@pytest.fixture
def nobody():
    """Runs a script as a user without rights, in a directory of its own; its output."""
    with tempfile.TemporaryDirectory(prefix="borg-plain-") as directory:
        os.chown(directory, NOBODY, NOBODY)
        paths = [str(REPOSITORY), str(REPOSITORY / "proto"), *filter(None, sys.path)]

        def run(script: str) -> str:
            program = PRELUDE + textwrap.dedent(script) + "\nruntime.close()\n"
            done = subprocess.run(
                [*AS_NOBODY, python_for_nobody(), "-B", "-c", program, directory],
                cwd="/",
                env={"PYTHONPATH": ":".join(paths), "PATH": os.environ["PATH"]},
                stdout=subprocess.PIPE,
                text=True,
                timeout=60,
                check=True,
            )
            return done.stdout

        yield run
    left = processes_with(MARK)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def test_attributes_say_that_nothing_is_isolated(nobody):
    said = nobody("for item in sorted(runtime.attributes().items()): print(*item)")
    assert said.splitlines() == [
        "runtime.native plain",
        "runtime.native.cgroup none",
        "runtime.native.cpu none",
        "runtime.native.pids none",
        "runtime.native.ram per-process",
    ]


def test_exit_codes_signals_environment_and_log_are_as_ever(nobody):
    said = nobody("""
        id, exit = run(sh("echo $COLOUR; pwd > $TMPDIR/x && cat $TMPDIR/x; exit 3"), env={"COLOUR": "green"})
        print(exit.exit_code, output_of(runtime, id).decode().split()[0])
        print(run(sh("kill -TERM $$"))[1].exit_code)
        try:
            run(("/no/such/program",))
        except RuntimeFailed as refusal:
            print(refusal)
        print(len(runtime.list()))
    """)
    expected = ["3 green", "143", "cannot run '/no/such/program': No such file or directory", "2"]
    assert said.splitlines() == expected


def test_kill_ends_all_descendants_also_those_that_left_the_session(nobody):
    said = nobody(f"""
        script = "/bin/busybox setsid /bin/busybox sh -c 'sleep 60; : {MARK}' & echo up; sleep 60; : {MARK}"
        spec = a_spec(sh(script))
        runtime.start(spec)
        wait_until(lambda: len(processes_with("{MARK}")) >= 2, "all started")
        print(runtime.usage(spec.id).pids >= 2)
        runtime.kill(spec.id)
        print(wait_ended(runtime, spec.id).exit.exit_code, processes_with("{MARK}"))
    """)
    assert said.splitlines() == ["True", "137 []"]


def test_a_process_cannot_have_more_memory_than_the_limit(nobody):
    said = nobody("""
        small = Resources(ram_bytes=32 * MIB)
        id, exit = run(sh("dd if=/dev/zero of=/dev/null bs=200M count=1"), limit=small)
        print(exit.exit_code, b"memory" in output_of(runtime, id, "stderr"))
    """)
    assert said.splitlines() == ["1 True"]


def test_commands_run_beside_the_task_in_its_directory(nobody):
    said = nobody("""
        spec = a_spec(sh("echo 5 > code; sleep 60"))
        runtime.start(spec)
        wait_until(lambda: runtime.execute(spec.id, sh("exit $(cat code)"), 5000) == 5, "code 5")
        try:
            runtime.execute(spec.id, sh("sleep 60"), 200)
        except TimeoutError:
            print("timeout")
        runtime.kill(spec.id)
        wait_ended(runtime, spec.id)
    """)
    assert said == "timeout\n"


def test_a_new_agent_adopts_and_a_task_that_lost_its_shim_is_ended_as_lost(nobody):
    said = nobody(f"""
        lives, orphan = (a_spec(sh("sleep 60; : {MARK}")) for _ in range(2))
        for spec in (lives, orphan):
            runtime.start(spec)
        runtime.close()
        os.kill(shim_of(orphan), signal.SIGKILL)
        runtime = a_runtime()
        print(found(runtime, lives.id).state, wait_ended(runtime, orphan.id).exit.lost)
        runtime.kill(lives.id)
        print(wait_ended(runtime, lives.id).exit.exit_code)
        print(processes_with("{MARK}"))
        for spec in (lives, orphan):
            runtime.forget(spec.id)
        print(os.listdir(Path(sys.argv[1]) / "cc.m1"))
    """)
    assert said.splitlines() == ["alive True", "137", "[]", "[]"]
