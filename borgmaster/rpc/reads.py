"""Owns the answers to reads: each a function of the cell state (and of what the last scheduling pass said)."""

from collections.abc import Callable, Mapping
from typing import Final

from borgcell import convert
from borgcell.priority import BAND_FLOORS, Band, band_of
from borgcell.resources import Resources, total
from borgcell.types import JobKey, TaskKey, TaskState
from borgcell.v1 import cell_pb2

from borgmaster.rpc import keys, pages, render
from borgmaster.rpc.status import invalid, not_found
from borgmaster.state.cell import CellState
from borgmaster.state.events import Recorded
from borgmaster.state.model import Job, Task

EVENTS_DEFAULT: Final = 500
EVENTS_MAX: Final = 10_000
PendingReasons = Mapping[TaskKey, str]


def find_job(cell: CellState, key: JobKey) -> Job:
    """The job. Raises Refused NOT_FOUND."""
    job = cell.jobs.get(key)
    if job is None:
        raise not_found(f"there is no job {key}")
    return job


def find_task(cell: CellState, key: TaskKey) -> Task:
    """The task. Raises Refused NOT_FOUND, saying which indexes there are."""
    task = cell.tasks.get(key)
    if task is None:
        job = find_job(cell, key.job_key)
        raise not_found(
            f"there is no task {key}: job {job.key} has indexes 0 to {job.spec.task_count - 1}"
        )
    return task


def get_job(cell: CellState, request: cell_pb2.GetJobRequest) -> cell_pb2.GetJobResponse:
    """One job."""
    job = find_job(cell, keys.job_key(request.job))
    return cell_pb2.GetJobResponse(job=render.job(cell, job))


def list_jobs(cell: CellState, request: cell_pb2.ListJobsRequest) -> cell_pb2.ListJobsResponse:
    """A page of jobs."""
    labels = pages.selector("selector", request.selector)

    def wanted(key: JobKey) -> bool:
        job = cell.jobs[key]
        return (
            (not request.user or key.user == request.user)
            and (request.include_ended or not job.ended)
            and pages.selected(job.spec.labels, labels)
        )

    rows, token = pages.page(
        sorted(cell.jobs),
        size=request.page_size,
        token=request.page_token,
        parse=JobKey.parse,
        wanted=wanted,
    )
    return cell_pb2.ListJobsResponse(
        jobs=[render.job(cell, cell.jobs[key]) for key in rows], next_page_token=token
    )


def get_task(
    cell: CellState, request: cell_pb2.GetTaskRequest, reasons: PendingReasons
) -> cell_pb2.GetTaskResponse:
    """One task, with the spec of its current incarnation."""
    task = find_task(cell, keys.task_key(request.task))
    spec = cell.jobs[task.key.job_key].task_spec(task.current.version, task.key.index)
    return cell_pb2.GetTaskResponse(
        task=render.task(task, pending_reason=reasons.get(task.key, "")),
        spec=convert.task_spec_to_wire(spec),
    )


def list_tasks(
    cell: CellState, request: cell_pb2.ListTasksRequest, reasons: PendingReasons
) -> cell_pb2.ListTasksResponse:
    """A page of tasks."""
    names = {number: state for state, number in convert.TASK_STATES.items()}
    for position, number in enumerate(request.states):
        if number not in names:
            raise invalid(f"states[{position}]", f"{number} is not a task state")
    states = {names[number] for number in request.states}
    if request.HasField("job"):
        job = find_job(cell, keys.job_key(request.job))
        candidates = [task.key for task in cell.tasks_of(job.key)]
    elif request.machine:
        name = keys.machine_name(request.machine, "machine")
        candidates = [task.key for task in cell.tasks_on(name)]
    else:
        candidates = sorted(cell.tasks)

    def wanted(key: TaskKey) -> bool:
        task = cell.tasks[key]
        return (not request.machine or task.machine == request.machine) and (
            not states or task.state in states
        )

    rows, token = pages.page(
        candidates,
        size=request.page_size,
        token=request.page_token,
        parse=TaskKey.parse,
        wanted=wanted,
    )
    return cell_pb2.ListTasksResponse(
        tasks=[render.task(cell.tasks[key], pending_reason=reasons.get(key, "")) for key in rows],
        next_page_token=token,
    )


def get_machine(
    cell: CellState, request: cell_pb2.GetMachineRequest
) -> cell_pb2.GetMachineResponse:
    """One machine."""
    machine = cell.machines.get(keys.machine_name(request.name))
    if machine is None:
        raise not_found(f"there is no machine {request.name}")
    return cell_pb2.GetMachineResponse(machine=render.machine(cell, machine))


