"""Owns the decisions of the agent: what is and what should be -> what to do next. Pure.

Laws: stops come before starts; an incarnation that ended or was started is never started again; of one task
at most one incarnation lives; before a master said anything (``wanted`` is None) nothing new is stopped or started.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from borgcell.resources import Resources, fits, format_bytes, lacking, total
from borgcell.types import EndKind, RuntimeKind, TaskKey
from msgspec import Struct

from borglet.actions import (
    Action,
    Conclude,
    Drop,
    Forget,
    Kill,
    Plan,
    Release,
    Start,
    Terminate,
    Wait,
)
from borglet.runtime.port import Container, ContainerId, ContainerState
from borglet.values import Desired, Ended, Record

GRACE_MS_DEFAULT: Final = 10_000  # for a container whose spec nobody told: specs.TaskSpec.grace_ms
KILL_RETRY_MS: Final = 5_000  # a process in uninterruptible sleep outlives SIGKILL for a while


class Retention(Struct, frozen=True):
    """How long the logs of ended and acknowledged incarnations stay."""

    per_task_max: int = 10
    age_ms_max: int = 24 * 3_600_000


class View(Struct, frozen=True):
    """All that a plan depends on. ``runtimes`` are those that answer, ``blind`` those that exist but do not.

    ``busy`` ids have an action under way and are left alone. ``unhealthy`` gives the failed check of a container.
    ``hold`` says why nothing may be started now, "" when it may.
    """

    capacity: Resources
    runtimes: frozenset[RuntimeKind]
    wanted: Mapping[ContainerId, Desired] | None
    records: Mapping[ContainerId, Record]
    containers: Mapping[ContainerId, Container]
    now_ms: int  # monotonic
    wall_ms: int
    busy: frozenset[ContainerId] = frozenset()
    blind: frozenset[RuntimeKind] = frozenset()
    unhealthy: Mapping[ContainerId, str] = {}
    retention: Retention = Retention()
    disk_short: bool = False
    hold: str = ""


def make_plan(view: View) -> Plan:
    """What brings the containers closer to what is wanted; nothing when they are there."""
    wanted = effective_wanted(view.wanted)
    actions: list[Action] = [
        *_conclusions(view, wanted),
        *_stops(view, wanted),
        *_starts(view, wanted),
        *_cleanups(view, wanted),
    ]
    deadlines = [
        record.stop.kill_at_ms
        for record in view.records.values()
        if record.stop and not record.ended and record.stop.kill_at_ms > view.now_ms
    ] + [
        record.retry_at_ms
        for record in view.records.values()
        if record.retry_at_ms is not None and not record.ended and record.retry_at_ms > view.now_ms
    ]
    return Plan(tuple(actions), min(deadlines, default=None))


def effective_wanted(
    wanted: Mapping[ContainerId, Desired] | None,
) -> Mapping[ContainerId, Desired] | None:
    """What is wanted to run, by id: without those to stop, and of one task only the latest incarnation."""
    if wanted is None:
        return None
    latest: dict[TaskKey, ContainerId] = {}
    for id, desired in wanted.items():
        known = latest.get(id.task)
        if not desired.stop and (known is None or known.incarnation < id.incarnation):
            latest[id.task] = id
    return {id: wanted[id] for id in sorted(latest.values())}


def is_alive(view: View, id: ContainerId) -> bool:
    """Whether its main process lives, as far as its runtime has said."""
    container = view.containers.get(id)
    return container is not None and container.state is ContainerState.ALIVE


def runtime_of(view: View, id: ContainerId) -> RuntimeKind | None:
    """The runtime that has it or would have it; None when nothing is known."""
    container = view.containers.get(id)
    if container is not None:
        return container.runtime
    record = view.records.get(id)
    return record.desired.spec.chosen_runtime() if record and record.desired else None


# --- ends -----------------------------------------------------------------------------------------------------


def _conclusions(view: View, wanted: Mapping[ContainerId, Desired] | None) -> Iterator[Conclude]:
    for id in sorted(view.records.keys() | view.containers.keys()):
        record = view.records.get(id)
        if id in view.busy or (record and record.ended):
            continue
        container = view.containers.get(id)
        if container is not None:
            if container.state is ContainerState.ENDED:
                yield Conclude(id, _end_of(container, record, view.wall_ms))
        elif record is not None:
            ended = _end_without_container(view, record, wanted)
            if ended is not None:
                yield Conclude(id, ended)
    for id, desired in sorted((view.wanted or {}).items()):
        unknown = id not in view.records and id not in view.containers and id not in view.busy
        if unknown and id not in (wanted or {}):
            detail = (
                "stopped before it was started" if desired.stop else "replaced before its start"
            )
            yield Conclude(id, Ended(EndKind.STOPPED, -1, detail, view.wall_ms))


def _end_of(container: Container, record: Record | None, wall_ms: int) -> Ended:
    exit = container.exit
    if exit is None:
        return Ended(EndKind.LOST, -1, "ended, but its runtime does not say how", wall_ms)
    stop = record.stop if record else None
    if exit.lost:
        kind, detail = EndKind.LOST, exit.detail or "ended while nobody watched it"
    elif stop is not None:
        kind, detail = stop.kind, stop.detail
    elif exit.out_of_memory:
        limit = format_bytes(container.limit.ram_bytes)
        kind, detail = EndKind.OUT_OF_MEMORY, exit.detail or f"out of memory (limit {limit})"
    else:
        kind, detail = EndKind.EXITED, exit.detail or _exit_text(exit.exit_code)
    return Ended(kind, exit.exit_code, detail, exit.at_ms or wall_ms)


def _exit_text(exit_code: int) -> str:
    if exit_code > 128:
        return f"killed by signal {exit_code - 128}"
    return f"exited with status {exit_code}"


def _end_without_container(
    view: View, record: Record, wanted: Mapping[ContainerId, Desired] | None
) -> Ended | None:
    if runtime_of(view, record.id) in view.blind:
        return None
    if record.retry_at_ms is not None:
        if wanted is None or record.id in wanted:
            return None
        return Ended(EndKind.STOPPED, -1, "stopped before it could be started", view.wall_ms)
    return Ended(EndKind.LOST, -1, "its container is gone", view.wall_ms)


# --- stops ----------------------------------------------------------------------------------------------------


def _stops(view: View, wanted: Mapping[ContainerId, Desired] | None) -> Iterator[Terminate | Kill]:
    for id in sorted(view.containers):
        if id in view.busy or not is_alive(view, id):
            continue
        record = view.records.get(id)
        stop = record.stop if record else None
        if stop is None:
            reason = _stop_reason(view, id, wanted)
            if reason is not None:
                yield Terminate(id, *reason, _grace_ms(record))
        elif not stop.signalled:
            yield Terminate(id, stop.kind, stop.detail, stop.grace_ms)
        elif stop.kill_at_ms <= view.now_ms:
            yield Kill(id)


def _stop_reason(
    view: View, id: ContainerId, wanted: Mapping[ContainerId, Desired] | None
) -> tuple[EndKind, str] | None:
    if wanted is not None and id not in wanted:
        return EndKind.STOPPED, "stopped by the master"
    record = view.records.get(id)
    if record is not None and record.ended:
        return EndKind.LOST, "was given up as lost before"
    if id in view.unhealthy:
        return EndKind.UNHEALTHY, view.unhealthy[id]
    return None


def _grace_ms(record: Record | None) -> int:
    if record is None or record.desired is None:
        return GRACE_MS_DEFAULT
    return record.desired.spec.grace_ms


# --- starts ---------------------------------------------------------------------------------------------------


class _Holder(Struct, frozen=True):
    """What something on the machine holds; ``leaving``: it gives it back without being asked again."""

    limit: Resources
    ports: frozenset[int]
    leaving: bool


class _Room:
    """What is free now, and what is coming free; shrinks as starts are planned."""

    def __init__(self, view: View, wanted: Mapping[ContainerId, Desired]) -> None:
        self.capacity = view.capacity
        self.holders = _holders(view, wanted)
        held = total(holder.limit for holder in self.holders.values())
        leaving = total(holder.limit for holder in self.holders.values() if holder.leaving)
        self.free = view.capacity - held
        self.coming = self.free + leaving
        self.live: defaultdict[TaskKey, set[ContainerId]] = defaultdict(set)
        for id in self.holders:
            self.live[id.task].add(id)

    def start(self, desired: Desired) -> None:
        """Set its room aside from now on."""
        limit, ports = desired.spec.limit, frozenset(desired.ports.values())
        self.holders[desired.id] = _Holder(limit, ports, leaving=False)
        self.free -= limit


def _holders(view: View, wanted: Mapping[ContainerId, Desired]) -> dict[ContainerId, _Holder]:
    """Everything that lives, is being started or may live unseen; not what waits for another attempt to start."""
    holders: dict[ContainerId, _Holder] = {}
    for id in sorted(view.records.keys() | view.containers.keys()):
        record, container = view.records.get(id), view.containers.get(id)
        ended = record is not None and record.ended is not None
        stopping = record is not None and record.stop is not None
        leaving = id not in wanted or ended or stopping or id in view.unhealthy
        if container is not None:
            if container.state is ContainerState.ALIVE:
                ports = frozenset(container.ports.values())
                holders[id] = _Holder(container.limit, ports, leaving)
        elif record and record.desired and not ended and record.retry_at_ms is None:
            unseen = id in view.busy or runtime_of(view, id) in view.blind
            if unseen:
                ports = frozenset(record.desired.ports.values())
                holders[id] = _Holder(record.desired.spec.limit, ports, leaving)
    return holders


def _starts(
    view: View, wanted: Mapping[ContainerId, Desired] | None
) -> Iterator[Start | Wait | Conclude]:
    if wanted is None:
        return
    room = _Room(view, wanted)
    # the more important first: what is left when the room was promised twice is theirs
    for desired in sorted(wanted.values(), key=lambda desired: (-desired.priority, desired.id)):
        if not _may_start(view, desired.id):
            continue
        refusal = _refusal(view, room, desired)
        if refusal is not None:
            yield Conclude(desired.id, Ended(EndKind.REFUSED, -1, refusal, view.wall_ms))
            continue
        room.coming -= desired.spec.limit
        reason = _obstacle(view, room, desired)
        if reason is not None:
            yield Wait(desired.id, reason)
        else:
            room.start(desired)
            yield Start(desired)


def _may_start(view: View, id: ContainerId) -> bool:
    if id in view.busy or id in view.containers:
        return False
    record = view.records.get(id)
    return record is None or (record.ended is None and record.retry_at_ms is not None)


def _refusal(view: View, room: _Room, desired: Desired) -> str | None:
    """Why it can never start here as things are, or None."""
    if desired.problem:
        return desired.problem
    kind = desired.spec.chosen_runtime()
    if kind not in view.runtimes and kind not in view.blind:
        return f"this machine has no {kind} runtime"
    limit = desired.spec.limit
    if not fits(limit, room.capacity):
        return (
            f"wants {limit}; the machine has only {room.capacity} ({_names(limit, room.capacity)})"
        )
    ports = frozenset(desired.ports.values())
    for id, holder in room.holders.items():
        taken = sorted(ports & holder.ports)
        if taken and id != desired.id and not holder.leaving:
            return f"port {taken[0]} is taken by {id}"
    if not fits(limit, room.coming):
        return f"no room: wants {limit}; free are {room.coming} ({_names(limit, room.coming)})"
    return None


def _names(limit: Resources, free: Resources) -> str:
    names = (name.removesuffix("_milli").removesuffix("_bytes") for name in lacking(limit, free))
    return "too little " + " and ".join(names)


def _obstacle(view: View, room: _Room, desired: Desired) -> str | None:
    """What it must wait for, or None when it may start now."""
    kind = desired.spec.chosen_runtime()
    if view.hold:
        return view.hold
    if kind in view.blind:
        return f"the {kind} runtime does not answer"
    record = view.records.get(desired.id)
    if record is not None and (record.retry_at_ms or 0) > view.now_ms:
        return record.retry_reason
    siblings = sorted(room.live[desired.id.task] - {desired.id})
    if siblings:
        return f"waits for {siblings[0]} to end"
    ports = frozenset(desired.ports.values())
    for id, holder in room.holders.items():
        taken = sorted(ports & holder.ports)
        if taken:
            return f"waits for port {taken[0]}, held by {id} that is leaving"
    if not fits(desired.spec.limit, room.free):
        leaving = [str(id) for id, holder in room.holders.items() if holder.leaving]
        return f"waits for the room of {', '.join(leaving[:3])}, leaving"
    return None


# --- what remains ---------------------------------------------------------------------------------------------


def _cleanups(
    view: View, wanted: Mapping[ContainerId, Desired] | None
) -> Iterator[Release | Forget | Drop]:
    forgettable: defaultdict[TaskKey, list[Container]] = defaultdict(list)
    for id in sorted(view.records):
        record = view.records[id]
        if record.ended is None or id in view.busy:
            continue
        container = view.containers.get(id)
        asked_for = view.wanted is None or id in view.wanted
        if container is None:
            blind = runtime_of(view, id) in view.blind
            if record.ended.acknowledged and not asked_for and not blind:
                yield Drop(id)
        elif container.state is ContainerState.ENDED:
            if not record.released:
                yield Release(id)
            elif record.ended.acknowledged and not asked_for:
                forgettable[id.task].append(container)
    yield from _forgets(view, forgettable)


def _forgets(view: View, forgettable: Mapping[TaskKey, list[Container]]) -> Iterator[Forget]:
    """Ended containers beyond their retention; on a short disk the older half of all of them, at least one."""
    kept: list[tuple[int, ContainerId]] = []
    for containers in forgettable.values():
        ages = sorted(
            ((_ended_at(view, container), container.id) for container in containers), reverse=True
        )
        for position, (at_ms, id) in enumerate(ages):
            too_old = view.wall_ms - at_ms > view.retention.age_ms_max
            if position >= view.retention.per_task_max or too_old:
                yield Forget(id)
            else:
                kept.append((at_ms, id))
    if view.disk_short:
        for _, id in sorted(kept)[: (len(kept) + 1) // 2]:
            yield Forget(id)


def _ended_at(view: View, container: Container) -> int:
    ended = view.records[container.id].ended
    return ended.at_ms if ended else container.started_at_ms
