"""Owns what is derived from the tasks of a cell, so that no decision has to look at all of them.

Everything here can be rebuilt from the tasks; ``invariants.check`` does so and compares. Sets have no order:
whoever iterates over one sorts it first, or replicas will differ.
"""

from collections.abc import Hashable
from typing import TypeVar

from borgcell.resources import ZERO, Resources
from borgcell.types import JobKey, TaskKey, TaskState

from borgmaster.state.model import Task

_Key = TypeVar("_Key", bound=Hashable)
_Outer = TypeVar("_Outer", bound=Hashable)


class TaskIndexes:
    """Tasks by job, by machine, by state; kept by ``put`` and ``drop``. Empty entries are absent."""

    __slots__ = (
        "by_job",
        "by_machine",
        "counts",
        "counts_by_job",
        "held",
        "pending",
        "spread",
        "versions",
    )

    def __init__(self) -> None:
        self.by_job: dict[JobKey, set[int]] = {}  # indexes of the tasks of a job
        self.by_machine: dict[str, set[TaskKey]] = {}  # tasks placed on a machine
        self.held: dict[str, Resources] = {}  # sum of Task.held by machine
        self.pending: set[TaskKey] = set()
        self.counts: dict[TaskState, int] = {}
        self.counts_by_job: dict[JobKey, dict[TaskState, int]] = {}
        self.versions: dict[JobKey, dict[int, int]] = {}  # how many tasks are at a version
        # How many tasks of a job hold room on a machine: what max_per_machine and max_per_rack count.
        self.spread: dict[JobKey, dict[str, int]] = {}

    def put(self, old: Task | None, new: Task) -> None:
        """Take over a task that was created, or changed from ``old``."""
        if (
            old is not None
            and old.state is new.state
            and old.current.version == new.current.version
            and old.current.machine == new.current.machine
            and old.held == new.held  # also tells whether its room was given away: no limit is zero
        ):
            return
        if old is not None:
            self.drop(old)
        self._add(new)

    def drop(self, task: Task) -> None:
        """Take out a task that is forgotten."""
        key, job_key = task.key, task.key.job_key
        indexes = self.by_job[job_key]
        indexes.discard(key.index)
        if not indexes:
            del self.by_job[job_key]
        _add_count(self.counts, task.state, -1)
        _add_nested(self.counts_by_job, job_key, task.state, -1)
        _add_nested(self.versions, job_key, task.current.version, -1)
        if task.state is TaskState.PENDING:
            self.pending.discard(key)
        if machine := task.machine:
            tasks = self.by_machine[machine]
            tasks.discard(key)
            self.held[machine] -= task.held
            if not tasks:
                del self.by_machine[machine]
                del self.held[machine]
            if is_spread(task):
                _add_nested(self.spread, job_key, machine, -1)

    def _add(self, task: Task) -> None:
        key, job_key = task.key, task.key.job_key
        self.by_job.setdefault(job_key, set()).add(key.index)
        _add_count(self.counts, task.state, 1)
        _add_nested(self.counts_by_job, job_key, task.state, 1)
        _add_nested(self.versions, job_key, task.current.version, 1)
        if task.state is TaskState.PENDING:
            self.pending.add(key)
        if machine := task.machine:
            self.by_machine.setdefault(machine, set()).add(key)
            self.held[machine] = self.held.get(machine, ZERO) + task.held
            if is_spread(task):
                _add_nested(self.spread, job_key, machine, 1)

    def live_count(self, job: JobKey) -> int:
        """How many tasks of a job are not DEAD."""
        counts = self.counts_by_job.get(job, {})
        return sum(counts.values()) - counts.get(TaskState.DEAD, 0)


def is_spread(task: Task) -> bool:
    """Whether it counts for max_per_machine and max_per_rack: placed, and its room not given to a preemptor."""
    return task.machine != "" and (task.stopping is None or task.stopping.by is None)


def _add_count(counts: dict[_Key, int], key: _Key, by: int) -> None:
    after = counts.get(key, 0) + by
    if after:
        counts[key] = after
    else:
        del counts[key]


def _add_nested(counts: dict[_Outer, dict[_Key, int]], outer: _Outer, key: _Key, by: int) -> None:
    inner = counts.setdefault(outer, {})
    _add_count(inner, key, by)
    if not inner:
        del counts[outer]
