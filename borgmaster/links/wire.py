"""Owns the wire form of the link between master and Borglet."""

from borgcell import convert
from borgcell.specs import TaskSpec
from borgcell.types import TaskKey, TaskPhase, TaskState
from borgcell.v1 import borglet_pb2

from borgmaster.state.commands import Reported, SetMachineFacts
from borgmaster.state.model import Task


def desired_task(task: Task, spec: TaskSpec) -> borglet_pb2.DesiredTask:
    """What a machine is told of one of its tasks."""
    return borglet_pb2.DesiredTask(
        task=convert.task_key_to_wire(task.key),
        incarnation=task.current.number,
        spec=convert.task_spec_to_wire(spec),
        ports=task.current.ports,
        priority=task.priority,
        # a task being stopped stays so while its machine is unreachable
        stop=task.state is TaskState.STOPPING or task.stopping is not None,
    )


def incarnation_message(key: TaskKey, number: int) -> borglet_pb2.TaskIncarnation:
    """Names one attempt."""
    return borglet_pb2.TaskIncarnation(task=convert.task_key_to_wire(key), incarnation=number)


def reported(message: borglet_pb2.TaskReport) -> Reported:
    """What a Borglet says of a task. Raises WireError for enums that this version does not know."""
    phase = convert.enum_from_wire(convert.TASK_PHASES, message.phase, "phase")
    end = (
        convert.enum_from_wire(convert.END_KINDS, message.end, "end")
        if phase is TaskPhase.ENDED
        else None
    )
    return Reported(
        task=convert.task_key_from_wire(message.task),
        incarnation=message.incarnation,
        phase=phase,
        end=end,
        exit_code=message.exit_code if end is not None else -1,
        detail=message.detail,
        healthy=message.healthy,
    )


def machine_facts(name: str, report: borglet_pb2.Report) -> SetMachineFacts:
    """What a Borglet says of its machine."""
    facts = report.facts
    return SetMachineFacts(
        name=name,
        capacity=convert.resources_from_wire(facts.capacity),
        attributes=dict(sorted(facts.attributes.items())),
        port_first=facts.port_first,
        port_last=facts.port_last,
        detail=report.not_ready,
    )
