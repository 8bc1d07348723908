"""borglet.lookout and borglet.deeds where listings and actions overlap, and where a failed start succeeded."""

import asyncio
import contextlib
import threading

from borgcell.types import RuntimeKind
from borgcell.v1 import borglet_pb2

from borglet.clock import SystemClock
from borglet.hands import Hands
from borglet.lookout import Lookout
from borglet.runtime.fake import FakeRuntime
from borglet.runtime.port import RuntimeFailed
from borglet.substitution import container_spec
from tests.helpers.borglet_link import PLACE, a_borglet, run
from tests.helpers.borglet_values import a_desired, an_id


class SlowLister(FakeRuntime):
    """Its list is taken at once, but comes only when the gate is open."""

    def __init__(self):
        super().__init__(SystemClock().wall_ms)
        self.gate = threading.Event()
        self.taken = threading.Event()

    def list(self):
        found = super().list()
        self.taken.set()
        assert self.gate.wait(10)
        return found


class Hasty(FakeRuntime):
    """Makes the container and then says that it failed."""

    def start(self, spec):
        super().start(spec)
        raise RuntimeFailed("the engine answered too late", permanent=True)


@contextlib.asynccontextmanager
async def a_lookout(runtime):
    hands = Hands({runtime.kind: runtime}, PLACE)
    try:
        yield Lookout(hands, lambda: None), hands
    finally:
        await hands.close()


async def overlapping(lookout, runtime, meanwhile):
    """Look; once the list is taken and before it is believed, let something happen."""
    runtime.taken.clear()
    runtime.gate.clear()
    looking = asyncio.create_task(lookout.look(RuntimeKind.NATIVE))
    await asyncio.to_thread(runtime.taken.wait, 5)
    await meanwhile()
    runtime.gate.set()
    await looking


def test_a_container_that_was_started_during_a_listing_is_not_lost():
    async def scenario():
        runtime = SlowLister()
        async with a_lookout(runtime) as (lookout, hands):

            async def start():
                lookout.begin(an_id())
                lookout.put(await hands.start(a_desired()))
                lookout.end(an_id())

            await overlapping(lookout, runtime, start)
            assert list(lookout.containers) == [an_id()]

    run(scenario())


def test_a_container_that_was_forgotten_during_a_listing_does_not_come_back():
    async def scenario():
        runtime = SlowLister()
        async with a_lookout(runtime) as (lookout, hands):
            runtime.start(container_spec(a_desired(), PLACE))
            runtime.gate.set()
            await lookout.look(RuntimeKind.NATIVE)
            assert list(lookout.containers) == [an_id()]

            async def forget():
                lookout.begin(an_id())
                await hands.act(runtime.forget, an_id())
                lookout.drop(an_id())
                lookout.end(an_id())

            await overlapping(lookout, runtime, forget)
            assert list(lookout.containers) == []

    run(scenario())


def test_a_listing_without_actions_is_believed():
    async def scenario():
        runtime = SlowLister()
        runtime.gate.set()
        async with a_lookout(runtime) as (lookout, _):
            runtime.start(container_spec(a_desired(), PLACE))
            await lookout.look(RuntimeKind.NATIVE)
            assert list(lookout.containers) == [an_id()]
            runtime.vanish(an_id())
            await lookout.look(RuntimeKind.NATIVE)
            assert list(lookout.containers) == []

    run(scenario())


def test_a_start_that_failed_and_made_the_container_all_the_same_counts(tmp_path):
    async def scenario():
        runtime = Hasty(SystemClock().wall_ms)
        async with a_borglet(tmp_path, runtime) as borglet, borglet.master() as master:
            await master.poll()
            await master.assign(a_desired())
            await master.phase(an_id(), "RUNNING")

    run(scenario())


def test_the_first_report_waits_for_the_first_look_at_the_machine(tmp_path):
    async def scenario():
        runtime = SlowLister()
        runtime.start(container_spec(a_desired(), PLACE))  # by a Borglet whose memory is lost
        async with a_borglet(tmp_path, runtime) as borglet, borglet.master() as master:
            await master.send_poll()
            await asyncio.sleep(0.3)
            runtime.gate.set()
            (report,) = (await master.read()).tasks
            assert report.phase == borglet_pb2.TASK_PHASE_RUNNING

    run(scenario())
