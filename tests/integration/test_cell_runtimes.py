"""The same job through a real cell on both runtimes: it must behave the same."""

import os
import signal
import urllib.request

import pytest
from borgcell.resources import MIB, Resources
from borgcell.specs import HealthCheck, JobSpec, TaskSpec
from borgcell.types import JobKind
from borgcell.v1 import types_pb2

from tests.helpers.copies import live_copies, live_pids
from tests.helpers.local_cell import local_cell

pytestmark = [pytest.mark.cell, pytest.mark.root]

IMAGE = "borg-test:local"
NEWS_S = 7  # an end is news of the runtime; the look that finds it anyway comes every 10 s only
SERVE = """
mkdir -p /tmp/www && echo "$BORG_INDEX#$BORG_INCARNATION" > /tmp/www/index.html
echo serving; echo complaining >&2
exec /bin/busybox httpd -f -p 127.0.0.1:$PORT_HTTP -h /tmp/www
"""


def a_page(image: str) -> JobSpec:
    task = TaskSpec(
        argv=("/bin/busybox", "sh", "-c", SERVE),
        image=image,
        limit=Resources(cpu_milli=100, ram_bytes=32 * MIB),
        ports=("http",),
        health=HealthCheck(http="/", port="http", interval_ms=500),
        grace_ms=1_000,
    )
    return JobSpec("ann", "page", task, priority=200, task_count=2)


def a_hog(image: str) -> JobSpec:
    # doubles a string until the limit ends it
    script = 'x=0123456789abcdef; while :; do x="$x$x"; done'
    task = TaskSpec(
        argv=("/bin/busybox", "sh", "-c", script),
        image=image,
        limit=Resources(cpu_milli=100, ram_bytes=16 * MIB),
        grace_ms=0,
    )
    return JobSpec("ann", "hog", task, kind=JobKind.BATCH, priority=100, max_failures=0)


@pytest.fixture(
    scope="module",
    params=["native", pytest.param("docker", marks=pytest.mark.docker)],
)
def runtime(request):
    return request.param


@pytest.fixture(scope="module")
def cell(runtime, tmp_path_factory):
    name = f"both{runtime}"
    with local_cell(
        tmp_path_factory.mktemp(runtime),
        21_800 if runtime == "native" else 22_800,
        cell=name,
        replicas=1,
        machines=2,
        runtimes=runtime,
    ) as cell:
        yield cell


@pytest.fixture
def image(runtime):
    return IMAGE if runtime == "docker" else ""


def test_a_service_is_served_logged_restarted_and_ended(cell, image):
    spec, name = a_page(image), cell.layout.cell
    cell.submit(spec)
    for task in cell.wait_running(spec):
        url = f"http://127.0.0.1:{task.current.ports['http']}/"
        page = urllib.request.urlopen(url, timeout=5).read().decode()
        assert page == f"{task.index}#1\n"
    assert sorted(cell.logs("ann/page/0").split()) == ["complaining", "serving"]
    for pid in live_pids(name, "ann/page"):
        os.kill(pid, signal.SIGKILL)
    cell.wait(
        lambda: all(task.current.number == 2 for task in cell.tasks(spec)),
        "the next incarnations",
        NEWS_S,
    )
    ends = {(t.finished[0].end_reason, t.finished[0].exit_code) for t in cell.tasks(spec)}
    assert ends == {(types_pb2.END_REASON_FAILED, 128 + signal.SIGKILL)}
    assert "serving" in cell.logs("ann/page/1", incarnation=1)
    cell.kill_job(spec)
    assert live_copies(name, "ann/page") == set()


def test_too_much_memory_is_reported_as_out_of_memory(cell, image):
    spec = a_hog(image)
    cell.submit(spec)
    cell.wait(
        lambda: cell.task("ann/hog/0").state == types_pb2.TASK_STATE_DEAD, "a dead task", NEWS_S
    )
    assert "out of memory" in cell.task("ann/hog/0").current.detail


def test_a_killed_borglet_adopts_its_tasks(cell, image):
    spec, name = a_page(image), cell.layout.cell
    cell.submit(spec)
    cell.wait_running(spec)
    before = live_pids(name, "ann/page")
    links = {n: _links(cell, n) for n in (1, 2)}
    for machine in ("machine1", "machine2"):
        cell.kill(f"borglet-{machine}")
        cell.start(f"borglet-{machine}")
    cell.wait(
        lambda: all(_links(cell, n) > links[n] for n in (1, 2)),
        "both Borglets are linked again",
    )
    cell.wait_running(spec)
    assert live_pids(name, "ann/page") == before
    cell.kill_job(spec)


def _links(cell, machine: int) -> int:
    return cell.output(f"borglet-machine{machine}").count("link_opened")


def test_a_program_that_does_not_exist_says_so(cell, image):
    task = TaskSpec(argv=("/no/such/program",), image=image, limit=Resources(100, 16 * MIB))
    spec = JobSpec("ann", "missing", task, kind=JobKind.BATCH, max_failures=0, priority=100)
    cell.submit(spec)
    cell.wait(lambda: cell.task("ann/missing/0").state == types_pb2.TASK_STATE_DEAD, "a dead task")
    assert "/no/such/program" in cell.task("ann/missing/0").current.detail
