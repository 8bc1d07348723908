"""Owns how the core answers: what a command did, or why not."""

from enum import StrEnum

from borgcell.specs import Problem
from msgspec import Struct


class Code(StrEnum):
    """Why a command was refused; mapped to gRPC codes in ``borgmaster.rpc.status`` only."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    INTERNAL = "INTERNAL"
    UNIMPLEMENTED = "UNIMPLEMENTED"


class Rejected(Struct, frozen=True, tag=True):
    """A refusal: the cell did not change. ``problems`` name the fields of the input that are wrong."""

    code: Code
    detail: str
    problems: tuple[Problem, ...] = ()


class Accepted(Struct, frozen=True, tag=True):
    """What a command did. Which fields are meaningful depends on the command; the rest are at their defaults."""

    index: int = 0  # log index of the entry that carried it
    changed: bool = True  # False: the cell already was as asked
    version: int = 0  # SubmitJob: version of the job after it
    created: bool = False  # SubmitJob
    tasks_added: int = 0  # SubmitJob
    tasks_removed: int = 0  # SubmitJob: told to stop or dead because of a scale-down
    tasks_restarted: int = 0  # SubmitJob: tasks that the update controller will restart
    tasks_affected: int = (
        0  # KillJob, RemoveMachine, SetDraining, LoseTasks, EvictTasks, PlaceTasks: tasks
    )


Outcome = Accepted | Rejected
