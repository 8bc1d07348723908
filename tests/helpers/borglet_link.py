"""A real Borglet server on a free port around a fake runtime, and a master's end of its link."""

import asyncio
import contextlib

import grpc
from borgcell import convert
from borgcell.v1 import borglet_pb2, borglet_pb2_grpc

from borglet import rpc
from borglet.agent import Agent
from borglet.clock import SystemClock
from borglet.memory import StateDir
from borglet.metrics import Metrics
from borglet.plan import Retention
from borglet.runtime.fake import FakeRuntime
from borglet.substitution import Place
from borglet.values import Facts
from tests.helpers.borglet_values import CAPACITY

PLACE = Place("paris", "m1")
TIMEOUT_S = 25  # beyond the agent's own period of 10 s: what the news misses, its round finds
FACTS = Facts(CAPACITY, {"arch": "x86_64"}, 21_000, 21_099)


def fake_machine(script=None):
    """A machine with the fake runtime in real time."""
    clock = SystemClock()
    return FakeRuntime(clock.wall_ms, script) if script else FakeRuntime(clock.wall_ms)


class Borglet:
    """An agent that serves, and the way to its state."""

    def __init__(self, agent, address, runtimes):
        self.agent = agent
        self.address = address
        self.runtimes = runtimes

    @contextlib.asynccontextmanager
    async def stranger(self):
        """A link on which nothing was said yet."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            yield Master(borglet_pb2_grpc.BorgletServiceStub(channel).Link())

    @contextlib.asynccontextmanager
    async def master(self, **hello):
        """A master's link with its Hello sent."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            master = Master(borglet_pb2_grpc.BorgletServiceStub(channel).Link())
            await master.hello(**hello)
            try:
                yield master
            finally:
                master.stream.cancel()


@contextlib.asynccontextmanager
async def a_borglet(path, *runtimes, retention=None, facts=FACTS):
    """A running Borglet with its state in ``path``; leaving stops the agent, not the containers."""
    made = {runtime.kind: runtime for runtime in runtimes or [fake_machine()]}
    state_dir = StateDir(path)
    try:
        agent = Agent(
            place=PLACE,
            facts=facts,
            runtimes=made,
            state_dir=state_dir,
            clock=SystemClock(),
            metrics=Metrics(),
            retention=retention or Retention(),
        )
        server, port = await rpc.serve(agent, "127.0.0.1:0")
        life = asyncio.create_task(agent.run())
        try:
            yield Borglet(agent, f"127.0.0.1:{port}", made)
        finally:
            life.cancel()
            await server.stop(0)
            await asyncio.gather(life, return_exceptions=True)
    finally:
        state_dir.close()


class LinkEnded(Exception):
    """The Borglet ended the link: ``CODE: details``."""


class Master:
    """What a link shard does, by hand."""

    def __init__(self, stream):
        self.stream = stream
        self.sequence = 0
        self.revision = 0
        self.term = 1

    async def hello(self, *, cell="paris", machine="m1", term=1, leader="b1"):
        self.term = term
        await self._write(
            hello=borglet_pb2.Hello(cell=cell, machine=machine, term=term, leader=leader)
        )

    async def _write(self, **message):
        await self.stream.write(borglet_pb2.LinkRequest(**message))

    async def send_poll(self, hold_ms=0):
        self.sequence += 1
        await self._write(poll=borglet_pb2.Poll(sequence=self.sequence, hold_ms=hold_ms))

    async def read(self):
        """The next report; raises LinkEnded when the Borglet ended the link."""
        try:
            response = await asyncio.wait_for(self.stream.read(), TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise LinkEnded(f"{error.code().name}: {error.details()}") from error
        if response is grpc.aio.EOF:
            raise LinkEnded(f"{(await self.stream.code()).name}: {await self.stream.details()}")
        return response.report

    async def poll(self, hold_ms=0):
        await self.send_poll(hold_ms)
        return await self.read()

    async def assign(self, *tasks, acknowledged=(), term=None, revision=None):
        self.revision = self.revision + 1 if revision is None else revision
        await self._write(
            assignment=borglet_pb2.Assignment(
                term=self.term if term is None else term,
                revision=self.revision,
                tasks=[desired_to_wire(desired) for desired in tasks],
                acknowledged=[
                    borglet_pb2.TaskIncarnation(
                        task=convert.task_key_to_wire(id.task), incarnation=id.incarnation
                    )
                    for id in acknowledged
                ],
            )
        )

    async def report_where(self, holds, hold_ms=2_000):
        """Poll until one task report meets ``holds``; that report."""
        seen = []
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                for task in (await self.poll(hold_ms)).tasks:
                    seen.append(task)
                    if holds(task):
                        return task

    async def phase(self, id, phase):
        """Poll until the incarnation is in the phase; its report."""
        number = borglet_pb2.TaskPhase.Value(f"TASK_PHASE_{phase}")
        return await self.report_where(
            lambda task: (
                task.task == convert.task_key_to_wire(id.task)
                and task.incarnation == id.incarnation
                and task.phase == number
            )
        )


def desired_to_wire(desired):
    return borglet_pb2.DesiredTask(
        task=convert.task_key_to_wire(desired.id.task),
        incarnation=desired.id.incarnation,
        spec=convert.task_spec_to_wire(desired.spec),
        ports=desired.ports,
        priority=desired.priority,
        stop=desired.stop,
    )


def end_of(report):
    """The kind of end that a report tells."""
    return borglet_pb2.EndKind.Name(report.end).removeprefix("END_KIND_")


def remembered(path):
    """The records on disk of a Borglet that has gone."""
    with contextlib.closing(StateDir(path)) as state_dir:
        return state_dir.load(PLACE.cell, PLACE.machine).records


def run(coroutine):
    """Run a test's coroutine with a limit."""

    async def limited():
        async with asyncio.timeout(90):
            return await coroutine

    return asyncio.run(limited())
