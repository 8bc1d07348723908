"""When a job that was submitted counts as up, and when waiting for it is in vain."""

import pytest
from borgcell.types import JobKey
from borgcell.v1 import types_pb2

from borgcfg.progress import Target, Verdict, crash_loop, standing_of

KEY = JobKey("ann", "web")


def a_job(kind=types_pb2.JOB_KIND_SERVICE, version=2, outdated=0, ended=False, **counts):
    return types_pb2.Job(
        spec=types_pb2.JobSpec(user="ann", name="web", kind=kind, task_count=3),
        version=version,
        outdated=outdated,
        ended=ended,
        counts=types_pb2.TaskCounts(**counts),
    )


def verdict(job, *, until_done=False):
    return standing_of(Target(KEY, 2, until_done), job).verdict


BATCH = types_pb2.JOB_KIND_BATCH


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (None, Verdict.WAITING),
        (a_job(version=1, running=3), Verdict.WAITING),
        (a_job(running=2, starting=1), Verdict.WAITING),
        (a_job(running=3, outdated=1), Verdict.WAITING),
        (a_job(running=3), Verdict.UP),
        (a_job(running=3, dead=2), Verdict.UP),  # two that were scaled down
        (a_job(version=3, running=3), Verdict.FAILED),
        (a_job(ended=True, dead=3), Verdict.FAILED),
        (a_job(BATCH, running=2, pending=1), Verdict.WAITING),
        (a_job(BATCH, running=2, finished=1), Verdict.UP),
        (a_job(BATCH, finished=3, ended=True), Verdict.UP),
        (a_job(BATCH, finished=2, dead=1, ended=True), Verdict.FAILED),
        (a_job(BATCH, running=2, dead=1), Verdict.FAILED),
    ],
)
def test_the_counts_of_a_job_say_whether_it_is_up(job, expected):
    assert verdict(job) is expected


def test_waiting_until_done_goes_on_until_every_task_has_finished():
    assert verdict(a_job(BATCH, running=1, finished=2), until_done=True) is Verdict.WAITING
    assert verdict(a_job(BATCH, finished=3, ended=True), until_done=True) is Verdict.UP
    assert verdict(a_job(running=3), until_done=True) is Verdict.UP  # a service never is


def test_a_task_that_failed_three_times_at_this_version_is_a_crash_loop():
    def task(failures, version):
        return types_pb2.Task(
            failures=failures, current=types_pb2.Incarnation(number=failures, version=version)
        )

    target = Target(KEY, 2)
    assert crash_loop(target, [task(2, 2), task(5, 1)]) is None
    assert crash_loop(target, [task(2, 2), task(3, 2)]) == task(3, 2)
