"""Owns names and states of jobs, tasks and machines: what every part of the system says about them."""

import re
from enum import StrEnum
from typing import Final, NamedTuple

NAME_LENGTH_MAX: Final = 63
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?\Z")
_MACHINE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z")


def is_name(text: str) -> bool:
    """Whether ``text`` may name a user or a job: lower-case letters, digits, inner '-' and '_'; 1..63 long."""
    return len(text) <= NAME_LENGTH_MAX and _NAME.match(text) is not None


def is_machine_name(text: str) -> bool:
    """Whether ``text`` may name a machine: letters, digits, inner '.', '-' and '_'; 1..63 long."""
    return len(text) <= NAME_LENGTH_MAX and _MACHINE_NAME.match(text) is not None


class JobKey(NamedTuple):
    """Names a job in its cell. Sorts by user, then name."""

    user: str
    name: str

    def __str__(self) -> str:
        """``user/name``."""
        return f"{self.user}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "JobKey":
        """Read ``user/name``. Raises ValueError with what is wrong."""
        parts = text.split("/")
        if len(parts) != 2 or not all(map(is_name, parts)):
            raise ValueError(f"{text!r} is not a job key: write user/job, such as ann/web")
        return cls(*parts)


class TaskKey(NamedTuple):
    """Names a task in its cell. Sorts by job, then index."""

    user: str
    job: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs

    def __str__(self) -> str:
        """``user/job/index``."""
        return f"{self.user}/{self.job}/{self.index}"

    @property
    def job_key(self) -> JobKey:
        """The job it belongs to."""
        return JobKey(self.user, self.job)

    @classmethod
    def parse(cls, text: str) -> "TaskKey":
        """Read ``user/job/index``. Raises ValueError with what is wrong."""
        head, _, index = text.rpartition("/")
        if not index.isascii() or not index.isdigit() or head.count("/") != 1:
            raise ValueError(f"{text!r} is not a task key: write user/job/index, such as ann/web/0")
        job = JobKey.parse(head)
        return cls(job.user, job.name, int(index))


class JobKind(StrEnum):
    """What a job is for."""

    SERVICE = "service"
    BATCH = "batch"


class RuntimeKind(StrEnum):
    """How a task is run; AUTO is docker for tasks with an image and native for the others."""

    AUTO = "auto"
    NATIVE = "native"
    DOCKER = "docker"


class TaskState(StrEnum):
    """Where a task stands, as the master persists it (DESIGN §4)."""

    PENDING = "PENDING"
    ASSIGNED = "ASSIGNED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    PARTITIONED = "PARTITIONED"
    DEAD = "DEAD"


# States in which a task has a machine and holds room there.
PLACED_STATES: Final = frozenset(
    {
        TaskState.ASSIGNED,
        TaskState.STARTING,
        TaskState.RUNNING,
        TaskState.STOPPING,
        TaskState.PARTITIONED,
    }
)


class EndReason(StrEnum):
    """How an incarnation ended."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    EVICTED = "EVICTED"
    LOST = "LOST"


class EvictionCause(StrEnum):
    """Why the cell stopped a task."""

    PREEMPTION = "preemption"
    MAINTENANCE = "maintenance"
    OUT_OF_RESOURCES = "out_of_resources"


class EventKind(StrEnum):
    """What happened, in the words of Google's trace v3 (TR3), and below them our progress steps."""

    SUBMIT = "SUBMIT"
    QUEUE = "QUEUE"
    ENABLE = "ENABLE"
    SCHEDULE = "SCHEDULE"
    EVICT = "EVICT"
    FAIL = "FAIL"
    FINISH = "FINISH"
    KILL = "KILL"
    LOST = "LOST"
    UPDATE_PENDING = "UPDATE_PENDING"
    UPDATE_RUNNING = "UPDATE_RUNNING"
    # machines
    ADD = "ADD"
    REMOVE = "REMOVE"
    UPDATE = "UPDATE"
    # progress, not in TR3
    START = "START"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    STOP = "STOP"
    PARTITION = "PARTITION"
    REJOIN = "REJOIN"


class TaskPhase(StrEnum):
    """Where a task stands on its machine, as the Borglet says."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class EndKind(StrEnum):
    """How a task ended, as its machine saw it."""

    EXITED = "exited"
    STOPPED = "stopped"
    OUT_OF_MEMORY = "out_of_memory"
    UNHEALTHY = "unhealthy"
    START_FAILED = "start_failed"
    LOST = "lost"
    REFUSED = "refused"
