"""Owns the tables of borgcfg: wire messages to rows. Pure; the present is an argument."""

from collections.abc import Sequence

from borgcell.resources import format_bytes
from borgcell.types import EventKind
from borgcell.v1 import cell_pb2, types_pb2

from borgcfg.render import words
from borgcfg.render.table import Cell, Styled, Table

_EVENT_STYLES = {
    EventKind.FAIL: "bad",
    EventKind.EVICT: "warn",
    EventKind.LOST: "bad",
    EventKind.KILL: "warn",
    EventKind.UNHEALTHY: "bad",
    EventKind.PARTITION: "bad",
    EventKind.HEALTHY: "good",
    EventKind.FINISH: "good",
}


def jobs(rows: Sequence[types_pb2.Job], now_ms: int) -> Table:
    """Jobs, one per line."""
    return Table(
        ("JOB", "KIND", "PRIORITY", "TASKS", "VERSION", "AGE", "STATE"),
        [
            (
                f"{job.spec.user}/{job.spec.name}",
                _kind(job.spec),
                words.priority(job.spec.priority),
                str(job.spec.task_count),
                str(job.version),
                words.ago(job.created_at_ms, now_ms),
                job_state(job),
            )
            for job in rows
        ],
        numeric=frozenset({"TASKS", "VERSION"}),
        wide=frozenset({"VERSION"}),
        empty="no jobs",
        names=[f"{job.spec.user}/{job.spec.name}" for job in rows],
    )


def job_state(job: types_pb2.Job) -> Cell:
    """``3 running``, with what is left of an update."""
    text = words.counts(job.counts)
    if job.outdated and not job.ended:
        text += f", {job.outdated} on an older version"
    if job.ended:
        return Styled(f"ended: {text}", "bad" if job.counts.dead else "dim")
    counts = job.counts
    if counts.partitioned or counts.dead:
        return Styled(text, "bad")
    is_up = counts.running + counts.finished == job.spec.task_count and not job.outdated
    return Styled(text, "good" if is_up else "warn")


def tasks(rows: Sequence[types_pb2.Task], now_ms: int) -> Table:
    """Tasks, one per line; a pending one says why."""
    return Table(
        (
            "TASK",
            "STATE",
            "MACHINE",
            "PORTS",
            "FOR",
            "FAILURES",
            "INCARNATION",
            "VERSION",
            "DETAIL",
        ),
        [
            (
                _task_key(task),
                words.task_state(task),
                task.current.machine or "-",
                words.ports(task.current) or "-",
                words.ago(_since_ms(task), now_ms) or "-",
                str(task.failures),
                str(task.current.number),
                str(task.current.version),
                task_detail(task, now_ms),
            )
            for task in rows
        ],
        numeric=frozenset({"FOR", "FAILURES", "INCARNATION", "VERSION"}),
        wide=frozenset({"INCARNATION", "VERSION"}),
        empty="no tasks",
        names=[_task_key(task) for task in rows],
    )


def task_detail(task: types_pb2.Task, now_ms: int) -> str:
    """What there is to say about a task in one line: why it waits, how it ended, or how it last ended."""
    last = task.finished[-1] if task.finished else None
    parts = []
    if task.not_before_ms > now_ms:
        parts.append(f"starts again in {words.duration(task.not_before_ms - now_ms)}")
    elif task.pending_reason:
        parts.append(task.pending_reason)
    if task.current.detail:
        parts.append(task.current.detail)
    elif last is not None and not task.current.running_at_ms and last.detail:
        parts.append(f"before: {last.detail}")
    return "; ".join(parts)


def ending(task: types_pb2.Task) -> str:
    """How a dead task ended: ``FAILED (exit 3): exited with 3``."""
    one = task.current
    code = f" (exit {one.exit_code})" if one.exit_code > 0 else ""
    return f"{words.end_reason(one)}{code}" + (f": {one.detail}" if one.detail else "")


def incarnations(task: types_pb2.Task, now_ms: int) -> Table:
    """All incarnations of a task that are kept, oldest first."""
    return Table(
        ("INCARNATION", "VERSION", "MACHINE", "PORTS", "STARTED", "RAN", "END", "EXIT", "DETAIL"),
        [
            (
                str(one.number),
                str(one.version),
                one.machine or "-",
                words.ports(one) or "-",
                f"{ago} ago" if (ago := words.ago(one.scheduled_at_ms, now_ms)) else "-",
                _ran(one, now_ms),
                words.end_reason(one) or "-",
                str(one.exit_code) if one.ended_at_ms and one.exit_code >= 0 else "-",
                one.detail,
            )
            for one in (*task.finished, task.current)
        ],
        numeric=frozenset({"INCARNATION", "VERSION", "EXIT"}),
        wide=frozenset({"VERSION"}),
        title="Incarnations",
    )


def machines(rows: Sequence[types_pb2.Machine], now_ms: int) -> Table:
    """Machines, one per line, with how full they are."""
    return Table(
        (
            "MACHINE",
            "STATE",
            "FOR",
            "TASKS",
            "CPU",
            "RAM",
            "DISK",
            "ADDRESS",
            "ATTRIBUTES",
            "DETAIL",
        ),
        [
            (
                machine.name,
                machine_state(machine),
                words.ago(machine.since_ms, now_ms) or "-",
                str(machine.task_count),
                _cpu_share(machine.used.cpu_milli, machine.capacity.cpu_milli),
                _byte_share(machine.used.ram_bytes, machine.capacity.ram_bytes),
                _byte_share(machine.used.disk_bytes, machine.capacity.disk_bytes),
                machine.address,
                " ".join(f"{key}={value}" for key, value in sorted(machine.attributes.items())),
                machine.detail,
            )
            for machine in rows
        ],
        numeric=frozenset({"FOR", "TASKS", "CPU", "RAM", "DISK"}),
        wide=frozenset({"ADDRESS", "ATTRIBUTES"}),
        empty="no machines: start a Borglet, it adds itself",
        names=[machine.name for machine in rows],
    )


