"""Owns what may be asked of the cell: one frozen value per command, a closed union.

The wire form in the log is msgpack by field name (docs/adr/0001): new fields need defaults, old ones stay.
"""

from borgcell.resources import Resources
from borgcell.specs import JobSpec
from borgcell.types import EndKind, EvictionCause, JobKey, TaskKey, TaskPhase
from msgspec import Struct, field

ANY_VERSION = -1


class Placed(Struct, frozen=True, gc=False):
    """A placement proposed by the scheduler: which incarnation goes where, and who must leave for it."""

    task: TaskKey
    incarnation: int
    machine: str
    victims: tuple[tuple[TaskKey, int], ...] = ()  # (task, incarnation)


class Reported(Struct, frozen=True, gc=False):
    """What a Borglet says of one incarnation; the end fields count in phase ENDED only."""

    task: TaskKey
    incarnation: int
    phase: TaskPhase
    end: EndKind | None = None
    exit_code: int = -1
    detail: str = ""
    healthy: bool = False


class SubmitJob(Struct, frozen=True, tag=True):
    """Create a job or update it. INVALID_ARGUMENT, FAILED_PRECONDITION (expected version)."""

    spec: JobSpec
    expected_version: int = ANY_VERSION


class KillJob(Struct, frozen=True, tag=True):
    """Kill a job, or the tasks of ``indexes``. NOT_FOUND."""

    job: JobKey
    indexes: tuple[int, ...] = ()


class PlaceTasks(Struct, frozen=True, tag=True):
    """Accept each placement that still fits; the others are left for the next pass. Never refused whole."""

    placements: tuple[Placed, ...]


class ReportTasks(Struct, frozen=True, tag=True):
    """Take over what a machine says of its tasks. Stale reports change nothing. NOT_FOUND (machine)."""

    machine: str
    reports: tuple[Reported, ...]


class AddMachine(Struct, frozen=True, tag=True):
    """Make a machine known, or change the address of a known one. INVALID_ARGUMENT."""

    name: str
    address: str


class RemoveMachine(Struct, frozen=True, tag=True):
    """Forget a machine; its tasks are lost at once. NOT_FOUND, FAILED_PRECONDITION (has tasks, no force)."""

    name: str
    force: bool = False


class SetDraining(Struct, frozen=True, tag=True):
    """Start or end the emptying of a machine. NOT_FOUND."""

    name: str
    draining: bool


class MarkMachine(Struct, frozen=True, tag=True):
    """A machine began or ceased to answer polls; its tasks become PARTITIONED or rejoin. NOT_FOUND."""

    name: str
    up: bool
    detail: str = ""


class SetMachineFacts(Struct, frozen=True, tag=True):
    """What a machine is, as its Borglet says. NOT_FOUND, INVALID_ARGUMENT."""

    name: str
    capacity: Resources
    attributes: dict[str, str] = field(default_factory=dict)
    port_first: int = 0
    port_last: int = -1
    detail: str = ""


class LoseTasks(Struct, frozen=True, tag=True):
    """Give up PARTITIONED incarnations: record them LOST and submit the next ones. Stale ones are skipped."""

    tasks: tuple[tuple[TaskKey, int], ...]


class EvictTasks(Struct, frozen=True, tag=True):
    """Stop incarnations by the cell's wish; the next ones are submitted once they have ended. Stale ones are skipped."""

    tasks: tuple[tuple[TaskKey, int], ...]
    cause: EvictionCause
    detail: str = ""


class UpdateTasks(Struct, frozen=True, tag=True):
    """Move incarnations that run an older version to the job's version, by restart where they must. Stale ones are skipped."""

    tasks: tuple[tuple[TaskKey, int], ...]


class ForgetJobs(Struct, frozen=True, tag=True):
    """Drop ended jobs without placed tasks, and requests answered before ``requests_before_ms``. Others are skipped."""

    jobs: tuple[JobKey, ...] = ()
    requests_before_ms: int = 0


Command = (
    SubmitJob
    | KillJob
    | PlaceTasks
    | ReportTasks
    | AddMachine
    | RemoveMachine
    | SetDraining
    | MarkMachine
    | SetMachineFacts
    | LoseTasks
    | EvictTasks
    | UpdateTasks
    | ForgetJobs
)
