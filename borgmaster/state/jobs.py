"""Owns the decisions about jobs: submit, update, kill, forget."""

from typing import Final

from borgcell.specs import JobSpec, Problem, normalize, problems
from borgcell.types import EventKind, JobKey, TaskKey, TaskState
from msgspec.structs import replace

from borgmaster.state.commands import ANY_VERSION, ForgetJobs, KillJob, SubmitJob
from borgmaster.state.draft import Draft
from borgmaster.state.endings import kill_task, submit_next
from borgmaster.state.events import JobForgotten, Note, RequestsForgotten
from borgmaster.state.model import Incarnation, Job, Task
from borgmaster.state.outcome import Accepted, Code, Outcome, Rejected

CELL_TASKS_MAX: Final = 1_000_000  # ten times what a cell of 10,000 machines runs (B15 §1)


def submit_job(draft: Draft, command: SubmitJob) -> Outcome:
    """Create a job, bring it to a new version, or start an ended one anew."""
    spec = normalize(command.spec)
    found = problems(spec)
    if command.expected_version < ANY_VERSION:
        message = f"{command.expected_version} is not a version: use -1 for any, 0 for none"
        found = (*found, Problem("expected_version", message))
    if found:
        return Rejected(Code.INVALID_ARGUMENT, _summary(found), found)
    known = draft.job(spec.key)
    if refusal := _version_refusal(spec.key, known, command.expected_version):
        return refusal
    growth = spec.task_count - (known.spec.task_count if known is not None else 0)
    if len(draft.cell.tasks) + growth > CELL_TASKS_MAX:
        return Rejected(
            Code.RESOURCE_EXHAUSTED,
            f"the cell has {len(draft.cell.tasks)} tasks and takes at most {CELL_TASKS_MAX}",
        )
    if known is None or known.ended:
        return _start(draft, spec, known)
    if known.spec == spec:
        return Accepted(changed=False, version=known.version)
    if known.spec.kind is not spec.kind:
        problem = Problem("kind", f"a {known.spec.kind} job cannot become a {spec.kind} job")
        return Rejected(
            Code.FAILED_PRECONDITION, f"{problem.message}: kill {spec.key} first", (problem,)
        )
    return _update(draft, known, spec)


def kill_job(draft: Draft, command: KillJob) -> Outcome:
    """Kill a job, or some of its tasks, for good."""
    job = draft.job(command.job)
    if job is None:
        return Rejected(Code.NOT_FOUND, f"there is no job {command.job}")
    if not command.indexes:
        affected = sum(kill_task(draft, task, "killed") for task in draft.tasks_of(command.job))
        if not job.ended:
            ended = replace(job, ended=True, ended_at_ms=draft.now_ms)
            draft.put_job(ended, Note(EventKind.KILL))
        return Accepted(changed=bool(draft.events), tasks_affected=affected)
    tasks = []
    for index in sorted(set(command.indexes)):
        key = TaskKey(command.job.user, command.job.name, index)
        task = draft.task(key)
        if task is None:
            return Rejected(Code.NOT_FOUND, f"there is no task {key}")
        tasks.append(task)
    affected = sum(kill_task(draft, task, "killed") for task in tasks)
    return Accepted(changed=affected > 0, tasks_affected=affected)


def forget_jobs(draft: Draft, command: ForgetJobs) -> Outcome:
    """Drop jobs that have ended with all their tasks, and old answers."""
    indexes = draft.cell.indexes
    for key in dict.fromkeys(command.jobs):
        job = draft.job(key)
        if job is not None and job.ended and indexes.live_count(key) == 0:
            draft.events.append(JobForgotten(key))
    oldest = next(iter(draft.cell.requests.values()), None)
    if oldest is not None and oldest[0] < command.requests_before_ms:
        draft.events.append(RequestsForgotten(command.requests_before_ms))
    return Accepted(changed=bool(draft.events))


def _summary(found: tuple[Problem, ...]) -> str:
    shown = "; ".join(map(str, found[:3]))
    return f"{shown}; and {len(found) - 3} more" if len(found) > 3 else shown


def _version_refusal(key: JobKey, known: Job | None, expected: int) -> Rejected | None:
    if expected == ANY_VERSION:
        return None
    if expected == 0:
        if known is None or known.ended:
            return None
        return Rejected(
            Code.FAILED_PRECONDITION, f"{key} exists already, at version {known.version}"
        )
    if known is None:
        return Rejected(
            Code.FAILED_PRECONDITION,
            f"version {expected} of {key} was expected, but there is no such job",
        )
    if known.version != expected:
        return Rejected(
            Code.FAILED_PRECONDITION,
            f"{key} is at version {known.version}, but version {expected} was expected",
        )
    return None


