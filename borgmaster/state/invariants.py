"""Owns what must hold of a cell after every step, for tests and for a replica that doubts itself.

Cost: every task once. Nothing here repairs anything.
"""

from collections.abc import Iterator
from itertools import pairwise

from borgcell.resources import total
from borgcell.types import PLACED_STATES, EndReason, TaskState

from borgmaster.state.cell import HISTORY_MAX, REQUESTS_MAX, RETIRED_MAX, CellState, exceeds
from borgmaster.state.indexes import TaskIndexes
from borgmaster.state.model import FINISHED_KEPT_MAX, Job, Task


def check(cell: CellState) -> list[str]:
    """Everything that is wrong with a cell; empty when it is sound."""
    return [
        *_index_faults(cell),
        *(fault for key in sorted(cell.tasks) for fault in _task_faults(cell, cell.tasks[key])),
        *(fault for key in sorted(cell.jobs) for fault in _job_faults(cell, cell.jobs[key])),
        *(fault for name in sorted(cell.machines) for fault in _machine_faults(cell, name)),
        *_history_faults(cell),
        *_bound_faults(cell),
    ]


def _index_faults(cell: CellState) -> Iterator[str]:
    rebuilt = TaskIndexes()
    for task in cell.tasks.values():
        rebuilt.put(None, task)
    for name in TaskIndexes.__slots__:
        kept, right = getattr(cell.indexes, name), getattr(rebuilt, name)
        if kept != right:
            yield f"index {name} is {kept}, but the tasks say {right}"
    for key, task in cell.tasks.items():
        if task.key != key:
            yield f"task {task.key} is stored as {key}"


def _task_faults(cell: CellState, task: Task) -> Iterator[str]:
    job, current = cell.jobs.get(task.key.job_key), task.current
    if job is None:
        yield f"{task.key} has no job"
        return
    yield from _state_faults(cell, task)
    yield from _stopping_faults(job, task)
    if current.version != job.version and current.version not in job.older:
        yield f"{task.key} runs version {current.version}, which {job.key} does not have"
        return
    if task.state is TaskState.PENDING and current.version != job.version:
        yield f"{task.key} waits for version {current.version} of {job.version}"
    if task.state is not TaskState.DEAD and (task.limit, task.priority) != (
        job.task_spec(current.version, task.key.index).limit,
        job.spec_at(current.version).priority,
    ):
        yield f"{task.key} has another limit or priority than its version"
    numbers = [past.number for past in task.finished] + [current.number]
    if any(after <= before for before, after in pairwise(numbers)):
        yield f"{task.key} has incarnations {numbers}, which do not grow"
    if len(task.finished) > FINISHED_KEPT_MAX:
        yield f"{task.key} keeps {len(task.finished)} finished incarnations"
    if any(past.end_reason is None for past in task.finished):
        yield f"{task.key} keeps a finished incarnation without an end"


def _state_faults(cell: CellState, task: Task) -> Iterator[str]:
    current, state = task.current, task.state
    if state in PLACED_STATES:
        if current.machine not in cell.machines:
            yield f"{task.key} is {state} on {current.machine!r}, which the cell does not have"
        elif not cell.machines[current.machine].up and state is not TaskState.PARTITIONED:
            yield f"{task.key} is {state} on {current.machine}, which is down"
        if len(current.ports) != task.limit.ports:
            yield f"{task.key} holds {task.limit.ports} ports but was given {current.ports}"
    if state is TaskState.PENDING and (current.machine or current.ports):
        yield f"{task.key} is PENDING, but has a machine or ports"
    if (state is TaskState.DEAD) != (current.end_reason is not None):
        yield f"{task.key} is {state} with end reason {current.end_reason}"
    if task.healthy and state is not TaskState.RUNNING:
        yield f"{task.key} is healthy, but {state}"
    if state is TaskState.RUNNING and not current.running_at_ms:
        yield f"{task.key} is RUNNING since never"
    if current.submitted_at_ms > cell.now_ms:
        yield f"{task.key} was submitted in the future"


