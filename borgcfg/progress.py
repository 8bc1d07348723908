"""Owns the judgement of whether a job is up: from what the cell says about it to a verdict. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from borgcell.types import JobKey
from borgcell.v1 import types_pb2

from borgcfg.render import words

CRASHES_MAX = 3  # failures in a row of one task after which waiting for it is in vain


class Verdict(StrEnum):
    """Where a submitted job stands."""

    WAITING = "waiting"
    UP = "up"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Target:
    """What is waited for: a job at a version; of a batch job its end, if ``until_done``."""

    key: JobKey
    version: int
    until_done: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job stands: the verdict, and a line about it."""

    verdict: Verdict
    line: str
    is_over: bool = False  # the cell will not try again by itself


def standing_of(target: Target, job: types_pb2.Job | None) -> Standing:
    """The verdict about a job by its counts.

    A service is up when all tasks run the version; a batch job when all run or have finished (or all have
    finished). A replica that lags behind may not know the job or the version yet: that is waiting.
    """
    if job is None or job.version < target.version:
        return Standing(Verdict.WAITING, "not seen by this replica yet")
    text = words.counts(job.counts)
    if job.version > target.version:
        line = f"was updated to version {job.version} by someone else meanwhile"
        return Standing(Verdict.FAILED, line, is_over=True)
    if job.outdated:
        text += f", {job.outdated} on an older version"
    counts, task_count = job.counts, job.spec.task_count
    is_batch = job.spec.kind == types_pb2.JOB_KIND_BATCH
    if is_batch and counts.finished >= task_count:
        return Standing(Verdict.UP, text)
    if job.ended or (is_batch and counts.dead):
        said = "gave up a task" if is_batch and counts.dead else "has ended"
        return Standing(Verdict.FAILED, f"{said}: {text}", is_over=True)
    good = counts.running + (counts.finished if is_batch else 0)
    is_waited_for_end = is_batch and target.until_done
    if good >= task_count and not job.outdated and not is_waited_for_end:
        return Standing(Verdict.UP, text)
    return Standing(Verdict.WAITING, text)


def crash_loop(target: Target, tasks: list[types_pb2.Task]) -> types_pb2.Task | None:
    """A task of the version that failed again and again without running, if there is one."""
    for task in tasks:
        if task.current.version == target.version and task.failures >= CRASHES_MAX:
            return task
    return None
