"""Garbage: ended jobs go after a day, answers after an hour or when there are too many."""

import pytest
from borgcell.types import JobKey

from borgmaster.controllers.garbage import FORGOTTEN_MAX, REQUESTS_KEPT_MAX, reconcile_garbage
from borgmaster.state.commands import ForgetJobs, KillJob
from borgmaster.state.outcome import Accepted
from tests.helpers.builders import World, a_spec

HOUR_MS = 3_600_000
WEB = JobKey("ann", "web")


@pytest.fixture
def world():
    world = World()
    world.add_machine("m1")
    return world


def ask(world):
    return reconcile_garbage(world.cell, world.now_ms)


def test_a_job_is_forgotten_a_day_after_its_end(world):
    world.submit(a_spec())
    world.must(KillJob(WEB))
    world.wait(24 * HOUR_MS - 1)
    assert ask(world) == []
    world.wait(1)
    assert ask(world) == [ForgetJobs((WEB,))]
    world.must(*ask(world))
    assert WEB not in world.cell.jobs
    assert ask(world) == []


def test_jobs_that_live_or_leave_are_kept(world):
    world.submit(a_spec())
    world.submit(a_spec("ann/leaving"))
    world.start("ann/leaving/0")
    world.must(KillJob(JobKey("ann", "leaving")))
    world.wait(48 * HOUR_MS)
    assert ask(world) == []


def test_the_longest_ended_jobs_go_first_and_not_all_at_once(world):
    names = [f"ann/j{number}" for number in reversed(range(FORGOTTEN_MAX + 1))]
    for name in names:
        world.submit(a_spec(name))
        world.must(KillJob(a_spec(name).key))
        world.wait(1)
    world.wait(24 * HOUR_MS)
    (command,) = ask(world)
    assert [str(key) for key in command.jobs] == names[:FORGOTTEN_MAX]


def test_answers_are_forgotten_after_an_hour(world):
    world.run(KillJob(WEB), request_id="r1")
    world.wait(HOUR_MS)
    assert ask(world) == []
    world.wait(1)
    world.must(*ask(world))
    assert not world.cell.requests
    assert ask(world) == []


def test_the_oldest_answers_go_when_there_are_too_many(world):
    for number in range(REQUESTS_KEPT_MAX + 3):
        world.cell.put_request(str(number), world.now_ms + number // 2, Accepted())
    assert ask(world) == [ForgetJobs((), world.now_ms + 2)]
    world.wait(REQUESTS_KEPT_MAX)
    world.must(*ask(world))
    assert len(world.cell.requests) == REQUESTS_KEPT_MAX - 1  # two at a time have the same stamp
    assert ask(world) == []
