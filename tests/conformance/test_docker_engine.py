"""The Docker runtime on a real engine: what is Docker's own and not in the suite for all runtimes."""

import os
import threading
import time

import pytest
from borgcell.resources import MIB, Resources
from borgcell.types import TaskKey
from msgspec.structs import replace

from borglet.runtime import cgroups
from borglet.runtime.docker import DockerRuntime
from borglet.runtime.docker_labels import container_name, labels_of
from borglet.runtime.docker_oom import OomWatch
from borglet.runtime.port import ContainerId, ContainerState, RuntimeFailed
from tests.conformance.bench import found, log_of, sh, wait_ended, wait_output, wait_until
from tests.conformance.docker_bench import make_docker
from tests.helpers.docker_engine import IMAGE, sdk

pytestmark = pytest.mark.docker

ALIVE = ContainerState.ALIVE
SMALL = Resources(cpu_milli=100, ram_bytes=32 * MIB)
# In a child: the container's first processes live on.
EAT_RAM = "dd if=/dev/zero of=/dev/null bs=200M count=1"


@pytest.fixture
def bench():
    with make_docker() as bench:
        yield bench


@pytest.fixture
def client(bench):
    with sdk(bench.url) as client:
        yield client


def test_the_engine_shows_whose_container_it_is_and_what_it_may_use(bench, client):
    spec = bench.make_spec(
        ["sleep", "99"],
        limit=Resources(cpu_milli=1500, ram_bytes=32 * MIB),
        pids_max=9,
        env={"PORT": "20001"},
        ports={"http": 20001},
    )
    bench.runtime.start(spec)
    facts = client.inspect_container(container_name(bench.cell, bench.machine, spec.id))
    labels, host = facts["Config"]["Labels"], facts["HostConfig"]
    shown = {name: labels[f"borg.{name}"] for name in ("cell", "machine", "user", "job", "index")}
    assert shown == {
        "cell": bench.cell,
        "machine": "m1",
        "user": "ann",
        "job": "web",
        "index": str(spec.id.task.index),
    }
    assert labels["borg.incarnation"] == "1"
    assert (host["Memory"], host["MemorySwap"], host["CpuShares"]) == (32 * MIB, 32 * MIB, 1536)
    assert host["PidsLimit"] == 10, "the task's nine and the engine's init"
    assert (host["NetworkMode"], host["Init"], host["RestartPolicy"]["Name"]) == (
        "host",
        True,
        "no",
    )
    assert host["LogConfig"]["Type"] == "json-file"
    assert {"max-size", "max-file"} <= host["LogConfig"]["Config"].keys()
    assert "PORT=20001" in facts["Config"]["Env"]


def test_a_new_borglet_reads_limit_and_ports_back(bench):
    limit = Resources(cpu_milli=150, ram_bytes=32 * MIB, disk_bytes=5, ports=1)
    started = bench.run("sleep", "99", limit=limit, ports={"http": 20002})
    assert bench.restart().list() == [started]
    assert (started.limit, started.ports) == (limit, {"http": 20002})
    assert bench.runtime.usage(started.id).pids == 1


def test_argv_is_the_whole_command_whatever_the_image_would_run(bench, client):
    made = client.create_container(IMAGE, ["true"], labels={"borg.cell": bench.cell})
    image = f"borg-test-{bench.cell}:entry"
    client.commit(
        made["Id"], *image.split(":"), conf={"Entrypoint": ["echo", "wrong"], "Cmd": ["x"]}
    )
    try:
        own = bench.run("echo", "right", image=image)
        none = bench.run(image=image)
        assert log_of(bench.runtime, wait_ended(bench.runtime, own.id).id) == [
            ("stdout", b"right\n")
        ]
        assert log_of(bench.runtime, wait_ended(bench.runtime, none.id).id) == [
            ("stdout", b"wrong x\n")
        ]
        for container in (own, none):
            bench.runtime.forget(container.id)
    finally:
        client.remove_image(image, force=True)