def _start(draft: Draft, spec: JobSpec, ended: Job | None) -> Accepted:
    """Submit all tasks; those still leaving from the job's former life follow once they have ended."""
    version = ended.version + 1 if ended is not None else 1
    older = {**ended.older, ended.version: ended.spec} if ended is not None else {}
    job = Job(spec, version, created_at_ms=draft.now_ms, updated_at_ms=draft.now_ms, older=older)
    draft.put_job(job, Note(EventKind.SUBMIT, detail=f"version {version}"))
    for index in range(spec.task_count):
        task = draft.task(TaskKey(spec.user, spec.name, index))
        if task is None:
            _submit_first(draft, job, index)
            continue
        fresh = replace(task, failures=0, backoff_ms=0, not_before_ms=0)
        if task.state is TaskState.DEAD:
            submit_next(draft, job, fresh)
        else:
            _bring_back(draft, fresh)
    for task in draft.tasks_of(spec.key):
        if task.key.index >= spec.task_count and task.state is TaskState.DEAD:
            draft.forget_task(task.key)
    return Accepted(version=version, created=True, tasks_added=spec.task_count)


def _update(draft: Draft, old: Job, spec: JobSpec) -> Accepted:
    """Bring a job to a new version; tasks that must restart for it keep running what they run."""
    job = replace(
        old,
        spec=spec,
        version=old.version + 1,
        updated_at_ms=draft.now_ms,
        older={**old.older, old.version: old.spec},
    )
    tasks = draft.tasks_of(job.key)
    kind = (
        EventKind.UPDATE_RUNNING
        if any(task.machine for task in tasks)
        else EventKind.UPDATE_PENDING
    )
    draft.put_job(job, Note(kind, detail=f"version {job.version}"))
    added = removed = restarted = 0
    for task in tasks:
        if task.key.index >= spec.task_count:
            removed += _remove(draft, task)
        elif task.key.index >= old.spec.task_count:
            _bring_back(draft, task)
            added += 1
        elif task.state is TaskState.PENDING:
            _update_pending(draft, job, task)
        elif task.machine and task.stopping is None and not bump_task(draft, job, task):
            restarted += 1
    for index in range(old.spec.task_count, spec.task_count):
        if draft.task(TaskKey(spec.user, spec.name, index)) is None:
            _submit_first(draft, job, index)
            added += 1
    return Accepted(
        version=job.version, tasks_added=added, tasks_removed=removed, tasks_restarted=restarted
    )


def bump_task(draft: Draft, job: Job, task: Task) -> bool:
    """Move a placed task to the job's version without a restart; False when it needs one."""
    before, index = job.spec_at(task.current.version), task.key.index
    if before.constraints != job.spec.constraints or before.task_spec(index) != job.spec.task_spec(
        index
    ):
        return False
    note = Note(
        EventKind.UPDATE_RUNNING,
        incarnation=task.current.number,
        machine=task.machine,
        detail=f"version {job.version}",
    )
    current = replace(task.current, version=job.version)
    draft.put_task(replace(task, current=current, priority=job.spec.priority), note)
    return True


def _update_pending(draft: Draft, job: Job, task: Task) -> None:
    """A task that waits moves at once, and waits no longer for the failures of what it no longer runs."""
    spec = job.spec.task_spec(task.key.index)
    if spec != job.task_spec(task.current.version, task.key.index):
        task = replace(task, failures=0, backoff_ms=0, not_before_ms=0)
    draft.put_task(
        replace(
            task,
            current=replace(task.current, version=job.version),
            priority=job.spec.priority,
            limit=spec.limit,
        ),
        Note(
            EventKind.UPDATE_PENDING,
            incarnation=task.current.number,
            detail=f"version {job.version}",
        ),
    )


def _remove(draft: Draft, task: Task) -> bool:
    """Remove a task beyond the job's count; whether it was still to run."""
    if task.state is TaskState.DEAD:
        draft.forget_task(task.key)
        return False
    return kill_task(draft, task, "scaled down")


def _bring_back(draft: Draft, task: Task) -> None:
    """Let the next incarnation follow the end of a task that was leaving for good."""
    assert task.stopping is not None, f"{task.key} is {task.state} and was not leaving"
    draft.put_task(replace(task, stopping=replace(task.stopping, resubmit=True)))


def _submit_first(draft: Draft, job: Job, index: int) -> None:
    number = draft.cell.first_incarnation(job.key)
    task = Task(
        TaskKey(job.spec.user, job.spec.name, index),
        TaskState.DEAD,  # until its SUBMIT, like every task that does not exist
        Incarnation(number, job.version, draft.now_ms),
        priority=job.spec.priority,
        limit=job.spec.task_spec(index).limit,
    )
    draft.put_task(task, Note(EventKind.SUBMIT, incarnation=number))
