"""Replicas agree whatever the order of their sets: one life, several PYTHONHASHSEEDs, the same events and digest.

The event log is compared, not only the final state: an unsorted set shows there first (STYLE §4.8).
"""

import os
import random
import subprocess
import sys
from pathlib import Path

from borgcell.resources import GIB, Resources
from borgcell.types import EndKind, EvictionCause, TaskPhase, TaskState

from borgmaster.controllers.drain import reconcile_drains
from borgmaster.controllers.liveness import reconcile_liveness
from borgmaster.controllers.update import reconcile_updates
from borgmaster.state.checkpoint import digest
from borgmaster.state.commands import (
    EvictTasks,
    KillJob,
    MarkMachine,
    Placed,
    PlaceTasks,
    RemoveMachine,
    Reported,
    ReportTasks,
    SetDraining,
    SubmitJob,
)
from tests.helpers.builders import World, a_batch_spec, a_limit, a_spec, a_task_spec

ROOT = Path(__file__).resolve().parents[2]
MACHINES = [f"m{number}" for number in range(8)]
STEPS = 150


def live(seed: int) -> World:
    """A life in which many tasks move at once, so that an order that is left to chance shows."""
    dice = random.Random(seed)
    world = World()
    for name in MACHINES:
        world.add_machine(
            name,
            capacity=Resources(6_000, 16 * GIB),
            attributes={"rack": f"r{dice.randrange(3)}"},
            port_last=20_007,
        )
    for _ in range(STEPS):
        world.wait(dice.randrange(20_000))
        if commands := draw(dice, world):
            world.run(*commands)
    return world


def draw(dice, world):
    cell = world.cell
    tasks = [cell.tasks[key] for key in sorted(cell.tasks)]
    pending = [task for task in tasks if task.state is TaskState.PENDING]
    machine = dice.choice(MACHINES)
    here = cell.tasks_on(machine)
    match dice.randrange(9):
        case 0:
            spec = dice.choice((a_spec, a_batch_spec))
            task = a_task_spec(ports=("p", "q")[: dice.randrange(3)], limit=a_limit(500))
            count = dice.randrange(1, 12)
            return [SubmitJob(spec(task_count=count, max_per_rack=4, max_failures=1, task=task))]
        case 1 | 2 | 3:
            names = [dice.choice(MACHINES) for _ in pending]
            placements = [
                Placed(task.key, task.current.number, name)
                for task, name in zip(pending, names, strict=True)
            ]
            victims = tuple((t.key, t.current.number) for t in here if t.priority == 100)
            first = [Placed(t.key, t.current.number, machine, victims) for t in pending[:1]]
            return [PlaceTasks(tuple(first + placements))]
        case 4:
            end = dice.choice(list(EndKind))
            reports = (Reported(t.key, t.current.number, TaskPhase.ENDED, end, 1) for t in here[:4])
            return [ReportTasks(machine, tuple(reports))]
        case 5:
            return [
                ReportTasks(
                    name,
                    tuple(
                        Reported(t.key, t.current.number, TaskPhase.RUNNING, healthy=True)
                        for t in cell.tasks_on(name)
                    ),
                )
                for name in MACHINES
                if name in cell.machines
            ]
        case 6:
            return [
                *reconcile_liveness(
                    cell,
                    world.now_ms,
                    heard_ms={name: 90_000 for name in MACHINES if name != machine},
                    mono_ms=95_000,
                    leading_since_ms=0,
                ),
                *reconcile_drains(cell, world.now_ms),
                *reconcile_updates(cell, world.now_ms),
            ]
        case 7:
            evicted = tuple((t.key, t.current.number) for t in here)
            return [SetDraining(machine, dice.random() < 0.3), MarkMachine(machine, up=True)] + (
                [EvictTasks(evicted, EvictionCause.MAINTENANCE)] if dice.random() < 0.3 else []
            )
        case _:
            kill = [KillJob(task.key.job_key) for task in tasks[:1] if dice.random() < 0.2]
            if dice.random() < 0.2:
                facts = world.cell.machines[machine]
                world.run(RemoveMachine(machine, force=True))
                world.add_machine(
                    machine, capacity=facts.capacity, attributes=facts.attributes, port_last=20_007
                )
            return [*kill, MarkMachine(machine, up=False)]


def tell(seed: int) -> str:
    """The life as text: every line of its history, and the digest."""
    world = live(seed)
    lines = [repr(line) for line in world.cell.history]
    return "\n".join([*lines, digest(world.cell)])


def test_replicas_with_other_hash_seeds_tell_the_same_history():
    code = "from tests.prop.test_state_determinism import tell\nfor s in range(3): print(tell(s))"
    told = set()
    for hash_seed in ("0", "1", "2", "3"):
        path = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        told.add(done.stdout)
    assert len(told) == 1
    (history,) = told
    for kind in ("SCHEDULE", "LOST", "EVICT", "FAIL", "PARTITION", "UPDATE_RUNNING", "preemption"):
        assert kind in history, f"no {kind} in these lives: they show less than they should"
