"""Owns rolling updates: tasks that must restart for their job's version do so a few at a time.

Nothing about an update in flight is remembered: which tasks run an older version, and which are down, is state.
"""

from typing import Final

from borgcell.types import TaskState

from borgmaster.state.cell import CellState
from borgmaster.state.commands import Command, UpdateTasks
from borgmaster.state.model import Job, Task

UPDATES_MAX: Final = 500  # tasks per call

_RESTARTABLE: Final = frozenset({TaskState.ASSIGNED, TaskState.STARTING, TaskState.RUNNING})


def reconcile_updates(cell: CellState, now_ms: int) -> list[Command]:
    """Restart what may be restarted now, one command per job, the lowest indexes first."""
    del now_ms  # health is state, and waits for no time here
    commands: list[Command] = []
    room = UPDATES_MAX
    for key in sorted(cell.jobs):
        job = cell.jobs[key]
        if not job.older or job.ended or room == 0:
            continue
        tasks = _next_tasks(job, cell.tasks_of(key))[:room]
        if tasks:
            room -= len(tasks)
            commands.append(UpdateTasks(tuple((task.key, task.current.number) for task in tasks)))
    return commands


def _next_tasks(job: Job, tasks: list[Task]) -> list[Task]:
    """The tasks to restart now, so that no more than ``max_in_flight`` of the job are down because of it.

    A healthy task is taken down only while fewer than that are down for whatever reason. A task of the older
    version that is down already goes first, and waits only for those of the new version: otherwise a job whose
    old version never became healthy could not be repaired by an update.
    """
    live = [task for task in tasks if task.state is not TaskState.DEAD]
    down = [task for task in live if not _is_good(task)]
    outdated = [
        task
        for task in live
        if task.current.version != job.version
        and task.stopping is None
        and task.state in _RESTARTABLE
    ]
    ill = [task for task in outdated if not _is_good(task)]
    well = [task for task in outdated if _is_good(task)]
    room_max = job.spec.update.max_in_flight
    in_flight = len(down) - len(ill)
    first = ill[: max(0, room_max - in_flight)]
    return [*first, *well[: max(0, room_max - len(down))]]


def _is_good(task: Task) -> bool:
    return task.state is TaskState.RUNNING and task.healthy