def _stopping_faults(job: Job, task: Task) -> Iterator[str]:
    stopping, state = task.stopping, task.state
    if state is TaskState.STOPPING and stopping is None:
        yield f"{task.key} is STOPPING for no reason"
    if stopping is None:
        if job.ended and state is not TaskState.DEAD:
            yield f"{task.key} is {state}, but {job.key} has ended"
        if task.key.index >= job.spec.task_count:
            yield f"{task.key} is {state}, but {job.key} has {job.spec.task_count} tasks"
        return
    if state not in (TaskState.STOPPING, TaskState.PARTITIONED):
        yield f"{task.key} is {state} and being stopped"
    if stopping.reason not in (EndReason.KILLED, EndReason.EVICTED):
        yield f"{task.key} is stopped to be {stopping.reason}"
    if (stopping.reason is EndReason.EVICTED) != (stopping.cause is not None):
        yield f"{task.key} is stopped as {stopping.reason} with cause {stopping.cause}"
    if stopping.resubmit and (job.ended or task.key.index >= job.spec.task_count):
        yield f"{task.key} would come back, but nobody wants it"


def _job_faults(cell: CellState, job: Job) -> Iterator[str]:
    used = cell.indexes.versions.get(job.key, {})
    for version in job.older:
        if version not in used:
            yield f"{job.key} keeps version {version}, which no task is at"
        if version >= job.version:
            yield f"{job.key} is at version {job.version} and calls {version} older"
    indexes = cell.indexes.by_job.get(job.key, set())
    if missing := sorted(set(range(job.spec.task_count)) - indexes):
        yield f"{job.key} lacks tasks {missing[:5]}"
    if job.ended != (job.ended_at_ms > 0):
        yield f"{job.key}: ended {job.ended} at {job.ended_at_ms}"
    if job.is_batch and not job.ended and cell.indexes.live_count(job.key) == 0:
        yield f"{job.key} is a batch job whose tasks are all dead, but has not ended"


def _machine_faults(cell: CellState, name: str) -> Iterator[str]:
    machine, tasks = cell.machines[name], cell.tasks_on(name)
    held = total(task.held for task in tasks)
    is_over = exceeds(held, machine.capacity)
    if is_over != (name in cell.shrunk):
        yield f"{name} offers {machine.capacity}, its tasks hold {held}; shrunk: {name in cell.shrunk}"
    if machine.capacity.ports != max(0, machine.port_last - machine.port_first + 1):
        yield f"{name} offers {machine.capacity.ports} ports, which is not the size of its range"
    users: dict[int, Task] = {}
    for task in tasks:
        if task.stopping is not None:
            continue
        for port in task.current.ports.values():
            if port in users:
                yield f"port {port} of {name} is given to {users[port].key} and {task.key}"
            users[port] = task


def _history_faults(cell: CellState) -> Iterator[str]:
    sequences = [recorded.sequence for recorded in cell.history]
    if sequences and sequences[-1] != cell.sequence:
        yield f"the history ends at {sequences[-1]}, but the sequence is {cell.sequence}"
    if any(after != before + 1 for before, after in pairwise(sequences)):
        yield "the history has gaps"
    if cell.history and cell.history[-1].at_ms > cell.now_ms:
        yield "the history ends in the future"


def _bound_faults(cell: CellState) -> Iterator[str]:
    for name, count, bound in (
        ("history", len(cell.history), HISTORY_MAX),
        ("requests", len(cell.requests), REQUESTS_MAX),
        ("retired", len(cell.retired), RETIRED_MAX),
    ):
        if count > bound:
            yield f"{name} holds {count}, more than {bound}"
    times = [at_ms for at_ms, _ in cell.requests.values()]
    if any(after < before for before, after in pairwise(times)):
        yield "the requests are not in the order of their times"
    for name in sorted(cell.shrunk - cell.machines.keys()):
        yield f"{name} is shrunk, but not a machine"
