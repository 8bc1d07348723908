"""Owns what silence of machines means: marked down first, and later their tasks are given up (B15 §3.3, §4).

Two clocks: silence is measured by the leader's monotonic clock, so that neither a jump of the wall clock nor a
new leader takes a machine for silent; how long a machine has been down is cell time, so that it survives failover.
"""

from collections.abc import Mapping
from typing import Final

from borgcell.types import TaskKey, TaskState

from borgmaster.state.cell import CellState
from borgmaster.state.commands import Command, LoseTasks, MarkMachine

UNREACHABLE_AFTER_MS: Final = 10_000  # five polls of 2 s: "several poll messages" (B15 §3.3)
LOST_AFTER_MS: Final = 30_000
MARKS_MAX: Final = 500  # machines marked per call
LOSSES_MAX: Final = (
    100  # tasks given up per call: nobody can tell mass failure from partition (B15 §4)
)


def reconcile_liveness(
    cell: CellState,
    now_ms: int,
    *,
    heard_ms: Mapping[str, int],
    mono_ms: int,
    leading_since_ms: int,
    unreachable_after_ms: int = UNREACHABLE_AFTER_MS,
    lost_after_ms: int = LOST_AFTER_MS,
    losses_max: int = LOSSES_MAX,
) -> list[Command]:
    """Mark silent machines down, and give up the tasks of those down for long. Links mark them up again.

    ``heard_ms`` and ``leading_since_ms`` are in the clock of ``mono_ms``; a machine that this leader never
    heard counts as heard when it took office.
    """
    silent = {
        name
        for name in cell.machines
        if mono_ms - max(heard_ms.get(name, leading_since_ms), leading_since_ms)
        >= unreachable_after_ms
    }
    fallen = [name for name in sorted(cell.machines) if cell.machines[name].up and name in silent]
    commands: list[Command] = [MarkMachine(name, up=False) for name in fallen[:MARKS_MAX]]
    if is_half_dark(cell, silent):
        return commands
    losses = _losses(cell, silent, max(now_ms, cell.now_ms) - lost_after_ms)
    if losses:
        commands.append(LoseTasks(tuple(losses[:losses_max])))
    return commands


def is_half_dark(cell: CellState, silent: set[str]) -> bool:
    """Whether more than half of the machines are down or silent: then it may be us who are cut off.

    Machines that were never heard, and drained ones that somebody switched off, do not count on either side.
    Small cells need no exception: of two machines one may be given up, and the last one never, as its tasks
    could not run anywhere else.
    """
    counted = dark = 0
    for name, machine in cell.machines.items():
        is_dark = not machine.up or name in silent
        was_heard = machine.up or machine.capacity.cpu_milli > 0
        is_away = is_dark and machine.draining and name not in cell.indexes.by_machine
        if was_heard and not is_away:
            counted += 1
            dark += is_dark
    return dark * 2 > counted


def _losses(cell: CellState, silent: set[str], down_before_ms: int) -> list[tuple[TaskKey, int]]:
    """Tasks to give up, the most important first; their machines are down for long and still silent."""
    tasks = [
        task
        for name, machine in cell.machines.items()
        if not machine.up and name in silent and machine.since_ms <= down_before_ms
        for task in cell.tasks_on(name)
        if task.state is TaskState.PARTITIONED
    ]
    tasks.sort(key=lambda task: (-task.priority, task.key))
    return [(task.key, task.current.number) for task in tasks]