def test_names_that_read_alike_when_joined_are_two_containers(bench):
    for user, job in (("a-b", "c"), ("a", "b-c")):
        id = ContainerId(TaskKey(user, job, 0), 1)
        bench.runtime.start(replace(bench.make_spec(["sleep", "99"]), id=id))
    assert {each.id.task[:2] for each in bench.runtime.list()} == {("a-b", "c"), ("a", "b-c")}


def test_the_longest_names_make_a_container(bench):
    id = ContainerId(TaskKey("u" * 63, "j" * 63, 999_999), 10**9)
    bench.machine = "m" * 63
    runtime = bench.restart()
    runtime.start(replace(bench.make_spec(["true"]), id=id))
    assert [each.id for each in runtime.list()] == [id]


def test_a_container_of_another_machine_of_the_cell_is_not_ours(bench):
    started = bench.run("sleep", "99")
    other = DockerRuntime(bench.cell, "m2", url=bench.url)
    try:
        assert other.list() == []
        other.kill(started.id)
    finally:
        other.close()
    assert found(bench.runtime, started.id).state is ALIVE


def test_a_foreign_container_of_our_name_is_refused_and_left_alone(bench, client):
    spec = bench.make_spec(["true"])
    name = container_name(bench.cell, bench.machine, spec.id)
    labels = labels_of(f"not-{bench.cell}", bench.machine, spec)
    foreign = client.create_container(IMAGE, ["sleep", "99"], name=name, labels=labels)
    try:
        client.start(foreign["Id"])
        with pytest.raises(RuntimeFailed, match="is taken by a container that is not") as failed:
            bench.runtime.start(spec)
        assert failed.value.permanent
        bench.runtime.kill(spec.id)
        bench.runtime.forget(spec.id)
        assert bench.runtime.list() == []
        assert client.inspect_container(foreign["Id"])["State"]["Running"]
    finally:
        client.remove_container(foreign["Id"], force=True)


def test_a_container_of_an_image_made_from_ours_is_not_ours(bench, client):
    ended = wait_ended(bench.runtime, bench.run("true").id)
    image = f"borg-test-{bench.cell}:copy"
    client.commit(container_name(bench.cell, bench.machine, ended.id), *image.split(":"))
    bench.runtime.forget(ended.id)
    try:
        copy = client.create_container(image, ["sleep", "99"])
        client.start(copy["Id"])
        assert bench.engine_ids() == [copy["Id"]], "the copy inherited the labels"
        assert bench.runtime.list() == []
        client.remove_container(copy["Id"], force=True)
    finally:
        client.remove_image(image, force=True)


def test_starting_what_runs_returns_it_and_makes_no_second(bench):
    spec = bench.make_spec(["sleep", "99"])
    first = bench.runtime.start(spec)
    assert bench.restart().start(spec) == first
    assert len(bench.engine_ids()) == 1


def test_what_ended_is_not_run_again(bench):
    spec = bench.make_spec(["sh", "-c", "echo ran; exit 4"])
    bench.runtime.start(spec)
    wait_ended(bench.runtime, spec.id)
    assert bench.restart().start(spec).exit.exit_code == 4
    assert log_of(bench.runtime, spec.id) == [("stdout", b"ran\n")]


def test_what_a_dead_borglet_made_but_never_started_is_started(bench, client):
    spec = bench.make_spec(["sleep", "99"])
    made = make_without_starting(bench, spec)
    assert bench.runtime.start(spec).state is ALIVE
    assert bench.engine_ids() == [made]


def test_what_was_made_for_another_spec_and_never_started_is_replaced(bench, client):
    spec = bench.make_spec(["echo", "old"])
    make_without_starting(bench, spec)
    bench.runtime.start(replace(spec, argv=("echo", "new")))
    wait_ended(bench.runtime, spec.id)
    assert log_of(bench.runtime, spec.id) == [("stdout", b"new\n")]


