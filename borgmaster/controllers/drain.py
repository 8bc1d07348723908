"""Owns how draining machines are emptied: few tasks of a service at a time (B15 §4), batch tasks as they come."""

from typing import Final

from borgcell.types import EndReason, EvictionCause, JobKey, TaskKey, TaskState

from borgmaster.state.cell import CellState
from borgmaster.state.commands import Command, EvictTasks
from borgmaster.state.model import Task

EVICTIONS_MAX: Final = 100  # per call
DISRUPTED_SHARE: Final = (
    10  # of a service, at most one in so many tasks is moved at a time, and always one
)

_MOVABLE: Final = frozenset({TaskState.ASSIGNED, TaskState.STARTING, TaskState.RUNNING})


def reconcile_drains(cell: CellState, now_ms: int) -> list[Command]:
    """Evict what may be evicted now from the machines that are draining, one command per machine."""
    del now_ms  # draining waits for no time
    commands: list[Command] = []
    room = EVICTIONS_MAX
    budgets: dict[JobKey, int] = {}
    for name in sorted(cell.machines):
        if not cell.machines[name].draining or room == 0:
            continue
        chosen: list[tuple[TaskKey, int]] = []
        for task in cell.tasks_on(name):
            if task.state in _MOVABLE and len(chosen) < room and _take(cell, budgets, task):
                chosen.append((task.key, task.current.number))
        if chosen:
            room -= len(chosen)
            detail = f"{name} is draining"
            commands.append(EvictTasks(tuple(chosen), EvictionCause.MAINTENANCE, detail))
    return commands


def _take(cell: CellState, budgets: dict[JobKey, int], task: Task) -> bool:
    """Use one eviction of the task's job, if it has one left."""
    job = cell.jobs[task.key.job_key]
    if job.is_batch:
        return True
    if job.key not in budgets:
        budgets[job.key] = _budget(cell, job.key)
    budgets[job.key] -= 1
    return budgets[job.key] >= 0


def _budget(cell: CellState, job: JobKey) -> int:
    tasks = cell.tasks_of(job)
    moving = sum(_is_moving(task) for task in tasks)
    return max(1, cell.indexes.live_count(job) // DISRUPTED_SHARE) - moving


def _is_moving(task: Task) -> bool:
    """Whether it was evicted for maintenance and is not back yet.

    Tasks that are down for other reasons do not count, or a job that cannot run would block the drain for ever.
    """
    if task.stopping is not None:
        return task.stopping.cause is EvictionCause.MAINTENANCE
    if task.state in (TaskState.RUNNING, TaskState.DEAD) or not task.finished:
        return False
    last = task.finished[-1]
    return last.end_reason is EndReason.EVICTED and last.cause is EvictionCause.MAINTENANCE
