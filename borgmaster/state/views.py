"""Owns questions about a cell that several parts ask. Pure, and no answer keeps the cell."""

from borgcell.resources import Resources, total
from borgcell.specs import TaskSpec
from borgcell.types import TaskKey, TaskState

from borgmaster.state.cell import CellState
from borgmaster.state.model import Task


def desired_tasks(cell: CellState, machine: str) -> tuple[tuple[Task, TaskSpec], ...]:
    """What a machine should run or stop (those with ``stopping``), by key; empty for an unknown machine."""
    return tuple(
        (task, cell.spec_of(task).task_spec(task.key.index)) for task in cell.tasks_on(machine)
    )


def machine_used(cell: CellState, machine: str) -> Resources:
    """The limits of all tasks on a machine, those whose room is given away included: what may really run there."""
    return total(task.limit for task in cell.tasks_on(machine))


def state_counts(cell: CellState) -> dict[TaskState, int]:
    """How many tasks are in each state, all states present."""
    return {state: cell.indexes.counts.get(state, 0) for state in TaskState}


def why_summary(cell: CellState, key: TaskKey, now_ms: int) -> str:
    """One sentence on why a task is where it is; "" when there is no such task.

    Why the scheduler finds no machine is not known here: it knows.
    """
    task = cell.tasks.get(key)
    if task is None:
        return ""
    current = task.current
    match task.state:
        case TaskState.PENDING:
            wait_ms = task.not_before_ms - now_ms
            if wait_ms > 0:
                last = task.finished[-1].detail if task.finished else ""
                return f"waits {-(-wait_ms // 1000)} s before it is tried again: {last}"
            return "waits for a machine"
        case TaskState.ASSIGNED:
            return f"assigned to {current.machine}, which has not started it yet"
        case TaskState.STARTING:
            return f"starting on {current.machine}"
        case TaskState.RUNNING:
            return f"runs on {current.machine}" + ("" if task.healthy else ", but is unhealthy")
        case TaskState.STOPPING:
            assert task.stopping is not None, f"{key} is STOPPING for no reason"
            return f"stopping on {current.machine}: {task.stopping.detail or task.stopping.reason}"
        case TaskState.PARTITIONED:
            return f"{current.machine} does not answer; the task may still run there"
        case TaskState.DEAD:
            reason = (current.end_reason or "ended").lower()
            return reason if current.detail in ("", reason) else f"{reason}: {current.detail}"
