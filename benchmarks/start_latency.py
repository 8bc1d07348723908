"""Submit → RUNNING for 1, 10 and 100 tasks through a real cell, against a plain loop that starts the same processes.

The reference in the same run: for native, a loop that makes the cgroups, unshares the namespaces and starts
the program; for Docker, `docker run -d` in a loop. What counts is the ratio; the machines are noisy.

    python benchmarks/start_latency.py [--json FILE] [--rounds N] [--docker]
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc
from borgcell import convert
from borgcell.resources import MIB, Resources
from borgcell.specs import JobSpec, TaskSpec, normalize
from borgcell.v1 import cell_pb2, cell_pb2_grpc

from tests.helpers.local_cell import LocalCell, local_cell

COUNTS = (1, 10, 100)
IMAGE = "borg-test:local"
PROGRAM = "echo up; exec sleep 100000"
CGROUPS = ("memory", "cpu", "pids")


def a_job(name: str, task_count: int, image: str) -> JobSpec:
    task = TaskSpec(
        argv=("/bin/sh", "-c", PROGRAM),
        image=image,
        limit=Resources(cpu_milli=10, ram_bytes=16 * MIB),
        grace_ms=0,
    )
    return JobSpec("bench", name, task, priority=200, task_count=task_count)


def through_cell(cell: LocalCell, task_count: int, round_: int, image: str) -> float:
    """Seconds from the call of SubmitJob until Watch has told that every task is healthy, which is RUNNING."""
    spec = a_job(f"start-{task_count}-{round_}", task_count, image)
    leader = next(replica for replica in cell.status().replicas if replica.leader)
    with grpc.insecure_channel(leader.address) as channel:
        stub = cell_pb2_grpc.CellServiceStub(channel)
        watch = stub.Watch(cell_pb2.WatchRequest(key=str(spec.key)), timeout=60)
        next(watch)  # it is watching
        started = time.perf_counter()
        stub.SubmitJob(cell_pb2.SubmitJobRequest(spec=convert.job_spec_to_wire(normalize(spec))))
        running: set[str] = set()
        for message in watch:
            assert not message.resync, "the history was too short for this benchmark"
            running |= {event.key for event in message.events if event.kind == "HEALTHY"}
            if len(running) == task_count:
                break
        took = time.perf_counter() - started
        watch.cancel()
    cell.kill_job(spec)
    return took


def plain_native(task_count: int) -> float:
    """Seconds of a loop that starts as many programs in own cgroups and namespaces, until each has spoken."""
    running: list[subprocess.Popen[bytes]] = []
    groups: list[Path] = []
    started = time.perf_counter()
    for number in range(task_count):
        joins = []
        for controller in CGROUPS:
            group = _cgroup_of(controller) / f"borg-bench-{os.getpid()}-{number}"
            group.mkdir()
            groups.append(group)
            joins.append(f"echo 0 > {group}/cgroup.procs")
        (groups[-3] / "memory.limit_in_bytes").write_text(str(16 * MIB))
        script = f"{'; '.join(joins)}; exec unshare --mount --pid --ipc --uts --fork --mount-proc --kill-child sh -c '{PROGRAM}'"
        process = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        running.append(process)
    took = time.perf_counter() - started
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    for group in groups:
        _remove(group)
    return took


def _cgroup_of(controller: str) -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup" and controller in options.split(","):
            return Path(left.split(" ")[4])
    raise SystemExit(
        f"no cgroup v1 mount of {controller}: this benchmark's plain loop knows v1 only"
    )


def _remove(group: Path) -> None:
    for _ in range(100):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.02)
        else:
            return


def plain_docker(task_count: int) -> float:
    """Seconds of `docker run -d` in a loop."""
    started = time.perf_counter()
    ids = [
        subprocess.run(
            [
                "docker",
                "run",
                "-d",
                "--network",
                "host",
                "--memory",
                "16m",
                IMAGE,
                "/bin/sh",
                "-c",
                PROGRAM,
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for _ in range(task_count)
    ]
    took = time.perf_counter() - started
    subprocess.run(["docker", "rm", "-f", *ids], check=True, capture_output=True)
    return took


def measure(runtime: str, rounds: int, counts: tuple[int, ...]) -> list[dict[str, object]]:
    image = IMAGE if runtime == "docker" else ""
    plain: Callable[[int], float] = plain_docker if runtime == "docker" else plain_native
    rows: list[dict[str, object]] = []
    directory = Path(tempfile.mkdtemp(prefix="borg-bench-"))
    try:
        with local_cell(directory, 20_800, runtimes=runtime, cpu="64", ram="16GiB") as cell:
            through_cell(cell, 1, 0, image)  # warm: imports, first connections, page cache
            for task_count in counts:
                cell_s, plain_s = [], []
                for round_ in range(1, rounds + 1):
                    progress(f"{runtime}: {task_count} tasks, round {round_} of {rounds}")
                    cell_s.append(through_cell(cell, task_count, round_, image))
                    plain_s.append(plain(task_count))
                ours, theirs = statistics.median(cell_s), statistics.median(plain_s)
                rows.append(
                    {
                        "runtime": runtime,
                        "tasks": task_count,
                        "cell_s": round(ours, 4),
                        "plain_loop_s": round(theirs, 4),
                        "ratio": round(ours / theirs, 2),
                        "rounds": rounds,
                    }
                )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return rows


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--docker", action="store_true", help="also the docker runtime (needs $DOCKER_HOST)"
    )
    arguments = parser.parse_args()
    rows = measure("native", arguments.rounds, COUNTS)
    if arguments.docker:
        rows += measure("docker", max(1, arguments.rounds // 2), COUNTS[:2])
    progress("")
    print(f"{'runtime':8} {'tasks':>6} {'cell':>9} {'plain loop':>11} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['runtime']:8} {row['tasks']:>6} {row['cell_s']:>8} s {row['plain_loop_s']:>9} s {row['ratio']:>6}"
        )
    if arguments.json:
        machine = {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