def list_machines(
    cell: CellState, request: cell_pb2.ListMachinesRequest
) -> cell_pb2.ListMachinesResponse:
    """A page of machines."""
    attributes = pages.selector("selector", request.selector)
    rows, token = pages.page(
        sorted(cell.machines),
        size=request.page_size,
        token=request.page_token,
        parse=str,
        wanted=lambda name: pages.selected(cell.machines[name].attributes, attributes),
    )
    return cell_pb2.ListMachinesResponse(
        machines=[render.machine(cell, cell.machines[name]) for name in rows],
        next_page_token=token,
    )


def summary(cell: CellState) -> cell_pb2.GetCellStatusResponse:
    """The part of the cell status that comes from the state."""
    machines = cell.machines.values()
    return cell_pb2.GetCellStatusResponse(
        cell=cell.name,
        applied_index=cell.applied_index,
        machines_up=sum(machine.up for machine in machines),
        machines_down=sum(not machine.up for machine in machines),
        machines_draining=sum(machine.draining for machine in machines),
        jobs=sum(not job.ended for job in cell.jobs.values()),
        tasks=render.counts(cell.tasks.values()),
        capacity=convert.resources_to_wire(
            total(machine.capacity for machine in machines if machine.up)
        ),
        bands=_bands(cell),
    )


def _bands(cell: CellState) -> list[cell_pb2.BandUsage]:
    limits: dict[Band, list[Resources]] = {band: [] for band, _ in BAND_FLOORS}
    pending = dict.fromkeys(limits, 0)
    for task in cell.tasks.values():
        if task.machine:
            limits[band_of(task.priority)].append(task.limit)
        elif task.state is TaskState.PENDING:
            pending[band_of(task.priority)] += 1
    return [
        cell_pb2.BandUsage(
            band=convert.BANDS[band],
            limit=convert.resources_to_wire(total(placed)),
            placed=len(placed),
            pending=pending[band],
        )
        for band, placed in limits.items()
    ]


def concerns(key: str) -> Callable[[Recorded], bool]:
    """Whether a line of the history is about a task, a job and its tasks, or a machine and the tasks on it."""
    if not key:
        return lambda _: True
    inside = f"{key}/"
    return lambda line: line.key == key or line.key.startswith(inside) or line.note.machine == key


def list_events(
    cell: CellState, request: cell_pb2.ListEventsRequest
) -> cell_pb2.ListEventsResponse:
    """The latest matching events, oldest first."""
    if not 0 <= request.limit <= EVENTS_MAX:
        raise invalid("limit", f"{request.limit} is not in 0..{EVENTS_MAX}")
    limit = request.limit or EVENTS_DEFAULT
    is_wanted = concerns(request.key)
    found: list[Recorded] = []
    for line in reversed(cell.history):
        if line.sequence <= request.after_sequence or len(found) == limit:
            break
        if is_wanted(line):
            found.append(line)
    oldest = cell.history[0].sequence if cell.history else cell.sequence + 1
    return cell_pb2.ListEventsResponse(
        events=[render.event(line) for line in reversed(found)],
        truncated=len(found) == limit or oldest > request.after_sequence + 1,
    )


def summarize(task: Task, job: Job, now_ms: int) -> str:
    """Where a task stands and why, in a sentence or two, from the state alone."""
    current = task.current
    where = f"on {current.machine}" if current.machine else ""
    match task.state:
        case TaskState.PENDING if task.not_before_ms > now_ms:
            wait_s = (task.not_before_ms - now_ms + 999) // 1000
            last = task.finished[-1].detail if task.finished else ""
            because = f" ({last})" if last else ""
            return f"backs off for {wait_s} s more after {task.failures} failures in a row{because}"
        case TaskState.PENDING:
            return "waits for the scheduler"
        case TaskState.ASSIGNED:
            return f"assigned {where}; its Borglet has not reported it yet"
        case TaskState.STARTING:
            return f"starting {where}; not healthy yet" + _detail(current.detail)
        case TaskState.RUNNING:
            return f"running {where}" + ("" if task.healthy else ", but its health check fails")
        case TaskState.STOPPING:
            reason = task.stopping.detail if task.stopping else ""
            return f"stopping {where}" + _detail(reason)
        case TaskState.PARTITIONED:
            return f"its machine {current.machine} does not answer; it may or may not run there"
        case TaskState.DEAD:
            how = current.end_reason.value.lower() if current.end_reason else "ended"
            who = f"job {job.key} has ended; " if job.ended else ""
            return f"{who}{how}" + _detail(current.detail)


def _detail(text: str) -> str:
    return f": {text}" if text else ""
