"""Owns the agent's values: what a machine should run, what it remembers of each attempt, what it says of it."""

from borgcell.resources import Resources
from borgcell.specs import TaskSpec
from borgcell.types import EndKind, TaskPhase
from msgspec import Struct

from borglet.runtime.port import ContainerId


class Desired(Struct, frozen=True):
    """A task as the master wants it on this machine. ``problem``: why its spec cannot be used, "" when it can."""

    id: ContainerId
    spec: TaskSpec
    ports: dict[str, int] = {}
    priority: int = 0
    stop: bool = False
    problem: str = ""


class Assignment(Struct, frozen=True):
    """Everything the machine should do now, and the ends that the master has recorded."""

    term: int
    revision: int
    tasks: tuple[Desired, ...]
    acknowledged: tuple[ContainerId, ...] = ()


class Stop(Struct, frozen=True):
    """Why and until when a container may end by itself. Monotonic ms; ``signalled``: by this agent process."""

    kind: EndKind
    detail: str
    grace_ms: int
    kill_at_ms: int
    signalled: bool = False


class Ended(Struct, frozen=True):
    """The result of an incarnation, kept until the master acknowledged it. ``at_ms`` is Unix time."""

    kind: EndKind
    exit_code: int
    detail: str
    at_ms: int
    acknowledged: bool = False


class Record(Struct, frozen=True):
    """What the agent remembers of one incarnation that it started, found or ended.

    ``desired`` is None for a container whose spec nobody told this agent. ``retry_at_ms`` (monotonic) is set
    while a start that failed for a passing reason waits for its next attempt.
    """

    id: ContainerId
    desired: Desired | None = None
    ran: bool = False  # was healthy once
    stop: Stop | None = None
    ended: Ended | None = None
    attempts: int = 0
    retry_at_ms: int | None = None
    retry_reason: str = ""
    released: bool = False


class Status(Struct, frozen=True):
    """What the machine says of one incarnation; ``end`` and ``exit_code`` count in phase ENDED only."""

    id: ContainerId
    phase: TaskPhase
    end: EndKind | None = None
    exit_code: int = -1
    detail: str = ""
    healthy: bool = False
    at_ms: int = 0


class Facts(Struct, frozen=True):
    """What the machine is. ``capacity.ports`` is the size of the port range."""

    capacity: Resources
    attributes: dict[str, str]
    port_first: int
    port_last: int
