"""Owns a decision in the making: the cell as it will be after the events decided so far.

Reads fall through to the cell, which never changes; so the parts of one command see each other's effects.
"""

from collections import Counter

from borgcell.resources import ZERO, Resources
from borgcell.types import EndReason, EventKind, JobKey, TaskKey, TaskState
from msgspec.structs import replace

from borgmaster.state.cell import CellState
from borgmaster.state.events import (
    Event,
    JobChanged,
    MachineChanged,
    Note,
    TaskChanged,
    TaskForgotten,
)
from borgmaster.state.indexes import is_spread
from borgmaster.state.model import Job, Machine, Task
from borgmaster.state.task_machine import state_after

_END_REASONS_BY_WEIGHT = (
    (EndReason.FAILED, EventKind.FAIL),
    (EndReason.KILLED, EventKind.KILL),
)


class Draft:
    """A cell and the events decided on it; ``now_ms`` is the time of the decision."""

    def __init__(self, cell: CellState, now_ms: int) -> None:
        self.cell = cell
        self.now_ms = now_ms
        self.events: list[Event] = []
        self._jobs: dict[JobKey, Job] = {}
        self._tasks: dict[TaskKey, Task | None] = {}
        self._machines: dict[str, Machine] = {}
        self._held: dict[str, Resources] = {}  # by machine: what was added to the cell's
        self._arrived: dict[str, list[TaskKey]] = {}  # by machine: tasks placed on it
        self._spread: Counter[tuple[JobKey, str]] = Counter()  # added to the cell's, as all below
        self._live: Counter[JobKey] = Counter()
        self._versions: Counter[tuple[JobKey, int]] = Counter()
        self._touched: dict[JobKey, None] = {}

    def job(self, key: JobKey) -> Job | None:
        """The job, or None."""
        return self._jobs.get(key) or self.cell.jobs.get(key)

    def job_of(self, task: Task) -> Job:
        """The job of a task that exists."""
        job = self.job(task.key.job_key)
        assert job is not None, f"{task.key} has no job"
        return job

    def task(self, key: TaskKey) -> Task | None:
        """The task, or None."""
        return self._tasks[key] if key in self._tasks else self.cell.tasks.get(key)

    def current(self, key: TaskKey, incarnation: int) -> Task | None:
        """The task if this is its current incarnation; None for what is stale."""
        task = self.task(key)
        return task if task is not None and task.current.number == incarnation else None

    def tasks_of(self, job: JobKey) -> list[Task]:
        """The tasks of a job by index."""
        indexes = self.cell.indexes.by_job.get(job, set()) | {
            key.index for key in self._tasks if key.job_key == job
        }
        keys = (TaskKey(job.user, job.name, index) for index in sorted(indexes))
        return [task for key in keys if (task := self.task(key)) is not None]

    def machine(self, name: str) -> Machine | None:
        """The machine, or None."""
        return self._machines.get(name) or self.cell.machines.get(name)

    def tasks_on(self, machine: str) -> list[Task]:
        """The tasks placed on a machine, in no order that replicas share: sort or count them."""
        keys = self.cell.indexes.by_machine.get(machine, set()).union(
            self._arrived.get(machine, ())
        )
        tasks = map(self.task, keys)
        return [task for task in tasks if task is not None and task.machine == machine]

    def held_on(self, machine: str) -> Resources:
        """What the tasks of a machine take of it."""
        return self.cell.held_on(machine) + self._held.get(machine, ZERO)

    def spread_on(self, job: JobKey, machine: str) -> int:
        """How many tasks of a job hold room on a machine."""
        return self.cell.indexes.spread.get(job, {}).get(machine, 0) + self._spread[job, machine]

    def machines_of(self, job: JobKey) -> set[str]:
        """Machines on which tasks of a job hold room, and perhaps some that they left."""
        return set(self.cell.indexes.spread.get(job, ())).union(
            machine for key, machine in self._spread if key == job
        )

    def put_job(self, job: Job, note: Note | None = None) -> None:
        """Decide that a job becomes this."""
        self._jobs[job.key] = job
        self._touched[job.key] = None
        self.events.append(JobChanged(job, note))

    def put_machine(self, machine: Machine, note: Note | None = None) -> None:
        """Decide that a machine becomes this."""
        self._machines[machine.name] = machine
        self.events.append(MachineChanged(machine, note))

    def put_task(self, task: Task, *notes: Note) -> None:
        """Decide that a task becomes this; its state is where the notes lead from the state it is in."""
        old = self.task(task.key)
        before = TaskState.DEAD if old is None else old.state
        state = state_after(before, (note.kind for note in notes))
        if state is not task.state:
            task = replace(task, state=state)
        if old is not None:
            self._count(old, -1)
        self._count(task, 1)
        self._tasks[task.key] = task
        if task.machine and (old is None or old.machine != task.machine):
            self._arrived.setdefault(task.machine, []).append(task.key)
        self._touched[task.key.job_key] = None
        self.events.append(TaskChanged(task, notes))

    def forget_task(self, key: TaskKey) -> None:
        """Decide that a DEAD task is dropped."""
        task = self.task(key)
        assert task is not None, f"{key} does not exist"
        assert task.state is TaskState.DEAD, f"{key} is {task.state}"
        self._count(task, -1)
        self._tasks[key] = None
        self._touched[key.job_key] = None
        self.events.append(TaskForgotten(key))

    def settle(self) -> None:
        """Decide what follows for the jobs touched: batch jobs end, specs that no task is at are dropped."""
        for key in list(self._touched):
            job = self.job(key)
            if job is None:
                continue
            if job.is_batch and not job.ended and self._live_count(key) == 0:
                job = replace(job, ended=True, ended_at_ms=self.now_ms)
                self.put_job(job, self._end_note(key))
            older = {
                version: spec for version, spec in job.older.items() if self._is_used(key, version)
            }
            if len(older) != len(job.older):
                self.put_job(replace(job, older=older))

    def _live_count(self, job: JobKey) -> int:
        return self.cell.indexes.live_count(job) + self._live[job]

    def _is_used(self, job: JobKey, version: int) -> bool:
        before = self.cell.indexes.versions.get(job, {}).get(version, 0)
        return before + self._versions[job, version] > 0

    def _end_note(self, job: JobKey) -> Note:
        reasons = Counter(task.current.end_reason for task in self.tasks_of(job))
        detail = ", ".join(
            f"{reasons[reason]} {reason.lower()}" for reason in EndReason if reasons[reason]
        )
        for reason, kind in _END_REASONS_BY_WEIGHT:
            if reasons[reason]:
                return Note(kind, detail=detail)
        return Note(EventKind.FINISH, detail=detail)

    def _count(self, task: Task, by: int) -> None:
        job = task.key.job_key
        self._versions[job, task.current.version] += by
        if task.state is not TaskState.DEAD:
            self._live[job] += by
        machine = task.machine
        if not machine:
            return
        held = self._held.get(machine, ZERO)
        self._held[machine] = held + task.held if by > 0 else held - task.held
        if is_spread(task):
            self._spread[job, machine] += by
