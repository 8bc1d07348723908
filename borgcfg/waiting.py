"""Owns waiting for jobs to be up: polls the cell, shows what changes, and knows when waiting is in vain."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from borgcell.types import JobKey, TaskKey
from borgcell.v1 import types_pb2

from borgcfg import exit_codes
from borgcfg.client import CellClient
from borgcfg.failures import CellRefused
from borgcfg.progress import Standing, Target, Verdict, crash_loop, standing_of
from borgcfg.render import reports, tables
from borgcfg.session import now_ms

POLL_S_MIN: Final = 0.2
POLL_S_MAX: Final = 1.0
# A task that fits nowhere for so long is said to; longer than the grace that a victim has to leave its place (10 s).
STUCK_S: Final = 15.0
SETTLE_S: Final = 1.0  # a task that crashes at the start has done so by then
TASKS_SHOWN_MAX: Final = 10
TASKS_EXPLAINED_MAX: Final = 3
UNREADY_STATES: Final = (
    types_pb2.TASK_STATE_PENDING,
    types_pb2.TASK_STATE_ASSIGNED,
    types_pb2.TASK_STATE_STARTING,
    types_pb2.TASK_STATE_STOPPING,
    types_pb2.TASK_STATE_PARTITIONED,
)


_SUBMITTED: Final = Standing(Verdict.WAITING, "submitted")


@dataclass
class Waited:
    """A job that is waited for, as last seen."""

    target: Target
    standing: Standing = _SUBMITTED
    unready: list[types_pb2.Task] = field(default_factory=list)
    changed_at_s: float = 0.0  # when the standing last changed
    up_at_s: float | None = None  # since when all its tasks run
    reasons: list[str] = field(default_factory=list)  # why it failed


class View(Protocol):
    """Shows the jobs that are waited for, again and again."""

    def show(self, jobs: Sequence[Waited]) -> None:
        """The jobs as they are now."""


def wait_until_up(
    client: CellClient,
    targets: Sequence[Target],
    timeout_s: float,
    view: View,
    *,
    stuck_s: float = STUCK_S,
) -> tuple[int, list[Waited]]:
    """Poll until every job is up or one verdict says no: an exit code and the jobs as last seen."""
    started_s = time.monotonic()
    jobs = [Waited(target, changed_at_s=started_s) for target in targets]
    poll_s = POLL_S_MIN
    while True:
        for job in jobs:
            if job.standing.verdict is Verdict.WAITING:
                _look(client, job, stuck_s)
        view.show(jobs)
        verdicts = {job.standing.verdict for job in jobs}
        if Verdict.WAITING not in verdicts:
            failed = Verdict.FAILED in verdicts
            return (exit_codes.REFUSED if failed else exit_codes.DONE), jobs
        if time.monotonic() - started_s >= timeout_s:
            for job in jobs:
                if job.standing.verdict is Verdict.WAITING:
                    job.reasons = _explanations(client, job.target.key)
            return exit_codes.TIMED_OUT, jobs
        time.sleep(poll_s)
        poll_s = min(poll_s * 1.3, POLL_S_MAX)


def unready_keys(client: CellClient, key: JobKey, count_max: int) -> list[TaskKey]:
    """Tasks of a job that are neither running nor done, at most ``count_max``."""
    tasks = client.tasks(key, states=UNREADY_STATES, count_max=count_max)
    return [TaskKey(task.user, task.job, task.index) for task in tasks]


def _look(client: CellClient, waited: Waited, stuck_s: float) -> None:
    target = waited.target
    job = client.job(target.key)
    now_s = time.monotonic()
    standing = _settled(waited, standing_of(target, job), job, now_s)
    if standing != waited.standing:
        waited.standing, waited.changed_at_s = standing, now_s
    if standing.verdict is Verdict.FAILED:
        waited.reasons = _endings(client, target.key)
    if standing.verdict is not Verdict.WAITING:
        waited.unready = []
        return
    waited.unready = client.tasks(target.key, states=UNREADY_STATES, count_max=TASKS_SHOWN_MAX)
    crashing = crash_loop(target, waited.unready)
    if crashing is not None:
        line = f"{standing.line}; a task fails again and again"
        waited.standing = Standing(Verdict.FAILED, line)
        waited.reasons = _explanations(client, target.key)
    elif now_s - waited.changed_at_s >= stuck_s:
        _give_up_if_stuck(client, waited)


def _settled(
    waited: Waited, standing: Standing, job: types_pb2.Job | None, now_s: float
) -> Standing:
    """The standing; a service that nothing probes is up only when it has been for a while.

    Without a health check a task is RUNNING as soon as its process is, even one that ends at once.
    """
    if standing.verdict is not Verdict.UP or job is None:
        waited.up_at_s = None
        return standing
    is_probed = job.spec.task.HasField("health") or job.spec.kind == types_pb2.JOB_KIND_BATCH
    if waited.up_at_s is None:
        waited.up_at_s = now_s
    if is_probed or now_s - waited.up_at_s >= SETTLE_S:
        return standing
    return Standing(Verdict.WAITING, standing.line)


def _give_up_if_stuck(client: CellClient, waited: Waited) -> None:
    """Fail the job if its first pending task fits nowhere, even after others would have left."""
    waited.changed_at_s = time.monotonic()  # look again only after another while
    pending = next(
        (task for task in waited.unready if task.state == types_pb2.TASK_STATE_PENDING), None
    )
    if pending is None:
        return
    answer = client.explain(TaskKey(pending.user, pending.job, pending.index))
    if answer.HasField("misfit") and not answer.feasible_machines:
        line = f"{waited.standing.line}; a task fits nowhere now"
        waited.standing = Standing(Verdict.FAILED, line)
        waited.reasons = _explanations(client, waited.target.key)


def _explanations(client: CellClient, key: JobKey) -> list[str]:
    """Why the first tasks that are not ready are not, as the cell explains it; equal reasons once."""
    texts: dict[str, str] = {}
    for task in unready_keys(client, key, TASKS_EXPLAINED_MAX):
        try:
            answer = client.explain(task)
        except CellRefused as error:  # gone meanwhile
            texts[str(error)] = f"{task}: {error}"
            continue
        if answer.summary not in texts:
            texts[answer.summary] = reports.why_text(answer, now_ms(), colour=False).rstrip()
    return list(texts.values())


def _endings(client: CellClient, key: JobKey) -> list[str]:
    """How the tasks ended that are dead without having finished."""
    tasks = client.tasks(key, states=[types_pb2.TASK_STATE_DEAD], count_max=TASKS_SHOWN_MAX)
    return [
        f"{task.user}/{task.job}/{task.index}: {tables.ending(task)}"
        for task in tasks
        if task.current.end_reason != types_pb2.END_REASON_FINISHED
    ]
