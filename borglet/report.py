"""Owns what the agent tells the master of its tasks: one status per incarnation, and what changed since. Pure."""

from collections.abc import Mapping

from borgcell.types import TaskPhase
from msgspec.structs import replace

from borglet.plan import View, effective_wanted, is_alive
from borglet.runtime.port import ContainerId
from borglet.values import Record, Status


def statuses(
    view: View,
    *,
    waits: Mapping[ContainerId, str],
    healthy: Mapping[ContainerId, bool],
    before: Mapping[ContainerId, Status],
) -> dict[ContainerId, Status]:
    """Every incarnation that lives, is to live or ended without acknowledgement, in order of their ids.

    A status that is as ``before`` keeps its time.
    """
    wanted = effective_wanted(view.wanted) or {}
    result = {}
    for id in sorted(view.records.keys() | view.containers.keys() | wanted.keys()):
        status = _status(view, id, waits.get(id, ""), healthy=healthy.get(id, False))
        if status is None:
            continue
        known = before.get(id)
        if known is not None and replace(known, at_ms=status.at_ms) == status:
            status = known
        result[id] = status
    return result


def _status(view: View, id: ContainerId, wait: str, *, healthy: bool) -> Status | None:
    record = view.records.get(id)
    if record is not None and record.ended is not None:
        return _ended_status(record)
    phase, detail = _live_phase(view, id, record)
    if phase is TaskPhase.WAITING:
        detail = wait
    return Status(id, phase, detail=detail, healthy=healthy, at_ms=view.wall_ms)


def _ended_status(record: Record) -> Status | None:
    ended = record.ended
    if ended is None or ended.acknowledged:
        return None
    return Status(
        record.id, TaskPhase.ENDED, ended.kind, ended.exit_code, ended.detail, at_ms=ended.at_ms
    )


def _live_phase(view: View, id: ContainerId, record: Record | None) -> tuple[TaskPhase, str]:
    if record is None:
        return (TaskPhase.STARTING if is_alive(view, id) else TaskPhase.WAITING), ""
    if record.stop is not None:
        return TaskPhase.STOPPING, record.stop.detail
    if record.retry_at_ms is not None:
        return TaskPhase.WAITING, ""
    return (TaskPhase.RUNNING if record.ran else TaskPhase.STARTING), ""


def changes(
    now: Mapping[ContainerId, Status], sent: Mapping[ContainerId, Status]
) -> tuple[Status, ...]:
    """What is to be told to someone who knows ``sent``."""
    return tuple(status for id, status in now.items() if sent.get(id) != status)
