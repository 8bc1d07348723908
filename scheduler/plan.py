"""Owns what the scheduler answers: plans, placements with their scores, and reasons for what was not placed."""

from borgcell.types import JobKey, TaskKey
from msgspec import Struct


class Score(Struct, frozen=True, gc=False):
    """How good a machine is for a task: weighted parts, more is better; see ``scheduler.scoring``."""

    stranded: float = 0.0
    fit: float = 0.0
    spread_machine: float = 0.0
    spread_rack: float = 0.0
    soft: float = 0.0
    mix: float = 0.0
    dice: float = 0.0

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return (
            self.stranded
            + self.fit
            + self.spread_machine
            + self.spread_rack
            + self.soft
            + self.mix
            + self.dice
        )


class Victim(Struct, frozen=True, gc=False):
    """A task that must leave for a placement."""

    key: TaskKey
    incarnation: int
    priority: int


class Placement(Struct, frozen=True, gc=False):
    """A task and its machine, why this one, and who must leave for it."""

    key: TaskKey
    incarnation: int
    machine: str
    score: Score
    victims: tuple[Victim, ...] = ()


class MisfitCount(Struct, frozen=True, gc=False):
    """Machines ruled out by one reason.

    ``reason`` is one of "down", "draining", "not_ready", "constraint", "cpu", "ram", "disk", "ports",
    "max_per_machine", "max_per_rack"; ``detail`` says what exactly, such as "arch == arm64".
    """

    reason: str
    detail: str
    machines: int

    def __str__(self) -> str:
        """``3 constraint arch == arm64``."""
        name = self.reason.replace("not_ready", "not ready")
        return f"{self.machines} {name} {self.detail}".rstrip()


class Misfit(Struct, frozen=True, gc=False):
    """Why a task finds no machine. Every machine is counted once, at its first failing check."""

    summary: str
    machine_count: int
    counts: tuple[MisfitCount, ...] = ()  # most frequent first
    nearest_machine: str = ""  # the machine that lacks least; "" when the cell has none
    nearest_detail: str = ""
    hints: tuple[str, ...] = ()


class Unplaced(Struct, frozen=True, gc=False):
    """Equivalent tasks of one job that the plan leaves pending, and why. Indexes are in queue order."""

    job: JobKey
    indexes: tuple[int, ...]
    misfit: Misfit


class Plan(Struct, frozen=True):
    """What a pass would do to the cell as of ``index``; ``seed`` replays it."""

    index: int
    seed: int
    placements: tuple[Placement, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    left: int = 0  # tasks that the pass did not come to because of its bound
    waiting: int = 0  # tasks in back-off
    wake_at_ms: int = 0  # when the first of those may be placed; 0: none waits

    @property
    def unplaced_count(self) -> int:
        """Number of tasks that fit nowhere."""
        return sum(len(group.indexes) for group in self.unplaced)


class Feasible(Struct, frozen=True, gc=False):
    """A machine that could take a task now, and who would have to leave."""

    machine: str
    score: Score
    victims: tuple[Victim, ...] = ()


class Explanation(Struct, frozen=True, gc=False):
    """Where a task could go if it were next, best first; or why nowhere."""

    feasible: tuple[Feasible, ...] = ()
    feasible_count: int = (
        0  # machines in all that could take it, with the victims if there must be some
    )
    misfit: Misfit | None = None
    wait_ms: int = 0  # how long its back-off still lasts
