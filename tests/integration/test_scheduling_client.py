"""The scheduler's client with real child processes: it feeds, asks, survives ``kill -9`` and leaves nothing."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from borgmaster.scheduling import client as client_module
from borgmaster.scheduling.client import SchedulerClient, SchedulerUnavailable
from scheduler.cell import SchedulerCell
from scheduler.engine import plan_pass
from scheduler.model import Delta
from tests.helpers.scheduler_worlds import a_job, a_machine, a_pending, room

MACHINES = tuple(a_machine(f"m{number}", room(4, 8)) for number in range(5))
PICTURE = Delta(1, machines=MACHINES)


class Owner:
    """A picture of the cell that its owner keeps, and the client fed with its changes."""

    def __init__(self, picture: Delta = PICTURE) -> None:
        self.index = picture.index
        self.asked = 0
        self._pending: dict = {}
        self.client = SchedulerClient(self.full)

    def full(self) -> Delta:
        self.asked += 1
        return Delta(self.index, MACHINES, pending=tuple(self._pending.values()))

    def submit(self, rows) -> None:
        self.index += 1
        self._pending |= {row.key: row for row in rows}
        self.client.feed(Delta(self.index, pending=tuple(rows)))

    async def plan(self, **options):
        return await self.client.plan_pass(seed=3, now_ms=0, **options)

    def expected(self):
        """The same pass in this process."""
        cell = SchedulerCell()
        cell.apply(self.full())
        return plan_pass(cell, seed=3, now_ms=0)


@contextlib.asynccontextmanager
async def an_owner():
    owner = Owner()
    await owner.client.reset(PICTURE)
    try:
        yield owner
    finally:
        await owner.client.close()


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


async def until(holds, *, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


async def test_plan(owner: Owner, *, tasks: int) -> None:
    plan = await owner.plan()
    assert plan == owner.expected()
    assert len(plan.placements) == tasks


test_plan.__test__ = False  # a step of the tests below


def test_what_was_fed_before_a_question_is_in_the_answer():
    async def scenario():
        async with an_owner() as owner:
            assert (await owner.plan()).placements == ()
            owner.submit(a_job("ann/web", 3))
            owner.submit([a_pending("bob/big/0", room(99, 1))])
            plan = await owner.plan()
            assert plan == owner.expected()
            assert (plan.index, len(plan.placements), plan.unplaced_count) == (3, 3, 1)
            explanation = await owner.client.explain(a_pending("bob/big/0", room(99, 1)), now_ms=0)
            assert explanation.misfit.summary == "does not fit on 5 of 5 machines: 5 cpu"
            dry = await owner.client.dry_run(tuple(a_job("eve/x", 2)), seed=3, now_ms=0)
            assert {one.key.user for one in dry.placements} == {"eve"}

    asyncio.run(scenario())


def test_a_killed_process_is_replaced_and_the_answers_are_right_again():
    async def scenario():
        async with an_owner() as owner:
            owner.submit(a_job("ann/web", 3))
            await test_plan(owner, tasks=3)
            for round in range(2):
                pid = owner.client.pid
                asked = owner.asked
                os.kill(pid, signal.SIGKILL)
                owner.submit(a_job(f"bob/more{round}", 1))
                await until(lambda pid=pid: owner.client.pid not in (0, pid))
                await test_plan(owner, tasks=4 + round)
                assert owner.asked > asked, "the owner was asked for the whole cell"
                assert is_gone(pid)

    asyncio.run(scenario())


def test_a_question_in_flight_when_the_process_dies_gets_a_clear_error():
    async def scenario():
        async with an_owner() as owner:
            await owner.plan()
            os.kill(owner.client.pid, signal.SIGSTOP)
            question = asyncio.create_task(owner.plan())
            await asyncio.sleep(0.1)
            os.kill(owner.client.pid, signal.SIGKILL)
            with pytest.raises(SchedulerUnavailable, match="ended before it answered"):
                await question
            await test_plan(owner, tasks=0)

    asyncio.run(scenario())


def test_a_process_that_does_not_answer_in_time_is_an_error_and_the_late_answer_is_dropped():
    async def scenario():
        async with an_owner() as owner:
            await owner.plan()
            os.kill(owner.client.pid, signal.SIGSTOP)
            with pytest.raises(SchedulerUnavailable, match=r"no answer within 0\.2 s"):
                await owner.plan(deadline_s=0.2)
            os.kill(owner.client.pid, signal.SIGCONT)
            owner.submit(a_job("ann/web", 2))
            await test_plan(owner, tasks=2)
            assert owner.client.restarts == 0

    asyncio.run(scenario())


def test_a_change_that_an_earlier_picture_holds_already_cannot_undo_it():
    async def scenario():
        async with an_owner() as owner:
            owner.submit(a_job("ann/web", 2))  # index 2
            late = Delta(2, pending=tuple(a_job("ann/web", 2)))
            await owner.client.reset(Delta(4, machines=MACHINES))
            owner.client.feed(late)
            owner.client.feed(Delta(5, pending=(a_pending("bob/new/0"),)))
            plan = await owner.plan()
            assert [str(one.key) for one in plan.placements] == ["bob/new/0"]

    asyncio.run(scenario())


def test_a_feed_that_grows_beyond_its_bound_becomes_a_new_picture():
    async def scenario():
        async with an_owner() as owner:
            await owner.plan()
            asked = owner.asked
            rows = tuple(a_job("ann/web", 5_000, limit=room(99, 1)))
            for _ in range(client_module.FEED_ROWS_MAX // len(rows) + 1):
                owner.submit(rows)
            plan = await owner.plan()
            assert owner.asked > asked
            assert (plan.index, plan.unplaced_count) == (owner.index, 5_000)

    asyncio.run(scenario())


def test_a_large_cell_goes_through_the_pipe():
    async def scenario():
        client = SchedulerClient()
        machines = tuple(a_machine(f"m{number}") for number in range(2_000))
        await client.reset(Delta(1, machines, pending=tuple(a_job("ann/web", 12_000))))
        try:
            plan = await client.plan_pass(seed=1, now_ms=0, tasks_max=10_000)
            assert (len(plan.placements), plan.left) == (10_000, 2_000)
        finally:
            await client.close()

    asyncio.run(scenario())


def test_asking_before_anybody_gave_a_picture_is_an_error_at_once():
    async def scenario():
        with pytest.raises(SchedulerUnavailable, match="not been started"):
            await SchedulerClient().plan_pass(seed=1, now_ms=0)

    asyncio.run(scenario())


def test_without_a_source_a_dead_process_waits_for_the_next_reset():
    async def scenario():
        async with an_owner() as owner:
            await owner.plan()
            owner.client.set_source(None)
            os.kill(owner.client.pid, signal.SIGKILL)
            await until(lambda: owner.client.pid == 0)
            await asyncio.sleep(0.5)
            assert owner.client.pid == 0
            await owner.client.reset(PICTURE)
            await test_plan(owner, tasks=0)

    asyncio.run(scenario())


def test_close_ends_the_process_and_a_later_reset_starts_a_new_one():
    async def scenario():
        async with an_owner() as owner:
            await owner.plan()
            pid = owner.client.pid
            await owner.client.close()
            await owner.client.close()
            assert is_gone(pid)
            await owner.client.reset(PICTURE)
            await test_plan(owner, tasks=0)
            assert owner.client.pid != pid

    asyncio.run(scenario())


PARENT = """
import os, subprocess, sys, time
from borgmaster.scheduling.messages import AskPlan, encode

worker = [sys.executable, "-m", "borgmaster.scheduling.worker", str(os.getpid())]
child = subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(encode(AskPlan(1, 1, 0, 1)))
child.stdin.flush()
child.stdout.read(1)  # it answers, so it has started
print(child.pid, flush=True)
time.sleep(60)
"""


def test_the_process_dies_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)  # so that it cannot just notice the end of its stdin
        assert not is_gone(pid)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 5
        while not is_gone(pid):
            assert time.monotonic() < deadline, "the worker outlived its parent"
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
