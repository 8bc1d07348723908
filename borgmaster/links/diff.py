"""Owns what a report of a Borglet means to the master: full reports in, only differences out (B15 §3.3). Pure."""

from collections.abc import Iterable, Mapping

from borgcell.types import EndKind, TaskKey, TaskPhase, TaskState

from borgmaster.state.commands import Reported
from borgmaster.state.model import Task

# What the state must be for a live report to be no news.
_SETTLED = {
    TaskPhase.WAITING: (TaskState.ASSIGNED, TaskState.STARTING),
    TaskPhase.STARTING: (TaskState.STARTING,),
    TaskPhase.RUNNING: (TaskState.RUNNING,),
    TaskPhase.STOPPING: (TaskState.STOPPING,),
}


def news(tasks: Mapping[TaskKey, Task], reports: Iterable[Reported]) -> tuple[Reported, ...]:
    """The reports that would change a task of the machine, whose placed tasks are ``tasks``, keyed by task key."""
    return tuple(
        report
        for report in reports
        if (task := tasks.get(report.task)) is not None
        and task.current.number == report.incarnation
        and _is_news(task, report)
    )


def _is_news(task: Task, report: Reported) -> bool:
    if report.phase is TaskPhase.ENDED:
        return True
    if task.state is TaskState.PARTITIONED:
        return True
    if task.state is TaskState.STOPPING:
        return False  # only its end matters now
    if task.state is TaskState.RUNNING:
        return report.phase is TaskPhase.RUNNING and report.healthy != task.healthy
    return task.state not in _SETTLED[report.phase]


def missing(tasks: Mapping[TaskKey, Task], reports: Iterable[Reported]) -> tuple[Reported, ...]:
    """Ends, as LOST, for tasks that a full report should mention and does not, in order of their keys.

    ASSIGNED tasks are not among them: the machine may not have heard of them yet. All others were once
    reported by it; when it forgot them (its disk was wiped, say), nobody will ever know how they ended.
    """
    mentioned = {(report.task, report.incarnation) for report in reports}
    return tuple(
        Reported(
            key,
            task.current.number,
            TaskPhase.ENDED,
            EndKind.LOST,
            detail="its machine does not know it any more",
        )
        for key, task in sorted(tasks.items())
        if task.current.running_at_ms or task.state in (TaskState.STARTING, TaskState.STOPPING)
        if (key, task.current.number) not in mentioned
    )


def acknowledged(
    tasks: Mapping[TaskKey, Task], reports: Iterable[Reported]
) -> tuple[tuple[TaskKey, int], ...]:
    """Reported ends that the state holds already, or that mean nothing to it: the Borglet may drop them."""
    return tuple(
        (report.task, report.incarnation)
        for report in reports
        if report.phase is TaskPhase.ENDED
        and ((task := tasks.get(report.task)) is None or task.current.number != report.incarnation)
    )
