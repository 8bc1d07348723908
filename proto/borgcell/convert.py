"""Owns the way between wire messages and values: the only importer of ``v1`` outside the RPC layers.

``*_from_wire`` raises ``WireError`` with the field path when a message cannot be a value (an enum that this
version does not know, an index twice); whether a value is *allowed* is for ``specs.problems``.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

from borgcell.priority import Band
from borgcell.resources import Resources
from borgcell.specs import (
    Constraint,
    HealthCheck,
    JobSpec,
    Op,
    Problem,
    TaskSpec,
    UpdatePolicy,
    normalize,
)
from borgcell.types import (
    EndKind,
    EndReason,
    EvictionCause,
    JobKey,
    JobKind,
    RuntimeKind,
    TaskKey,
    TaskPhase,
    TaskState,
)
from borgcell.v1 import borglet_pb2, cell_pb2, types_pb2

E = TypeVar("E", bound=StrEnum)


class WireError(ValueError):
    """A message that is not a value; ``problem`` names the field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.problem = Problem(field, message)


JOB_KINDS: Final = {
    JobKind.SERVICE: types_pb2.JOB_KIND_SERVICE,
    JobKind.BATCH: types_pb2.JOB_KIND_BATCH,
}
RUNTIME_KINDS: Final = {
    RuntimeKind.AUTO: types_pb2.RUNTIME_KIND_UNSPECIFIED,
    RuntimeKind.NATIVE: types_pb2.RUNTIME_KIND_NATIVE,
    RuntimeKind.DOCKER: types_pb2.RUNTIME_KIND_DOCKER,
}
OPS: Final = {
    Op.EQUAL: types_pb2.Constraint.OP_EQUAL,
    Op.NOT_EQUAL: types_pb2.Constraint.OP_NOT_EQUAL,
    Op.LESS_THAN: types_pb2.Constraint.OP_LESS_THAN,
    Op.LESS_THAN_EQUAL: types_pb2.Constraint.OP_LESS_THAN_EQUAL,
    Op.GREATER_THAN: types_pb2.Constraint.OP_GREATER_THAN,
    Op.GREATER_THAN_EQUAL: types_pb2.Constraint.OP_GREATER_THAN_EQUAL,
    Op.PRESENT: types_pb2.Constraint.OP_PRESENT,
    Op.NOT_PRESENT: types_pb2.Constraint.OP_NOT_PRESENT,
}
TASK_STATES: Final = {
    state: types_pb2.TaskState.Value(f"TASK_STATE_{state.name}") for state in TaskState
}
END_REASONS: Final = {
    reason: types_pb2.EndReason.Value(f"END_REASON_{reason.name}") for reason in EndReason
}
EVICTION_CAUSES: Final = {
    cause: types_pb2.EvictionCause.Value(f"EVICTION_CAUSE_{cause.name}") for cause in EvictionCause
}
TASK_PHASES: Final = {
    phase: borglet_pb2.TaskPhase.Value(f"TASK_PHASE_{phase.name}") for phase in TaskPhase
}
END_KINDS: Final = {kind: borglet_pb2.EndKind.Value(f"END_KIND_{kind.name}") for kind in EndKind}
BANDS: Final = {band: types_pb2.Band.Value(f"BAND_{band.name}") for band in Band}


def enum_from_wire(table: Mapping[E, int], number: int, field: str) -> E:
    """The value that a wire enum stands for. Raises WireError for UNSPECIFIED and unknown numbers."""
    for value, known in table.items():
        if known == number:
            return value
    names = ", ".join(value.value for value in table)
    raise WireError(field, f"is unspecified or unknown ({number}); use one of: {names}")


def resources_to_wire(value: Resources) -> types_pb2.Resources:
    """Field by field."""
    return types_pb2.Resources(
        cpu_milli=value.cpu_milli,
        ram_bytes=value.ram_bytes,
        disk_bytes=value.disk_bytes,
        ports=value.ports,
    )


def resources_from_wire(message: types_pb2.Resources) -> Resources:
    """Field by field."""
    return Resources(message.cpu_milli, message.ram_bytes, message.disk_bytes, message.ports)


def task_key_to_wire(key: TaskKey) -> cell_pb2.TaskKey:
    """Field by field."""
    return cell_pb2.TaskKey(user=key.user, job=key.job, index=key.index)


def task_key_from_wire(message: cell_pb2.TaskKey) -> TaskKey:
    """Field by field."""
    return TaskKey(message.user, message.job, message.index)


def job_key_to_wire(key: JobKey) -> cell_pb2.JobKey:
    """Field by field."""
    return cell_pb2.JobKey(user=key.user, name=key.name)