def test_what_was_made_and_never_started_is_not_listed_but_cleared_away(bench):
    make_without_starting(bench, bench.make_spec(["sleep", "99"]))
    assert bench.runtime.list() == []
    assert bench.engine_ids() == []


def make_without_starting(bench, spec) -> str:
    """As a Borglet leaves it that is killed between the two calls."""
    return bench.runtime._make(spec)["Id"]


def test_an_image_that_is_not_here_is_refused_for_good(bench):
    with pytest.raises(RuntimeFailed, match="no such image: nowhere:1 ") as failed:
        bench.run("true", image="nowhere:1")
    assert failed.value.permanent


def test_a_registry_that_does_not_answer_may_answer_later(bench):
    with pytest.raises(RuntimeFailed, match=r"pull 127\.0\.0\.1:1/web:1.*refused") as failed:
        bench.run("true", image="127.0.0.1:1/web:1")
    assert not failed.value.permanent


@pytest.mark.parametrize(
    ("argv", "says"),
    [(("no-such", "x"), "no-such.*No such file"), (("/etc/passwd",), "passwd.*Permission denied")],
)
def test_a_program_that_cannot_run_is_refused_and_leaves_nothing(bench, argv, says):
    with pytest.raises(RuntimeFailed, match=says) as failed:
        bench.run(*argv)
    assert failed.value.permanent
    assert bench.engine_ids() == []
    assert bench.runtime.list() == []


def test_a_task_that_itself_exits_127_ran(bench):
    container = bench.run("sh", "-c", "exit 127")
    assert wait_ended(bench.runtime, container.id).exit.exit_code == 127


def test_a_limit_the_engine_refuses_is_refused_for_good(bench):
    with pytest.raises(RuntimeFailed, match="Minimum memory limit") as failed:
        bench.run("true", limit=Resources(ram_bytes=MIB))
    assert failed.value.permanent


def test_a_container_killed_behind_our_back_is_seen_at_once(bench, client):
    started = bench.run("sleep", "99")
    bench.runtime.wait_change(300)  # connected
    client.kill(container_name(bench.cell, bench.machine, started.id))
    killed_at = time.monotonic()
    assert bench.runtime.wait_change(10_000)
    assert time.monotonic() - killed_at < 2
    assert found(bench.runtime, started.id).exit.exit_code == 137


def test_nothing_happening_is_no_change(bench):
    bench.run("sleep", "99")
    assert bench.runtime.wait_change(1500) is False


def test_an_end_before_the_watch_began_is_a_change(bench, client):
    started = bench.run("sleep", "99")
    client.kill(container_name(bench.cell, bench.machine, started.id))
    assert bench.runtime.wait_change(5000) is True


def test_a_container_removed_behind_our_back_ended_as_lost_until_forgotten(bench, client):
    started = bench.run("sleep", "99")
    client.remove_container(container_name(bench.cell, bench.machine, started.id), force=True)
    exit = wait_ended(bench.runtime, started.id).exit
    assert (exit.lost, exit.exit_code) == (True, -1)
    assert found(bench.runtime, started.id).exit == exit
    with pytest.raises(LookupError):
        log_of(bench.runtime, started.id)
    bench.runtime.forget(started.id)
    assert bench.runtime.list() == []


def test_an_exit_that_was_seen_is_kept_when_the_container_is_removed_behind_our_back(bench, client):
    started = bench.run("sh", "-c", "exit 6")
    exit = wait_ended(bench.runtime, started.id).exit
    client.remove_container(container_name(bench.cell, bench.machine, started.id))
    assert found(bench.runtime, started.id).exit == exit
    assert exit.exit_code == 6


