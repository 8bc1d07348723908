"""Owns how values read: states, times, quantities, keys. Pure; the present is an argument."""

from datetime import UTC, datetime

from borgcell import convert
from borgcell.priority import PRIORITY_MAX, band_of
from borgcell.types import EndReason, EvictionCause, TaskState
from borgcell.v1 import cell_pb2, types_pb2

from borgcfg.render.table import Styled

FRESH_MS = 2_000  # a follower's copy that is not older needs no warning

_STATE_STYLES = {
    TaskState.PENDING: "warn",
    TaskState.RUNNING: "good",
    TaskState.PARTITIONED: "bad",
    TaskState.STOPPING: "warn",
}
_STATES = {number: state for state, number in convert.TASK_STATES.items()}
_REASONS = {number: reason for reason, number in convert.END_REASONS.items()}
_CAUSES = {number: cause for cause, number in convert.EVICTION_CAUSES.items()}


def state_of(task: types_pb2.Task) -> TaskState | None:
    """The task's state; None for one that this version does not know."""
    return _STATES.get(task.state)


def task_state(task: types_pb2.Task) -> Styled:
    """``RUNNING``, or for a dead task how it ended: ``DEAD (FINISHED)``."""
    state = state_of(task)
    if state is None:
        return Styled(f"state {task.state}", "warn")
    if state is not TaskState.DEAD:
        unhealthy = state is TaskState.RUNNING and not task.healthy
        return Styled(state, "bad" if unhealthy else _STATE_STYLES.get(state, ""))
    reason = _REASONS.get(task.current.end_reason)
    style = (
        "good" if reason is EndReason.FINISHED else "dim" if reason is EndReason.KILLED else "bad"
    )
    return Styled(f"DEAD ({reason or 'unknown'})", style)


def end_reason(incarnation: types_pb2.Incarnation) -> str:
    """``EVICTED by preemption``, ``FAILED``; "" for one that runs."""
    reason = _REASONS.get(incarnation.end_reason)
    cause = _CAUSES.get(incarnation.cause)
    if reason is EndReason.EVICTED and cause is not None:
        return f"{reason} by {cause_words(cause)}"
    return str(reason or "")


def cause_words(cause: EvictionCause) -> str:
    """``out of resources``."""
    return cause.replace("_", " ")


def cause_of(number: "types_pb2.EvictionCause.ValueType") -> str:
    """The cause of an event, in words; "" for none."""
    cause = _CAUSES.get(number)
    return cause_words(cause) if cause is not None else ""


def priority(value: int) -> str:
    """``production (200)``."""
    return f"{band_of(value)} ({value})" if 0 <= value <= PRIORITY_MAX else str(value)


def ago(at_ms: int, now_ms: int) -> str:
    """``3m12s``, the time since; "" for never."""
    return duration(max(0, now_ms - at_ms)) if at_ms else ""


def duration(span_ms: int) -> str:
    """The two largest units of a span: ``2d4h``, ``3m12s``, ``5s``, ``0.3s``."""
    if span_ms < 1_000:
        return f"{span_ms / 1000:.1f}s"
    seconds = span_ms // 1000
    for unit, size, lower, lower_size in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if seconds >= size:
            rest = seconds % size // lower_size
            return f"{seconds // size}{unit}" + (f"{rest}{lower}" if rest else "")
    return f"{seconds}s"


def clock(at_ms: int) -> str:
    """``2026-11-23 09:14:05.123Z``; "" for never."""
    if not at_ms:
        return ""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d}Z"


def task_key(key: cell_pb2.TaskKey) -> str:
    """``ann/web/3``."""
    return str(convert.task_key_from_wire(key))


def resources(amounts: types_pb2.Resources) -> str:
    """``0.5 cpu, 256 MiB ram, 1 port``."""
    return str(convert.resources_from_wire(amounts))


def ports(incarnation: types_pb2.Incarnation) -> str:
    """``http=20001 admin=20002``."""
    return " ".join(f"{name}={number}" for name, number in sorted(incarnation.ports.items()))


def counts(numbers: types_pb2.TaskCounts) -> str:
    """``2 running, 1 pending``: all states that have tasks, the good ones first."""
    order = ("running", "finished", "starting", "pending", "stopping", "partitioned", "dead")
    parts = [f"{getattr(numbers, name)} {name}" for name in order if getattr(numbers, name)]
    return ", ".join(parts) or "no tasks"


def freshness(value: cell_pb2.Freshness) -> str:
    """ "" for an answer of the leader; otherwise a warning of how old it may be."""
    if value.leader or 0 <= value.age_ms <= FRESH_MS:
        return ""
    if value.age_ms < 0:
        return f"answered by {value.replica}, which does not know how old its copy is"
    return f"answered by {value.replica} without a leader's lease; its copy is {duration(value.age_ms)} old"


def plural(count: int, noun: str) -> str:
    """``1 task``, ``3 tasks``."""
    return f"{count} {noun}" + ("s" if count != 1 else "")
