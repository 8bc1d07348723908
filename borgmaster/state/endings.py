"""Owns how incarnations are stopped and ended, and what follows: death, or the next incarnation and its back-off."""

from typing import Final

from borgcell.types import EndKind, EndReason, EventKind, EvictionCause, TaskState
from msgspec import Struct
from msgspec.structs import replace

from borgmaster.state.commands import Reported
from borgmaster.state.draft import Draft
from borgmaster.state.events import Note
from borgmaster.state.model import FINISHED_KEPT_MAX, Incarnation, Job, Stopping, Task

BACKOFF_FIRST_MS: Final = 10_000
BACKOFF_MAX_MS: Final = 300_000
STABLE_MS: Final = 600_000  # a run of this length ends a crash loop

_KIND_OF_END: Final = {
    EndReason.FINISHED: EventKind.FINISH,
    EndReason.FAILED: EventKind.FAIL,
    EndReason.KILLED: EventKind.KILL,
    EndReason.EVICTED: EventKind.EVICT,
    EndReason.LOST: EventKind.LOST,
}
_DETAIL_OF_END: Final = {
    EndKind.OUT_OF_MEMORY: "ran out of memory",
    EndKind.UNHEALTHY: "failed its health check",
    EndKind.START_FAILED: "could not be started",
    EndKind.REFUSED: "refused by its machine",
    EndKind.STOPPED: "stopped by its machine, though nobody had asked for it",
    EndKind.LOST: "ended while nobody could see how",
}


class End(Struct, frozen=True):
    """How an incarnation ended, and whether the next one follows."""

    reason: EndReason
    resubmit: bool
    cause: EvictionCause | None = None
    counterpart: str = ""
    detail: str = ""
    exit_code: int = -1


def stop_task(draft: Draft, task: Task, stopping: Stopping) -> None:
    """Tell a placed task to stop. One that is PARTITIONED stays so until its machine is heard or given up."""
    note = Note(
        EventKind.STOP,
        incarnation=task.current.number,
        machine=task.machine,
        cause=stopping.cause,
        counterpart=str(stopping.by or ""),
        detail=stopping.detail,
    )
    draft.put_task(replace(task, stopping=stopping, healthy=False), note)


def kill_task(draft: Draft, task: Task, detail: str) -> bool:
    """End a task for good: at once when it has no machine. False when there is nothing left to do."""
    if task.state is TaskState.DEAD:
        return False
    if task.state is TaskState.PENDING:
        end_task(draft, task, End(EndReason.KILLED, resubmit=False, detail=detail))
        return True
    before = task.stopping
    if before is not None and not before.resubmit:
        return False
    stopping = Stopping(
        EndReason.KILLED,
        draft.now_ms,
        by=before.by if before is not None else None,  # its room stays the preemptor's
        detail=detail,
        resubmit=False,
    )
    stop_task(draft, task, stopping)
    return True


def end_of_report(job: Job, task: Task, report: Reported) -> End:
    """What the end that a machine reports means for a task of this job."""
    exited_well = report.end is EndKind.EXITED and report.exit_code == 0
    if exited_well and (job.is_batch or task.stopping is None):
        return End(EndReason.FINISHED, not job.is_batch, detail=report.detail, exit_code=0)
    if task.stopping is not None:
        return end_of_stop(task.stopping, exit_code=report.exit_code)
    detail = report.detail or _detail_of(report)
    match report.end:
        case EndKind.EXITED | EndKind.OUT_OF_MEMORY | EndKind.UNHEALTHY | EndKind.START_FAILED:
            resubmit = not job.is_batch or task.failures < job.spec.max_failures
            return End(EndReason.FAILED, resubmit, detail=detail, exit_code=report.exit_code)
        case EndKind.REFUSED:
            cause = EvictionCause.OUT_OF_RESOURCES
            return End(EndReason.EVICTED, resubmit=True, cause=cause, detail=detail)
        case EndKind.STOPPED | EndKind.LOST | None:
            return End(EndReason.LOST, resubmit=True, detail=detail)


