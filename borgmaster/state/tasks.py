"""Owns the decisions about placed tasks: what their machines report, and what the controllers ask for."""

from borgcell.types import EndReason, EventKind, TaskPhase, TaskState
from msgspec.structs import replace

from borgmaster.state.commands import EvictTasks, LoseTasks, Reported, ReportTasks, UpdateTasks
from borgmaster.state.draft import Draft
from borgmaster.state.endings import end_of_report, end_task, lose_task, stop_task
from borgmaster.state.events import Note
from borgmaster.state.jobs import bump_task
from borgmaster.state.machines import mark_up
from borgmaster.state.model import Stopping, Task
from borgmaster.state.outcome import Accepted, Code, Outcome, Rejected


def report_tasks(draft: Draft, command: ReportTasks) -> Outcome:
    """Take over what a machine says. It evidently answers: one that was thought down is up again."""
    machine = draft.machine(command.machine)
    if machine is None:
        return Rejected(Code.NOT_FOUND, f"there is no machine {command.machine}")
    affected = 0
    for report in command.reports:
        task = draft.current(report.task, report.incarnation)
        if task is None or task.machine != command.machine:
            continue
        known = len(draft.events)
        if report.phase is TaskPhase.ENDED:
            end_task(draft, task, end_of_report(draft.job_of(task), task, report))
        else:
            mark_up(draft, command.machine)
            _take_over(draft, task, report)
        affected += len(draft.events) > known
    return Accepted(changed=affected > 0, tasks_affected=affected)


def lose_tasks(draft: Draft, command: LoseTasks) -> Outcome:
    """Give up tasks whose machines have not been heard for long."""
    affected = 0
    for key, incarnation in command.tasks:
        task = draft.current(key, incarnation)
        if task is not None and task.state is TaskState.PARTITIONED:
            lose_task(draft, task, f"{task.machine} does not answer")
            affected += 1
    return Accepted(changed=affected > 0, tasks_affected=affected)


def evict_tasks(draft: Draft, command: EvictTasks) -> Outcome:
    """Stop tasks by the cell's wish."""
    affected = 0
    for key, incarnation in command.tasks:
        task = draft.current(key, incarnation)
        if task is not None and task.machine and task.stopping is None:
            stopping = Stopping(
                EndReason.EVICTED, draft.now_ms, cause=command.cause, detail=command.detail
            )
            stop_task(draft, task, stopping)
            affected += 1
    return Accepted(changed=affected > 0, tasks_affected=affected)


def update_tasks(draft: Draft, command: UpdateTasks) -> Outcome:
    """Move tasks to their job's version; where they must, by a restart."""
    affected = 0
    for key, incarnation in command.tasks:
        task = draft.current(key, incarnation)
        if task is None or not task.machine or task.stopping is not None:
            continue
        job = draft.job_of(task)
        if task.current.version == job.version:
            continue
        affected += 1
        if not bump_task(draft, job, task):
            detail = f"update to version {job.version}"
            stop_task(draft, task, Stopping(EndReason.KILLED, draft.now_ms, detail=detail))
    return Accepted(changed=affected > 0, tasks_affected=affected)


def _take_over(draft: Draft, task: Task, report: Reported) -> None:
    """What a live task's machine says of it; nothing when that is known."""
    notes = []
    current, healthy = task.current, task.healthy

    def note(kind: EventKind) -> None:
        notes.append(Note(kind, current.number, task.machine, detail=report.detail))

    state = task.state
    if state is TaskState.STOPPING:
        return
    if state is TaskState.PARTITIONED:
        note(EventKind.REJOIN)
        state = TaskState.STARTING
        if task.stopping is not None:
            note(EventKind.STOP)
            draft.put_task(task, *notes)
            return
    if state is TaskState.ASSIGNED:
        note(EventKind.START)
        state = TaskState.STARTING
    runs = report.phase is TaskPhase.RUNNING
    if state is TaskState.STARTING and runs:
        note(EventKind.HEALTHY)
        state, healthy = TaskState.RUNNING, True
        current = replace(current, running_at_ms=current.running_at_ms or draft.now_ms)
    # A task that is stopped by its machine's own decision is neither: its end will tell.
    if state is TaskState.RUNNING and report.phase is not TaskPhase.STOPPING:
        good = runs and report.healthy
        if good is not healthy:
            note(EventKind.HEALTHY if good else EventKind.UNHEALTHY)
            healthy = good
    if notes:
        draft.put_task(replace(task, current=current, healthy=healthy), *notes)