def test_memory_that_a_child_died_for_is_the_tasks(bench):
    started = bench.run(*sh(f"{EAT_RAM}; exit 3"), limit=SMALL)
    exit = wait_ended(bench.runtime, started.id).exit
    assert (exit.exit_code, exit.out_of_memory) == (3, True)


def test_a_task_that_copes_with_a_child_out_of_memory_did_not_fail(bench):
    started = bench.run(*sh(f"{EAT_RAM}; exit 0"), limit=SMALL)
    exit = wait_ended(bench.runtime, started.id).exit
    assert (exit.exit_code, exit.out_of_memory) == (0, False)


@pytest.mark.parametrize("eats", [True, False])
def test_the_kernel_tells_of_a_memory_kill_when_the_cgroup_is_gone(bench, client, eats):
    """Nobody looks while it lives: what the engine is too late for. Only v1 can tell then."""
    eat = EAT_RAM if eats else "true"
    started = bench.run(*sh(f"sleep 0.3; {eat}; echo ate; sleep 99"), limit=SMALL)
    cgroup = cgroups.of_process(started.pid)
    ooms = OomWatch()
    ooms.add("it", cgroup)
    wait_output(bench.runtime, started.id, b"ate")
    client.remove_container(bench.engine_ids()[0], force=True)
    wait_until(lambda: not os.path.exists(next(iter(cgroup.paths.values()))), "its cgroup is gone")
    assert ooms.settle("it") == (eats and isinstance(cgroup, cgroups.CgroupV1))


def test_what_runs_is_not_forgotten(bench):
    started = bench.run("sleep", "99")
    with pytest.raises(RuntimeFailed, match="running container"):
        bench.runtime.forget(started.id)
    assert found(bench.runtime, started.id) == started


def test_a_command_past_its_time_is_killed_with_all_it_started(bench):
    started = bench.run("sleep", "99")
    before = processes_of(started)
    with pytest.raises(TimeoutError):
        bench.runtime.execute(started.id, ("sh", "-c", "sleep 77 & sleep 78"), 300)
    wait_until(lambda: processes_of(started) == before, "the command and its child are gone")


def processes_of(container) -> int:
    return sum(name.isdigit() for name in os.listdir(f"/proc/{container.pid}/root/proc"))


def test_tasks_started_while_another_thread_lists_never_flicker(bench):
    """Start from three threads, list from a fourth: what a start returned is in every later list."""
    returned, missing, done = set(), [], threading.Event()

    def look():
        while not done.is_set():
            must = set(returned)
            missing.extend(must - {each.id for each in bench.runtime.list()})

    def start():
        for _ in range(4):
            returned.add(bench.run("sleep", "99").id)

    looker = threading.Thread(target=look)
    starters = [threading.Thread(target=start) for _ in range(3)]
    for thread in (looker, *starters):
        thread.start()
    for thread in starters:
        thread.join()
    done.set()
    looker.join()
    assert len(returned) == 12
    assert missing == []
    assert [each for each in bench.runtime.list() if each.state is not ALIVE] == []


def test_probe_says_why_there_is_no_engine(bench, tmp_path):
    assert DockerRuntime.probe(bench.url) is None
    assert "No such file" in DockerRuntime.probe(f"unix://{tmp_path}/none.sock")
    assert "is not unix:///path" in DockerRuntime.probe("smoke://signals")


def test_the_machine_tells_the_engines_version_and_whether_tasks_outlive_it(bench):
    attributes = bench.runtime.attributes()
    assert attributes["runtime.docker"][0].isdigit()
    assert attributes["runtime.docker.live_restore"] == "true"


def test_an_engine_that_is_away_is_not_an_empty_list(tmp_path):
    runtime = DockerRuntime("cc", "m1", url=f"unix://{tmp_path}/none.sock")
    try:
        with pytest.raises(RuntimeFailed) as failed:
            runtime.list()
        assert not failed.value.permanent
        assert runtime.wait_change(100) is False
        assert runtime.attributes() == {}
    finally:
        runtime.close()
