"""Owns the values that cell state is made of: jobs, tasks and their incarnations, machines.

All are immutable; ``evolve`` replaces them. Times are Unix ms as stamped by the proposer of an entry.
"""

from typing import Final

from borgcell.resources import ZERO, Resources
from borgcell.specs import JobSpec, TaskSpec
from borgcell.types import (
    PLACED_STATES,
    EndReason,
    EvictionCause,
    JobKey,
    JobKind,
    TaskKey,
    TaskState,
)
from msgspec import Struct, field

FINISHED_KEPT_MAX: Final = 10  # finished incarnations kept per task, the latest


class Incarnation(Struct, frozen=True, gc=False):
    """One attempt to run a task. Times are 0 for what has not happened."""

    number: int
    version: int
    submitted_at_ms: int
    machine: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    scheduled_at_ms: int = 0
    running_at_ms: int = 0
    ended_at_ms: int = 0
    end_reason: EndReason | None = None
    cause: EvictionCause | None = None
    exit_code: int = -1
    detail: str = ""


class Stopping(Struct, frozen=True, gc=False):
    """Why a task was told to stop, and so how its end will be recorded."""

    reason: EndReason  # KILLED or EVICTED
    at_ms: int
    cause: EvictionCause | None = None
    by: TaskKey | None = None  # the preemptor
    detail: str = ""
    resubmit: bool = True  # whether a next incarnation follows the end


class Task(Struct, frozen=True, gc=False):
    """One index of a job: the current incarnation and the finished ones, oldest first.

    ``machine`` is "" exactly when the state is PENDING or DEAD; ``limit`` and ``priority`` are those of the
    version that the current incarnation runs. ``stopping`` is set while the state is STOPPING, and while it is
    PARTITIONED if the task was being stopped.
    """

    key: TaskKey
    state: TaskState
    current: Incarnation
    priority: int
    limit: Resources
    finished: tuple[Incarnation, ...] = ()
    failures: int = 0  # in a row for services, in all for batch
    backoff_ms: int = 0  # the last back-off, doubled by the next failure
    not_before_ms: int = 0
    stopping: Stopping | None = None
    healthy: bool = False

    @property
    def machine(self) -> str:
        """The machine that holds room for it, or ""."""
        return self.current.machine if self.state in PLACED_STATES else ""

    @property
    def held(self) -> Resources:
        """What it takes of its machine: nothing once its room belongs to a preemptor."""
        if self.state not in PLACED_STATES or (
            self.stopping is not None and self.stopping.by is not None
        ):
            return ZERO
        return self.limit


class Job(Struct, frozen=True, gc=False):
    """A job: its current spec, and the older versions that tasks still run, keyed by version."""

    spec: JobSpec
    version: int
    created_at_ms: int
    updated_at_ms: int
    older: dict[int, JobSpec] = field(default_factory=dict)
    ended: bool = False  # killed by its user, or a batch job whose tasks are all dead
    ended_at_ms: int = 0

    @property
    def key(self) -> JobKey:
        """Its key."""
        return self.spec.key

    def spec_at(self, version: int) -> JobSpec:
        """The spec of a version that is current or still run."""
        return self.spec if version == self.version else self.older[version]

    def task_spec(self, version: int, index: int) -> TaskSpec:
        """What the task of this index runs in that version."""
        return self.spec_at(version).task_spec(index)

    @property
    def is_batch(self) -> bool:
        """Whether its tasks end by themselves."""
        return self.spec.kind is JobKind.BATCH


class Machine(Struct, frozen=True, gc=False):
    """A machine of the cell; ``up`` says whether it answers polls."""

    name: str
    address: str
    added_at_ms: int
    since_ms: int  # since when ``up`` and ``draining`` are what they are
    up: bool = False
    draining: bool = False
    capacity: Resources = ZERO
    attributes: dict[str, str] = field(default_factory=dict)
    port_first: int = 0
    port_last: int = -1
    port_next: int = (
        0  # where the search for a free port starts, so that ports are not reused at once
    )
    detail: str = ""  # why it is down or not ready, for people

    @property
    def takes_tasks(self) -> bool:
        """Whether the scheduler may place on it."""
        return self.up and not self.draining and not self.detail
