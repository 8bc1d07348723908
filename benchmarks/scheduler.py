"""Placements per second of ``plan_pass`` at 100, 1,000 and 10,000 machines, beside the obvious implementation.

    python benchmarks/scheduler.py --json FILE

Cells are 80 % full, and then full, so that at first nothing fits without an eviction. They hold services and batch tasks
of several sizes, on machines of three types in racks of forty. 1,000 tasks of 100 jobs are pending (100 of 20
at 100 machines). The reference (``scheduler.reference``) places the first 100 tasks of the same queue, in the
same process, at 100 and 1,000 machines. Compare ratios: absolute figures move with the machine. The reference
lets no users take turns and keeps no reasons, so that it does somewhat less.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

# Started as a script, Python looks for modules here first, and would take this file for the package `scheduler`.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

import numpy as np  # noqa: E402
from borgcell.resources import GIB, Resources, fits  # noqa: E402
from borgcell.specs import Constraint, Op  # noqa: E402
from borgcell.types import TaskKey  # noqa: E402

from scheduler import reference  # noqa: E402
from scheduler.cell import SchedulerCell  # noqa: E402
from scheduler.engine import plan_pass  # noqa: E402
from scheduler.model import Delta, MachineRow, PendingRow, PlacedRow, Shape  # noqa: E402
from scheduler.scoring import POLICIES  # noqa: E402

SIZES = (100, 1_000, 10_000)
REFERENCE_TASKS = {100: 100, 1_000: 100}  # the first of the queue
FULL_SHARES = (
    0.8,
    1.0,
)  # at 1.0 batch fillers hold what cpu is left
ROUNDS = 7
# (cpu_milli, ram GiB) of machines: the sizes of 2019's cells in spirit, three shapes with different balance.
MACHINE_TYPES = ((16_000, 64), (32_000, 64), (64_000, 256))
# (cpu_milli, ram GiB, priority, share): prod asks for more and holds most of the room (B15 §5.2).
LOAD = ((2_000, 8, 200, 0.5), (1_000, 2, 105, 0.3), (500, 4, 110, 0.1), (4_000, 4, 0, 0.1))
ARM = Constraint("arch", Op.EQUAL, "arm64")
NOT_OLD = Constraint("kernel", Op.GREATER_THAN_EQUAL, "6")
SSD = Constraint("ssd", Op.PRESENT, soft=True)
RUNTIME = Constraint("runtime.native", Op.PRESENT)


def make_machines(count: int, dice: np.random.Generator) -> list[MachineRow]:
    machines = []
    for number in range(count):
        cpu, ram = MACHINE_TYPES[int(dice.integers(len(MACHINE_TYPES)))]
        attributes = {
            "rack": f"r{number // 40}",
            "arch": "arm64" if dice.random() < 0.1 else "x86_64",
            "kernel": "5" if dice.random() < 0.3 else "6",
            "runtime.native": "1",
        }
        if dice.random() < 0.5:
            attributes["ssd"] = "1"
        capacity = Resources(cpu, ram * GIB, 1_000 * GIB, 1_000)
        machines.append(MachineRow(f"m{number}", capacity, attributes))
    return machines


def make_load(
    machines: list[MachineRow], full_share: float, dice: np.random.Generator
) -> list[PlacedRow]:
    placed: list[PlacedRow] = []
    shares = [share for *_, share in LOAD]

    def put(kind: int, machine: str, held: Resources, priority: int) -> None:
        key = TaskKey(f"user{kind}", f"load{len(placed) % 500}", len(placed))
        placed.append(PlacedRow(key, 1, machine, held, priority))

    for machine in machines:
        free = machine.capacity
        while used_share(machine.capacity, free) < full_share:
            kind = int(dice.choice(len(LOAD), p=shares))
            cpu, ram, priority, _ = LOAD[kind]
            held = Resources(cpu, ram * GIB)
            if not fits(held, free):
                break
            free -= held
            put(kind, machine.name, held, priority)
        if full_share == 1.0 and free.cpu_milli:
            put(1, machine.name, Resources(free.cpu_milli), 105)
    return placed


def used_share(capacity: Resources, free: Resources) -> float:
    return 1 - min(free.cpu_milli / capacity.cpu_milli, free.ram_bytes / capacity.ram_bytes)


def make_pending(jobs: int, tasks: int, dice: np.random.Generator) -> list[PendingRow]:
    pending = []
    for number in range(jobs):
        constraints: tuple[Constraint, ...] = (RUNTIME,)
        constraints += (ARM,) * (dice.random() < 0.1)
        constraints += (NOT_OLD,) * (dice.random() < 0.3)
        constraints += (SSD,) * (dice.random() < 0.2)
        shape = Shape(
            limit=Resources(
                int(dice.choice((250, 500, 1_000, 2_000))),
                int(dice.choice((1, 2, 4))) * GIB,
                10 * GIB,
                int(dice.integers(3)),
            ),
            priority=int(dice.choice((200, 210, 105, 100, 0))),
            constraints=constraints,
            max_per_machine=int(dice.choice((0, 0, 1, 2))),
        )
        user = f"user{number % 20}"
        pending.extend(
            PendingRow(TaskKey(user, f"job{number}", index), 1, shape, number)
            for index in range(tasks // jobs)
        )
    return pending


def measure(size: int, full_share: float) -> dict[str, float]:
    dice = np.random.default_rng(size)
    machines = make_machines(size, dice)
    placed = make_load(machines, full_share, dice)
    pending = make_pending(100, 1_000, dice) if size > 100 else make_pending(20, 100, dice)
    cell = SchedulerCell()
    started_s = time.perf_counter()
    cell.apply(Delta(1, tuple(machines), tuple(placed), tuple(pending)))
    load_s = time.perf_counter() - started_s
    times_s = []
    for seed in range(ROUNDS):
        started_s = time.perf_counter()
        plan = plan_pass(cell, seed=seed, now_ms=0)
        times_s.append(time.perf_counter() - started_s)
    found: dict[str, float] = {
        "machines": size,
        "full_share": full_share,
        "tasks_placed_before": len(placed),
        "tasks_pending": len(pending),
        "placements": len(plan.placements),
        "preempting": sum(bool(one.victims) for one in plan.placements),
        "unplaced": plan.unplaced_count,
        "load_s": round(load_s, 3),
        "pass_ms_median": round(1e3 * statistics.median(times_s), 2),
        "pass_ms_max": round(1e3 * max(times_s), 2),
        "placements_per_s": round(len(plan.placements) / statistics.median(times_s)),
    }
    if size in REFERENCE_TASKS:
        found |= measure_reference(size, machines, placed, pending)
        found["ratio"] = round(found["placements_per_s"] / found["reference_placements_per_s"], 1)
    return found


def measure_reference(
    size: int, machines: list[MachineRow], placed: list[PlacedRow], pending: list[PendingRow]
) -> dict[str, float]:
    world = reference.World({row.name: row for row in machines}, {row.key: row for row in placed})
    queue = sorted(pending, key=lambda row: (-row.shape.priority, row.submitted_at_ms, row.key))
    started_s = time.perf_counter()
    placements = reference.plan(world, queue[: REFERENCE_TASKS[size]], POLICIES["hybrid"])
    spent_s = time.perf_counter() - started_s
    return {
        "reference_tasks": REFERENCE_TASKS[size],
        "reference_s": round(spent_s, 2),
        "reference_placements_per_s": round(len(placements) / spent_s, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", metavar="FILE", help="write the results here as well")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="machines per cell")
    options = parser.parse_args()
    cases = [(size, share) for share in FULL_SHARES for size in options.sizes]
    results = []
    for done, (size, share) in enumerate(cases):
        show_progress(done, len(cases), f"{size} machines, {share:.0%} full")
        results.append(measure(size, share))
    show_progress(len(cases), len(cases), "done")
    report = {
        "benchmark": "scheduler",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "results": results,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        Path(options.json).write_text(text + "\n")


def show_progress(done: int, count: int, what: str) -> None:
    """One line on stderr, when somebody looks."""
    if sys.stderr.isatty():
        bar = "#" * (20 * done // count)
        end = "\n" if done == count else ""
        print(f"\r[{bar:<20}] {what:<28}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