def job_key_from_wire(message: cell_pb2.JobKey) -> JobKey:
    """Field by field."""
    return JobKey(message.user, message.name)


def constraint_to_wire(value: Constraint) -> types_pb2.Constraint:
    """Field by field."""
    return types_pb2.Constraint(
        attribute=value.attribute, op=OPS[value.op], value=value.value, soft=value.soft
    )


def constraint_from_wire(message: types_pb2.Constraint, field: str) -> Constraint:
    """Raises WireError for an unknown operator."""
    op = enum_from_wire(OPS, message.op, f"{field}.op")
    return Constraint(message.attribute, op, message.value, message.soft)


def health_to_wire(value: HealthCheck) -> types_pb2.HealthCheck:
    """Field by field."""
    return types_pb2.HealthCheck(
        http=value.http,
        tcp=value.tcp,
        exec=value.exec,
        port=value.port,
        interval_ms=value.interval_ms,
        timeout_ms=value.timeout_ms,
        grace_ms=value.grace_ms,
        failures_max=value.failures_max,
    )


def health_from_wire(message: types_pb2.HealthCheck) -> HealthCheck:
    """Field by field."""
    return HealthCheck(
        message.http,
        message.tcp,
        tuple(message.exec),
        message.port,
        message.interval_ms,
        message.timeout_ms,
        message.grace_ms,
        message.failures_max,
    )


def task_spec_to_wire(value: TaskSpec) -> types_pb2.TaskSpec:
    """Field by field."""
    return types_pb2.TaskSpec(
        argv=value.argv,
        image=value.image,
        env=value.env,
        limit=resources_to_wire(value.limit),
        ports=value.ports,
        health=None if value.health is None else health_to_wire(value.health),
        grace_ms=value.grace_ms,
        pids_max=value.pids_max,
        runtime=RUNTIME_KINDS[value.runtime],
    )


def task_spec_from_wire(message: types_pb2.TaskSpec, field: str = "task") -> TaskSpec:
    """Raises WireError for an unknown runtime."""
    return TaskSpec(
        argv=tuple(message.argv),
        image=message.image,
        env=dict(sorted(message.env.items())),
        limit=resources_from_wire(message.limit),
        ports=tuple(message.ports),
        health=health_from_wire(message.health) if message.HasField("health") else None,
        grace_ms=message.grace_ms,
        pids_max=message.pids_max,
        runtime=enum_from_wire(RUNTIME_KINDS, message.runtime, f"{field}.runtime"),
    )


def job_spec_to_wire(value: JobSpec) -> types_pb2.JobSpec:
    """Field by field."""
    return types_pb2.JobSpec(
        user=value.user,
        name=value.name,
        kind=JOB_KINDS[value.kind],
        priority=value.priority,
        task_count=value.task_count,
        task=task_spec_to_wire(value.task),
        overrides=[
            types_pb2.TaskOverride(index=index, task=task_spec_to_wire(override))
            for index, override in value.overrides.items()
        ],
        constraints=[constraint_to_wire(constraint) for constraint in value.constraints],
        max_per_machine=value.max_per_machine,
        max_per_rack=value.max_per_rack,
        max_failures=value.max_failures,
        update=types_pb2.UpdatePolicy(max_in_flight=value.update.max_in_flight),
        labels=value.labels,
    )


def job_spec_from_wire(message: types_pb2.JobSpec) -> JobSpec:
    """The normalized spec. Raises WireError for unknown enums and for an index that is overridden twice."""
    overrides: dict[int, TaskSpec] = {}
    for position, override in enumerate(message.overrides):
        field = f"overrides[{position}]"
        if override.index in overrides:
            raise WireError(f"{field}.index", f"task {override.index} is overridden twice")
        overrides[override.index] = task_spec_from_wire(override.task, f"{field}.task")
    return normalize(
        JobSpec(
            user=message.user,
            name=message.name,
            task=task_spec_from_wire(message.task),
            kind=enum_from_wire(JOB_KINDS, message.kind, "kind"),
            priority=message.priority,
            task_count=message.task_count,
            overrides=overrides,
            constraints=tuple(
                constraint_from_wire(constraint, f"constraints[{position}]")
                for position, constraint in enumerate(message.constraints)
            ),
            max_per_machine=message.max_per_machine,
            max_per_rack=message.max_per_rack,
            max_failures=message.max_failures,
            # an absent policy means the default, as in a config file
            update=UpdatePolicy(message.update.max_in_flight)
            if message.HasField("update")
            else UpdatePolicy(),
            labels=dict(sorted(message.labels.items())),
        )
    )
