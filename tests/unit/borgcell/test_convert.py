"""The way between wire messages and values."""

import pytest
from borgcell import convert
from borgcell.resources import MIB, Resources
from borgcell.specs import Constraint, HealthCheck, JobSpec, Op, TaskSpec, normalize
from borgcell.types import (
    EndKind,
    EndReason,
    EvictionCause,
    JobKind,
    RuntimeKind,
    TaskPhase,
    TaskState,
)
from borgcell.v1 import borglet_pb2, types_pb2


def a_full_spec() -> JobSpec:
    task = TaskSpec(
        argv=("serve", "--port=%port:http%"),
        env={"A": "1", "B": "2"},
        limit=Resources(500, 64 * MIB, MIB, 1),
        ports=("http",),
        health=HealthCheck(http="/healthz", port="http", interval_ms=500),
        grace_ms=3_000,
        pids_max=50,
        runtime=RuntimeKind.NATIVE,
    )
    other = TaskSpec(argv=("serve", "--canary"), image="ads/web:2", ports=())
    return normalize(
        JobSpec(
            user="ann",
            name="web",
            task=task,
            kind=JobKind.BATCH,
            priority=200,
            task_count=5,
            overrides={3: other, 1: other},
            constraints=(
                Constraint("arch", Op.EQUAL, "x86_64"),
                Constraint("ssd", Op.PRESENT, soft=True),
            ),
            max_per_machine=2,
            max_per_rack=3,
            max_failures=7,
            labels={"team": "ads"},
        )
    )


def test_a_spec_survives_the_wire():
    spec = a_full_spec()
    data = convert.job_spec_to_wire(spec).SerializeToString()
    assert convert.job_spec_from_wire(types_pb2.JobSpec.FromString(data)) == spec


def test_every_value_of_every_shared_enum_has_its_own_wire_number():
    tables = (
        (TaskState, convert.TASK_STATES, types_pb2.TaskState),
        (EndReason, convert.END_REASONS, types_pb2.EndReason),
        (EvictionCause, convert.EVICTION_CAUSES, types_pb2.EvictionCause),
        (TaskPhase, convert.TASK_PHASES, borglet_pb2.TaskPhase),
        (EndKind, convert.END_KINDS, borglet_pb2.EndKind),
        (Op, convert.OPS, types_pb2.Constraint.Op),
        (JobKind, convert.JOB_KINDS, types_pb2.JobKind),
        (RuntimeKind, convert.RUNTIME_KINDS, types_pb2.RuntimeKind),
    )
    for values, table, wire in tables:
        assert set(table) == set(values)
        named = {number for name, number in wire.items() if not name.endswith("_UNSPECIFIED")}
        assert set(table.values()) - {0} == named, wire.DESCRIPTOR.full_name


def test_an_unknown_kind_is_an_error_with_the_field():
    message = convert.job_spec_to_wire(a_full_spec())
    message.kind = 99
    with pytest.raises(convert.WireError) as caught:
        convert.job_spec_from_wire(message)
    assert caught.value.problem.field == "kind"
    assert "service, batch" in caught.value.problem.message


def test_an_index_overridden_twice_is_an_error_with_the_field():
    message = convert.job_spec_to_wire(a_full_spec())
    message.overrides[1].index = message.overrides[0].index
    with pytest.raises(
        convert.WireError, match=r"overrides\[1\].index: task 1 is overridden twice"
    ):
        convert.job_spec_from_wire(message)


def test_a_message_without_an_update_policy_gets_the_default():
    message = convert.job_spec_to_wire(a_full_spec())
    message.ClearField("update")
    assert convert.job_spec_from_wire(message).update.max_in_flight == 1