def machine_state(machine: types_pb2.Machine) -> Styled:
    """``up``, ``down``, ``up, draining``."""
    is_up = machine.state == types_pb2.MACHINE_STATE_UP
    text = "up" if is_up else "down"
    if machine.draining:
        return Styled(f"{text}, draining", "warn" if is_up else "bad")
    return Styled(text, "good" if is_up else "bad")


def replicas(rows: Sequence[cell_pb2.Replica], versions: dict[str, str]) -> Table:
    """Replicas of the master, one per line."""
    return Table(
        ("REPLICA", "ADDRESS", "ROLE", "CONNECTED", "LOG INDEX", "VERSION"),
        [
            (
                replica.name,
                replica.address,
                Styled("leader", "bold") if replica.leader else "follower",
                "yes" if replica.connected else Styled("no", "bad"),
                str(replica.match_index) if replica.match_index >= 0 else "unknown",
                versions.get(replica.name, "-"),
            )
            for replica in rows
        ],
        numeric=frozenset({"LOG INDEX"}),
        wide=frozenset({"VERSION"}),
        empty="no replicas",
        names=[replica.name for replica in rows],
    )


def bands(status: cell_pb2.GetCellStatusResponse) -> Table:
    """Limits by band against the capacity of the machines that are up."""
    capacity = status.capacity
    return Table(
        ("BAND", "PLACED", "PENDING", "CPU", "RAM", "DISK"),
        [
            (
                types_pb2.Band.Name(band.band).removeprefix("BAND_").lower(),
                str(band.placed),
                Styled(str(band.pending), "warn" if band.pending else ""),
                _cpu_share(band.limit.cpu_milli, capacity.cpu_milli),
                _byte_share(band.limit.ram_bytes, capacity.ram_bytes),
                _byte_share(band.limit.disk_bytes, capacity.disk_bytes),
            )
            for band in status.bands
        ],
        numeric=frozenset({"PLACED", "PENDING", "CPU", "RAM", "DISK"}),
        empty="no bands",
        title="Limits by band, of the capacity of all machines that are up",
    )


def events(rows: Sequence[cell_pb2.Event], now_ms: int, *, absolute: bool = False) -> Table:
    """Events, oldest first."""
    return Table(
        ("WHEN", "EVENT", "SUBJECT", "MACHINE", "DETAIL", "INDEX"),
        [
            (
                words.clock(event.at_ms) if absolute else f"{words.ago(event.at_ms, now_ms)} ago",
                event_kind(event),
                event_subject(event),
                event.machine or "-",
                event_detail(event),
                str(event.index),
            )
            for event in rows
        ],
        numeric=frozenset({"INDEX"}),
        wide=frozenset({"INDEX"}),
        empty="no events",
        names=[str(event.sequence) for event in rows],
    )


def event_kind(event: cell_pb2.Event) -> Styled:
    """``EVICT`` in its style."""
    known = event.kind in EventKind.__members__
    return Styled(event.kind, _EVENT_STYLES.get(EventKind[event.kind], "") if known else "")


def event_subject(event: cell_pb2.Event) -> str:
    """``ann/web/3#2`` for an incarnation of a task, otherwise the key."""
    return f"{event.key}#{event.incarnation}" if event.subject == "task" else event.key


def event_detail(event: cell_pb2.Event) -> str:
    """The sentence of the event, with cause and counterpart when it does not name them itself."""
    cause = words.cause_of(event.cause)
    parts = [event.detail] if event.detail else []
    if cause and cause not in event.detail:
        parts.append(f"cause: {cause}")
    if event.counterpart and event.counterpart not in event.detail:
        parts.append(f"other task: {event.counterpart}")
    return "; ".join(parts)


def _kind(spec: types_pb2.JobSpec) -> str:
    return types_pb2.JobKind.Name(spec.kind).removeprefix("JOB_KIND_").lower()


def _task_key(task: types_pb2.Task) -> str:
    return f"{task.user}/{task.job}/{task.index}"


def _since_ms(task: types_pb2.Task) -> int:
    """Since when the task is roughly as it is."""
    one = task.current
    return one.ended_at_ms or one.running_at_ms or one.scheduled_at_ms or one.submitted_at_ms


def _ran(one: types_pb2.Incarnation, now_ms: int) -> str:
    if not one.running_at_ms:
        return "-"
    return words.duration(max(0, (one.ended_at_ms or now_ms) - one.running_at_ms))


def _cpu_share(used: int, capacity: int) -> str:
    return f"{used / 1000:g}/{capacity / 1000:g}" if capacity else f"{used / 1000:g}"


def _byte_share(used: int, capacity: int) -> str:
    if not used and capacity:
        return f"0/{format_bytes(capacity)}"
    if not capacity:
        return format_bytes(used)
    left, right = format_bytes(used), format_bytes(capacity)
    if left.endswith(right.rpartition(" ")[2]):
        left = left.rpartition(" ")[0]
    return f"{left}/{right}"
