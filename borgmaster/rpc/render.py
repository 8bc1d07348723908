"""Owns how cell state looks on the wire: values of the core to messages of the API."""

from collections.abc import Iterable

from borgcell import convert
from borgcell.types import EndReason, EvictionCause, TaskState
from borgcell.v1 import cell_pb2, types_pb2

from borgmaster.state.cell import CellState
from borgmaster.state.events import Recorded
from borgmaster.state.model import Incarnation, Job, Machine, Task


def incarnation(value: Incarnation) -> types_pb2.Incarnation:
    """Field by field."""
    return types_pb2.Incarnation(
        number=value.number,
        version=value.version,
        machine=value.machine,
        ports=value.ports,
        submitted_at_ms=value.submitted_at_ms,
        scheduled_at_ms=value.scheduled_at_ms,
        running_at_ms=value.running_at_ms,
        ended_at_ms=value.ended_at_ms,
        end_reason=convert.END_REASONS[value.end_reason]
        if value.end_reason
        else types_pb2.END_REASON_UNSPECIFIED,
        cause=_cause(value.cause),
        exit_code=value.exit_code,
        detail=value.detail,
    )


def _cause(value: EvictionCause | None) -> types_pb2.EvictionCause.ValueType:
    return convert.EVICTION_CAUSES[value] if value else types_pb2.EVICTION_CAUSE_UNSPECIFIED


def task(value: Task, *, pending_reason: str = "") -> types_pb2.Task:
    """A task; for a pending one the reason comes from the last scheduling pass."""
    return types_pb2.Task(
        user=value.key.user,
        job=value.key.job,
        index=value.key.index,
        state=convert.TASK_STATES[value.state],
        current=incarnation(value.current),
        finished=[incarnation(one) for one in value.finished],
        failures=value.failures,
        not_before_ms=value.not_before_ms,
        priority=value.priority,
        limit=convert.resources_to_wire(value.limit),
        pending_reason=pending_reason if value.state is TaskState.PENDING else "",
        healthy=value.healthy,
    )


def counts(tasks: Iterable[Task]) -> types_pb2.TaskCounts:
    """Tasks by what people call their state."""
    result = types_pb2.TaskCounts()
    for one in tasks:
        match one.state:
            case TaskState.PENDING:
                result.pending += 1
            case TaskState.ASSIGNED | TaskState.STARTING:
                result.starting += 1
            case TaskState.RUNNING:
                result.running += 1
            case TaskState.STOPPING:
                result.stopping += 1
            case TaskState.PARTITIONED:
                result.partitioned += 1
            case TaskState.DEAD if one.current.end_reason is EndReason.FINISHED:
                result.finished += 1
            case TaskState.DEAD:
                result.dead += 1
    return result


def job(cell: CellState, value: Job) -> types_pb2.Job:
    """A job with its tasks counted."""
    tasks = cell.tasks_of(value.key)
    return types_pb2.Job(
        spec=convert.job_spec_to_wire(value.spec),
        version=value.version,
        ended=value.ended,
        created_at_ms=value.created_at_ms,
        updated_at_ms=value.updated_at_ms,
        counts=counts(tasks),
        outdated=sum(
            one.current.version != value.version for one in tasks if one.state is not TaskState.DEAD
        ),
    )


def machine(cell: CellState, value: Machine) -> types_pb2.Machine:
    """A machine with what its tasks hold."""
    return types_pb2.Machine(
        name=value.name,
        address=value.address,
        state=types_pb2.MACHINE_STATE_UP if value.up else types_pb2.MACHINE_STATE_DOWN,
        draining=value.draining,
        capacity=convert.resources_to_wire(value.capacity),
        used=convert.resources_to_wire(cell.held_on(value.name)),
        attributes=value.attributes,
        port_first=value.port_first,
        port_last=value.port_last,
        task_count=len(cell.indexes.by_machine.get(value.name, ())),
        since_ms=value.since_ms,
        detail=value.detail,
    )


def event(value: Recorded) -> cell_pb2.Event:
    """A line of the history."""
    note = value.note
    return cell_pb2.Event(
        index=value.index,
        at_ms=value.at_ms,
        kind=note.kind.value,
        subject=value.subject,
        key=value.key,
        incarnation=note.incarnation,
        machine=note.machine,
        cause=_cause(note.cause),
        counterpart=note.counterpart,
        detail=note.detail,
        exit_code=note.exit_code,
        sequence=value.sequence,
    )