def end_of_stop(stopping: Stopping, *, exit_code: int = -1) -> End:
    """The end of a task that was told to stop."""
    return End(
        stopping.reason,
        stopping.resubmit,
        cause=stopping.cause,
        counterpart=str(stopping.by or ""),
        detail=stopping.detail,
        exit_code=exit_code,
    )


def lose_task(draft: Draft, task: Task, detail: str) -> None:
    """Give up a placed task: its machine will not tell how it ended."""
    if task.stopping is not None:
        end_task(draft, task, end_of_stop(task.stopping))
    else:
        end_task(draft, task, End(EndReason.LOST, resubmit=True, detail=detail))


def end_task(draft: Draft, task: Task, end: End) -> None:
    """Record the end of the current incarnation: a death, then SUBMIT where the next one follows.

    A task beyond the count of its job is dropped.
    """
    job = draft.job_of(task)
    note = Note(
        _KIND_OF_END[end.reason],
        incarnation=task.current.number,
        machine=task.machine,
        cause=end.cause,
        counterpart=end.counterpart,
        detail=end.detail,
        exit_code=end.exit_code,
    )
    dead = _after_run(draft.now_ms, job, task, end)
    if end.resubmit:
        submit_next(draft, job, dead, note)
        return
    draft.put_task(dead, note)
    if task.key.index >= job.spec.task_count:
        draft.forget_task(task.key)


def submit_next(draft: Draft, job: Job, task: Task, *notes: Note) -> None:
    """Submit the incarnation after a dead one, at the version of the job.

    When that version runs something else than the dead one did, it starts without its predecessor's failures.
    """
    spec = job.spec.task_spec(task.key.index)
    if task.current.version != job.version and spec != job.task_spec(
        task.current.version, task.key.index
    ):
        task = replace(task, failures=0, backoff_ms=0, not_before_ms=0)
    incarnation = Incarnation(task.current.number + 1, job.version, draft.now_ms)
    wait_ms = max(0, task.not_before_ms - draft.now_ms)
    submit = Note(
        EventKind.SUBMIT,
        incarnation=incarnation.number,
        detail=f"back-off {wait_ms / 1000:g} s" if wait_ms else "",
    )
    after = replace(
        task,
        current=incarnation,
        finished=(*task.finished, task.current)[-FINISHED_KEPT_MAX:],
        priority=job.spec.priority,
        limit=spec.limit,
    )
    draft.put_task(after, *notes, submit)


def _after_run(now_ms: int, job: Job, task: Task, end: End) -> Task:
    run = task.current
    ended = replace(
        run,
        ended_at_ms=now_ms,
        end_reason=end.reason,
        cause=end.cause,
        exit_code=end.exit_code,
        detail=end.detail,
    )
    was_stable = run.running_at_ms > 0 and now_ms - run.running_at_ms >= STABLE_MS
    failures, backoff_ms, not_before_ms = task.failures, task.backoff_ms, 0
    if was_stable:
        backoff_ms = 0
        failures = failures if job.is_batch else 0
    if end.reason is EndReason.FAILED:
        failures += 1
    ran_short = end.reason is EndReason.FINISHED and not was_stable
    if end.resubmit and (end.reason is EndReason.FAILED or ran_short):
        backoff_ms = min(max(2 * backoff_ms, BACKOFF_FIRST_MS), BACKOFF_MAX_MS)
        not_before_ms = now_ms + backoff_ms
    return replace(
        task,
        current=ended,
        failures=failures,
        backoff_ms=backoff_ms,
        not_before_ms=not_before_ms,
        stopping=None,
        healthy=False,
    )


def _detail_of(report: Reported) -> str:
    if report.end is None:
        return _DETAIL_OF_END[EndKind.LOST]
    if report.end is EndKind.EXITED:
        return f"exited with status {report.exit_code}"
    return _DETAIL_OF_END[report.end]
