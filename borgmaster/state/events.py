"""Owns what can happen to the cell: one frozen value per fact, a closed union.

An event carries the whole new value, so that ``evolve`` only assigns. ``note`` is what people and the event
history see of it; facts without a note are silent.
"""

from borgcell.types import EventKind, EvictionCause, JobKey, TaskKey
from msgspec import Struct

from borgmaster.state.model import Job, Machine, Task
from borgmaster.state.outcome import Outcome


class Note(Struct, frozen=True, gc=False):
    """The part of an event that history keeps beside time and subject."""

    kind: EventKind
    incarnation: int = 0
    machine: str = ""
    cause: EvictionCause | None = None
    counterpart: str = ""  # the other task of a preemption, user/job/index
    detail: str = ""
    exit_code: int = -1


class JobChanged(Struct, frozen=True):
    """A job was created or changed."""

    job: Job
    note: Note | None = None


class JobForgotten(Struct, frozen=True):
    """An ended job and all its tasks were dropped."""

    job: JobKey


class TaskChanged(Struct, frozen=True):
    """A task was created or changed. ``notes`` in the order they happened: a retry is a death, then SUBMIT."""

    task: Task
    notes: tuple[Note, ...] = ()


class TaskForgotten(Struct, frozen=True):
    """A task beyond the job's count was dropped after its end."""

    task: TaskKey


class MachineChanged(Struct, frozen=True):
    """A machine was added or changed."""

    machine: Machine
    note: Note | None = None


class MachineForgotten(Struct, frozen=True):
    """A machine was removed."""

    name: str
    note: Note | None = None


class RequestAnswered(Struct, frozen=True):
    """A client's request id got its answer."""

    request_id: str
    at_ms: int
    outcome: Outcome


class RequestsForgotten(Struct, frozen=True):
    """Answers given before ``before_ms`` were dropped."""

    before_ms: int


Event = (
    JobChanged
    | JobForgotten
    | TaskChanged
    | TaskForgotten
    | MachineChanged
    | MachineForgotten
    | RequestAnswered
    | RequestsForgotten
)


class Recorded(Struct, frozen=True, gc=False):
    """One line of the event history: what ``borgcfg events`` and Watch show."""

    sequence: int
    index: int
    at_ms: int
    subject: str  # "task", "job" or "machine"
    key: str  # user/job/index, user/job or the machine's name
    note: Note
