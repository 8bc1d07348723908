"""Control groups as the kernel of this machine has them: limits arrive, kill is complete, removal waits."""

import os
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest
from borgcell.resources import MIB

from borglet.runtime import cgroups
from borglet.runtime.cgroups import CgroupV1, CgroupV2, Limits

pytestmark = pytest.mark.root


def enter_and(group, *argv: str) -> subprocess.Popen:
    """A process in the group."""
    script = f'for file in {" ".join(group.procs_files())}; do echo 0 > $file; done; exec "$@"'
    return subprocess.Popen(["/bin/busybox", "sh", "-c", script, "sh", *argv])


def wait_inside(group, count: int) -> None:
    deadline = time.monotonic() + 5
    while len(group.pids()) < count:
        assert time.monotonic() < deadline, f"{group.pids()} are not {count} processes"
        time.sleep(0.01)


@pytest.fixture
def parent():
    parent = cgroups.parent_for(f"borg-test-{uuid.uuid4().hex[:8]}")
    assert parent is not None
    yield parent
    assert parent.remove()


@pytest.fixture
def group(parent):
    group = cgroups.child(parent, "task")
    yield group
    group.kill()
    assert group.remove()


def settings(group) -> dict[str, str]:
    """What the kernel took, keyed by the words of v2."""
    if isinstance(group, CgroupV2):
        names = {"memory.max": "", "memory.swap.max": "", "cpu.max": "", "pids.max": ""}
        path = Path(group.paths["unified"])
        return {name: (path / name).read_text().strip() for name in names}
    read = {
        "memory.max": ("memory", "memory.limit_in_bytes"),
        "memory.swap.max": ("memory", "memory.memsw.limit_in_bytes"),
        "cpu.max": ("cpu", "cpu.cfs_quota_us"),
        "cpu.period": ("cpu", "cpu.cfs_period_us"),
        "pids.max": ("pids", "pids.max"),
    }
    values = {
        key: (Path(group.paths[controller]) / name).read_text().strip()
        for key, (controller, name) in read.items()
    }
    values["memory.swap.max"] = str(int(values["memory.swap.max"]) - int(values["memory.max"]))
    values["cpu.max"] += f" {values.pop('cpu.period')}"
    return values


def test_limits_are_what_the_kernel_has(group):
    group.make(Limits(cpu_milli=500, ram_bytes=64 * MIB, pids_max=9, cpu_hard=True))
    assert settings(group) == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "pids.max": "9",
    }


def test_limits_can_be_raised_and_lowered(group):
    for mib in (64, 128, 32):
        group.make(Limits(ram_bytes=mib * MIB))
        assert settings(group)["memory.max"] == str(mib * MIB)
        assert settings(group)["memory.swap.max"] == "0"


def test_a_quota_holds_only_when_asked_for(group):
    group.make(Limits(cpu_milli=500))
    assert settings(group)["cpu.max"].split()[0] in ("max", "-1")


def test_a_process_is_found_in_its_group(group):
    group.make(Limits())
    with enter_and(group, "/bin/busybox", "sleep", "60") as process:
        wait_inside(group, 1)
        assert cgroups.of_process(process.pid).paths == group.paths
        assert cgroups.restore(group.version, group.paths).pids() == [process.pid]
        group.kill()
        assert process.wait(5) == -9


def test_kill_ends_a_group_that_keeps_forking(group):
    # Each forker reaps its children: orphans would be left to the machine's first process.
    group.make(Limits(pids_max=200))
    bomb = (
        "for i in 1 2 3 4 5 6 7 8; do (while :; do (:) & (:) & wait; done) & done 2>/dev/null; wait"
    )
    with enter_and(group, "/bin/busybox", "sh", "-c", bomb) as process:
        wait_inside(group, 9)
        group.kill()
        assert process.wait(5) == -9
    assert group.pids() == []


def test_removal_waits_for_the_last_process(group):
    group.make(Limits())
    with enter_and(group, "/bin/busybox", "sleep", "60") as process:
        wait_inside(group, 1)
        assert not group.remove(100)
        threading.Timer(0.3, process.kill).start()
        assert group.remove()
    assert not any(os.path.exists(path) for path in group.paths.values())


def test_limits_of_this_process_hold_for_what_it_makes(parent):
    own = cgroups.of_process(os.getpid())
    if isinstance(own, CgroupV1):
        assert parent.paths.keys() == own.paths.keys()
        assert all(parent.paths[key].startswith(path) for key, path in own.paths.items())
    else:
        assert parent.paths["unified"] != own.paths["unified"]


def test_kill_and_removal_on_the_unified_hierarchy():
    """The part of v2 that also a machine with v1 controllers has."""
    _, point = cgroups._mounts()["unified"]
    group = CgroupV2({"unified": f"{point}/borg-test-{uuid.uuid4().hex[:8]}"})
    os.mkdir(group.paths["unified"])
    with enter_and(group, "/bin/busybox", "sh", "-c", "sleep 60 & sleep 60") as process:
        wait_inside(group, 2)
        group.kill()
        assert process.wait(5) == -9
    assert group.pids() == []
    assert group.remove()
