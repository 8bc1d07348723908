"""Owns the wire form of the link: assignments in, reports out."""

from collections.abc import Iterable

from borgcell import convert
from borgcell.convert import WireError
from borgcell.specs import TaskSpec
from borgcell.v1 import borglet_pb2, cell_pb2

from borglet.runtime.port import ContainerId
from borglet.values import Assignment, Desired, Facts, Status

STREAMS = {
    "stdout": cell_pb2.LOG_STREAM_STDOUT,
    "stderr": cell_pb2.LOG_STREAM_STDERR,
}


def assignment_from_wire(message: borglet_pb2.Assignment) -> Assignment:
    """A task whose spec this version does not understand stays in it, with its ``problem``."""
    return Assignment(
        term=message.term,
        revision=message.revision,
        tasks=tuple(_desired(task) for task in message.tasks),
        acknowledged=tuple(container_id(one.task, one.incarnation) for one in message.acknowledged),
    )


def container_id(task: cell_pb2.TaskKey, incarnation: int) -> ContainerId:
    """One attempt of a task."""
    return ContainerId(convert.task_key_from_wire(task), incarnation)


def _desired(message: borglet_pb2.DesiredTask) -> Desired:
    spec, problem = TaskSpec(), ""
    try:
        spec = convert.task_spec_from_wire(message.spec, "spec")
    except WireError as error:
        problem = f"this Borglet does not understand the task: {error}"
    return Desired(
        id=container_id(message.task, message.incarnation),
        spec=spec,
        ports=dict(sorted(message.ports.items())),
        priority=message.priority,
        stop=message.stop,
        problem=problem,
    )


def status_to_wire(status: Status) -> borglet_pb2.TaskReport:
    """Field by field; the end fields only for a task that ended."""
    report = borglet_pb2.TaskReport(
        task=convert.task_key_to_wire(status.id.task),
        incarnation=status.id.incarnation,
        phase=convert.TASK_PHASES[status.phase],
        detail=status.detail,
        healthy=status.healthy,
        at_ms=status.at_ms,
    )
    if status.end is not None:
        report.end = convert.END_KINDS[status.end]
        report.exit_code = status.exit_code
    return report


def facts_to_wire(facts: Facts) -> borglet_pb2.MachineFacts:
    """Field by field."""
    return borglet_pb2.MachineFacts(
        capacity=convert.resources_to_wire(facts.capacity),
        attributes=facts.attributes,
        port_first=facts.port_first,
        port_last=facts.port_last,
    )


def report_to_wire(
    *,
    sequence: int,
    full: bool,
    tasks: Iterable[Status],
    facts: Facts | None,
    revision: int,
    not_ready: str,
) -> borglet_pb2.LinkResponse:
    """A report; ``facts`` None when they are as they were."""
    report = borglet_pb2.Report(
        sequence=sequence,
        full=full,
        tasks=[status_to_wire(status) for status in tasks],
        facts=None if facts is None else facts_to_wire(facts),
        revision=revision,
        not_ready=not_ready,
    )
    return borglet_pb2.LinkResponse(report=report)
