"""Owns the state of a cell: what every replica holds, and the only assignments to it.

Nothing but ``core.evolve`` and ``checkpoint.restore`` calls the methods that change it.
"""

from collections import deque
from itertools import islice
from typing import Final

from borgcell.resources import ZERO, Resources
from borgcell.specs import JobSpec
from borgcell.types import JobKey, TaskKey

from borgmaster.state.events import Note, Recorded
from borgmaster.state.indexes import TaskIndexes
from borgmaster.state.model import Job, Machine, Task
from borgmaster.state.outcome import Outcome

HISTORY_MAX: Final = 50_000
# The garbage controller keeps half of it; beyond this the oldest answers go, whatever happens to the controller.
REQUESTS_MAX: Final = 200_000
RETIRED_MAX: Final = 100_000


class CellState:
    """Jobs, tasks and machines of a cell at one log index, with what is derived from them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.jobs: dict[JobKey, Job] = {}
        self.tasks: dict[TaskKey, Task] = {}
        self.machines: dict[str, Machine] = {}
        self.requests: dict[str, tuple[int, Outcome]] = {}  # (answered at, answer), oldest first
        self.history: deque[Recorded] = deque(maxlen=HISTORY_MAX)
        self.sequence = 0  # of the last line of the history
        self.applied_index = 0
        self.now_ms = 0  # latest stamp of an entry; never goes back
        # Highest incarnation among the forgotten tasks of a job, oldest first, and a bound for those dropped
        # from it: a (task, incarnation) is never used twice, or a machine that was long away could take a new
        # task for one it still runs.
        self.retired: dict[JobKey, int] = {}
        self.retired_floor = 0
        # Machines that offer less than their tasks hold, because their capacity shrank.
        self.shrunk: set[str] = set()
        self.indexes = TaskIndexes()

    def tasks_of(self, job: JobKey) -> list[Task]:
        """The tasks of a job by index."""
        return [
            self.tasks[TaskKey(job.user, job.name, index)]
            for index in sorted(self.indexes.by_job.get(job, ()))
        ]

    def tasks_on(self, machine: str) -> list[Task]:
        """The tasks placed on a machine, by key."""
        return [self.tasks[key] for key in sorted(self.indexes.by_machine.get(machine, ()))]

    def held_on(self, machine: str) -> Resources:
        """What the tasks of a machine take of it."""
        return self.indexes.held.get(machine, ZERO)

    def spec_of(self, task: Task) -> JobSpec:
        """The job spec of the version that the task's current incarnation runs."""
        return self.jobs[task.key.job_key].spec_at(task.current.version)

    def first_incarnation(self, job: JobKey) -> int:
        """Number for the first incarnation of a task that does not exist now."""
        return max(self.retired.get(job, 0), self.retired_floor) + 1

    def put_task(self, task: Task) -> None:
        """Create or replace a task."""
        old = self.tasks.get(task.key)
        self.tasks[task.key] = task
        self.indexes.put(old, task)
        if old is not None and old.machine in self.shrunk:
            self._watch_shrunk(old.machine)

    def drop_task(self, key: TaskKey) -> None:
        """Forget a task, but not how far its incarnations went."""
        task = self.tasks.pop(key)
        self.indexes.drop(task)
        self._retire(key.job_key, task.current.number)

    def drop_job(self, key: JobKey) -> None:
        """Forget a job and its tasks."""
        for index in sorted(self.indexes.by_job.get(key, ())):
            self.drop_task(TaskKey(key.user, key.name, index))
        del self.jobs[key]

    def put_machine(self, machine: Machine) -> None:
        """Create or replace a machine."""
        old = self.machines.get(machine.name)
        self.machines[machine.name] = machine
        if old is None or old.capacity != machine.capacity:
            self._watch_shrunk(machine.name)

    def drop_machine(self, name: str) -> None:
        """Forget a machine."""
        del self.machines[name]
        self.shrunk.discard(name)

    def put_request(self, request_id: str, at_ms: int, outcome: Outcome) -> None:
        """Remember an answer; the oldest tenth goes when there are too many."""
        self.requests[request_id] = (at_ms, outcome)
        if len(self.requests) > REQUESTS_MAX:
            for oldest in list(islice(self.requests, REQUESTS_MAX // 10)):
                del self.requests[oldest]

    def drop_requests(self, before_ms: int) -> None:
        """Forget the answers given before a time."""
        drop = []
        for request_id, (at_ms, _) in self.requests.items():
            if at_ms >= before_ms:
                break  # answers are in the order of their times
            drop.append(request_id)
        for request_id in drop:
            del self.requests[request_id]

    def record(self, index: int, at_ms: int, subject: str, key: str, note: Note) -> Recorded:
        """Add a line to the history."""
        self.sequence += 1
        recorded = Recorded(self.sequence, index, at_ms, subject, key, note)
        self.history.append(recorded)
        return recorded

    def _watch_shrunk(self, name: str) -> None:
        held, machine = self.held_on(name), self.machines.get(name)
        if machine is not None and exceeds(held, machine.capacity):
            self.shrunk.add(name)
        else:
            self.shrunk.discard(name)

    def _retire(self, job: JobKey, number: int) -> None:
        self.retired[job] = max(self.retired.pop(job, 0), number)
        if len(self.retired) > RETIRED_MAX:
            for oldest in list(islice(self.retired, RETIRED_MAX // 10)):
                self.retired_floor = max(self.retired_floor, self.retired.pop(oldest))


def exceeds(held: Resources, capacity: Resources) -> bool:
    """Whether more is held than there is, in any dimension."""
    return any(
        have > offered for have, offered in zip(held.as_tuple(), capacity.as_tuple(), strict=True)
    )
