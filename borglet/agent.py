"""Owns the Borglet's loop: what is and what should be -> plan -> actions -> what is, for ever.

It wakes on an assignment, on the end of a container, on a probe's verdict and on deadlines. Everything here runs
on one asyncio loop; runtimes are called in the threads of ``Hands``, never twice at once for one container.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Final

from borgcell.types import RuntimeKind
from msgspec import Struct
from msgspec.structs import replace

from borglet.actions import Conclude, Plan, Start, Wait
from borglet.clock import Clock
from borglet.deeds import Deeds
from borglet.hands import Hands
from borglet.health import Health, Prober, Target
from borglet.ledger import Ledger
from borglet.lookout import Lookout
from borglet.memory import StateDir
from borglet.metrics import Metrics
from borglet.plan import Retention, View, make_plan
from borglet.report import statuses
from borglet.runtime.port import ContainerId, ContainerState, Runtime, RuntimeFailed
from borglet.substitution import Place, UnknownPort, with_probe_substituted
from borglet.values import Assignment, Desired, Facts, Status

log = logging.getLogger(__name__)

PERIOD_S: Final = 10.0  # a round is made even when nothing happens: retention, disk
PAUSE_S: Final = 1.0  # after a round that failed or could not be saved
READY_TIMEOUT_S: Final = 4.0  # the first report waits so long for a runtime that does not answer
LAST_GRACE_S: Final = 5.0  # longest grace when the whole machine is stopped


class Published(Struct, frozen=True):
    """What the agent tells, as of one moment; ``version`` grows with every change."""

    version: int
    statuses: Mapping[ContainerId, Status]
    facts: Facts
    not_ready: str
    assigned: tuple[int, int] = (0, 0)  # term and revision of the assignment taken into account


class Agent:
    """One machine's agent. ``run`` is its life; the other methods are for the link and the logs."""

    def __init__(
        self,
        *,
        place: Place,
        facts: Facts,
        runtimes: Mapping[RuntimeKind, Runtime],
        state_dir: StateDir,
        clock: Clock,
        metrics: Metrics,
        retention: Retention | None = None,
    ) -> None:
        self.place = place
        self.ready = asyncio.Event()  # the first look at the machine is done
        self.published = Published(0, {}, facts, "is starting")
        self._state_dir = state_dir
        self._clock = clock
        self._metrics = metrics
        self._retention = retention or Retention()
        self._base_facts = facts
        self._hands = Hands(runtimes, place)
        memory = state_dir.load(place.cell, place.machine)
        self._ledger = Ledger(state_dir, memory, clock.mono_ms())
        self._wake = asyncio.Event()
        self._lookout = Lookout(self._hands, self._wake.set)
        self._deeds = Deeds(self._hands, self._lookout, self._ledger, clock, metrics)
        self._prober = Prober(clock, self._execute, self._on_health)
        self._health: dict[ContainerId, Health] = {}
        self._wanted: dict[ContainerId, Desired] | None = None
        self._assigned = (0, 0)
        self._waits: dict[ContainerId, str] = {}
        self._listeners: set[Callable[[], None]] = set()
        self._disk_problem = state_dir.problem()

    # --- what the link and the logs ask ------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The highest term seen."""
        return self._ledger.term

    async def take_term(self, term: int) -> None:
        """Remember a term, on disk before anything of it is done."""
        self._ledger.raise_term(term)
        await (
            self._ledger.save()
        )  # a full disk must not cut the machine off: it is reported instead

    def assign(self, assignment: Assignment) -> bool:
        """Take over what the machine should do; False when it is older than what is known already."""
        position = (assignment.term, assignment.revision)
        if assignment.term < self.term or position < self._assigned:
            log.warning(
                "assignment_refused",
                extra={"term": assignment.term, "revision": assignment.revision, "seen": self.term},
            )
            return False
        self._ledger.raise_term(assignment.term)
        self._assigned = position
        self._wanted = {desired.id: desired for desired in map(self._checked, assignment.tasks)}
        self._ledger.take(replace(assignment, tasks=tuple(self._wanted.values())))
        self._wake.set()
        return True

    def _checked(self, desired: Desired) -> Desired:
        try:
            return with_probe_substituted(desired, self.place)
        except UnknownPort as error:
            return replace(desired, problem=f"health check: {error}")

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call ``changed`` after every change of ``published``; the result ends that."""
        self._listeners.add(changed)
        return lambda: self._listeners.discard(changed)

    def runtime_of(self, id: ContainerId) -> Runtime | None:
        """The runtime that has the container, also an ended one."""
        container = self._lookout.containers.get(id)
        return None if container is None else self._hands.runtimes[container.runtime]

    # --- life --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled; the containers stay."""
        try:
            async with asyncio.TaskGroup() as group:
                for kind in self._hands.runtimes:
                    group.create_task(self._lookout.look_for_ever(kind))
                    group.create_task(self._lookout.watch_for_ever(kind))
                group.create_task(self._reconcile_for_ever())
        finally:
            await self._prober.close()
            await self._deeds.close()
            await self._hands.close()

    async def stop_tasks(self, timeout_s: float) -> bool:
        """Stop all containers and forget them; whether all were gone in time. ``run`` must be running."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._wanted, self._retention = {}, Retention(0, 0)
        while self._lookout.containers or self._lookout.busy or not self.ready.is_set():
            passed_s = loop.time() - begun
            if passed_s > timeout_s:
                return False
            over = passed_s > LAST_GRACE_S
            self._ledger.give_up_results(self._clock.mono_ms() if over else None)
            self._wake.set()
            await asyncio.sleep(0.05)
        return True

    async def _reconcile_for_ever(self) -> None:
        ready_at = asyncio.get_running_loop().time() + READY_TIMEOUT_S
        while True:
            try:
                wait_s = await self._reconcile()
            except Exception:  # the loop's top: a bug must not end the care for the tasks
                log.exception("reconcile_bug")
                wait_s = PAUSE_S
                await asyncio.sleep(PAUSE_S)
            if not self.ready.is_set():
                late = asyncio.get_running_loop().time() >= ready_at
                if self._lookout.asked_all() or late:
                    self.ready.set()
                    self._tell()
                wait_s = min(wait_s, READY_TIMEOUT_S / 4)
            with contextlib.suppress(TimeoutError):  # then a round for retention and the disk
                # not wait_for: that of Python 3.11 forgets a cancellation that comes together with the event
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()

    async def _reconcile(self) -> float:
        """One round; the seconds until the next is due at the latest."""
        with self._metrics.reconcile_seconds.time():
            assigned = self._assigned
            self._disk_problem = self._state_dir.problem()
            self._ledger.adopt(self._lookout.containers, self._wanted or {})
            self._note_health()
            plan = make_plan(self._view())
            saved = await self._carry_out(plan)
            self._probe()
            self._publish(assigned)
        if any(isinstance(action, Conclude) for action in plan.actions):
            self._wake.set()  # what ended is to be released
        if not saved or self._disk_problem:
            return PAUSE_S  # starts are on hold: see soon whether there is space again
        if plan.wake_at_ms is None:
            return PERIOD_S
        return min(PERIOD_S, max(0.0, (plan.wake_at_ms - self._clock.mono_ms()) / 1000))

    async def _carry_out(self, plan: Plan) -> bool:
        """Write down what is about to happen, then let it happen; False when it could not be written."""
        now_ms = self._clock.mono_ms()
        self._waits = {
            action.id: action.reason for action in plan.actions if isinstance(action, Wait)
        }
        for action in plan.actions:
            self._ledger.plan(action, now_ms)
            if isinstance(action, Conclude):
                self._metrics.ends.labels(action.ended.kind.value).inc()
        deeds = self._deeds.claim(plan.actions)
        saved = await self._ledger.save()
        for action in deeds:
            if isinstance(action, Start) and not saved:
                # a start that is not written down could be repeated after a crash
                self._ledger.unplan_start(action.desired.id, now_ms, self._ledger.trouble)
                self._waits[action.desired.id] = self._ledger.trouble
                self._lookout.end(action.desired.id)
            else:
                self._deeds.do(action)
        return saved

    def _view(self) -> View:
        return View(
            capacity=self._base_facts.capacity,
            runtimes=frozenset(self._hands.runtimes) - self._lookout.blind.keys(),
            wanted=self._wanted,
            records=self._ledger.records,
            containers=self._lookout.containers,
            now_ms=self._clock.mono_ms(),
            wall_ms=self._clock.wall_ms(),
            busy=frozenset(self._lookout.busy),
            blind=frozenset(self._lookout.blind),
            unhealthy={id: health.detail for id, health in self._health.items() if health.failed},
            retention=self._retention,
            disk_short=self._state_dir.is_short(),
            hold=self._disk_problem or self._ledger.trouble,
        )

    # --- health ------------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        targets = {}
        for id, container in self._lookout.containers.items():
            record = self._ledger.of(id)
            check = record.desired.spec.health if record.desired else None
            leaving = record.stop is not None or record.ended is not None
            if check and container.state is ContainerState.ALIVE and not leaving:
                targets[id] = Target(check, container.ports, container.started_at_ms)
        self._prober.sync(targets)
        for id in self._health.keys() - targets.keys():
            del self._health[id]

    def _note_health(self) -> None:
        """Write down who was healthy once: that is what makes a task RUNNING."""
        for id, container in self._lookout.containers.items():
            if container.state is ContainerState.ALIVE and self._is_healthy(id):
                record = self._ledger.of(id)
                if not record.ran:
                    self._ledger.put(replace(record, ran=True))

    def _is_healthy(self, id: ContainerId) -> bool:
        """By the last probe; before the first one, as it was when another agent looked."""
        record = self._ledger.of(id)
        if record.desired is None or record.desired.spec.health is None:
            return True
        health = self._health.get(id)
        return record.ran if health is None else health.healthy

    def _on_health(self, id: ContainerId, health: Health) -> None:
        self._health[id] = health
        if health.failed:
            log.warning(
                "task_unhealthy",
                extra={
                    "task": str(id.task),
                    "incarnation": id.incarnation,
                    "detail": health.detail,
                },
            )
        self._wake.set()

    async def _execute(self, id: ContainerId, argv: tuple[str, ...], timeout_ms: int) -> int:
        container = self._lookout.containers.get(id)
        if container is None:
            raise RuntimeFailed(f"{id} is gone")
        return await self._hands.execute(container.runtime, id, argv, timeout_ms)

    # --- what is told ------------------------------------------------------------------------------------------

    def _publish(self, assigned: tuple[int, int]) -> None:
        view = self._view()
        alive = (
            id
            for id, container in view.containers.items()
            if container.state is ContainerState.ALIVE
        )
        before = self.published
        now = Published(
            before.version + 1,
            statuses(
                view,
                waits=self._waits,
                healthy={id: self._is_healthy(id) for id in alive},
                before=before.statuses,
            ),
            self._facts(),
            self._not_ready(),
            assigned,
        )
        if replace(now, version=before.version) != before:
            self.published = now
            self._tell()
        self._metrics.observe(now.statuses.values(), ready=not now.not_ready)

    def _tell(self) -> None:
        for changed in list(self._listeners):
            changed()

    def _facts(self) -> Facts:
        attributes = dict(self._base_facts.attributes)
        for kind in self._hands.runtimes:
            if kind not in self._lookout.blind:
                attributes |= self._lookout.attributes.get(kind, {})
        return replace(self._base_facts, attributes=dict(sorted(attributes.items())))

    def _not_ready(self) -> str:
        trouble = self._disk_problem or self._ledger.trouble
        if trouble:
            return trouble
        blind = self._lookout.blind
        if self._hands.runtimes.keys() == blind.keys():
            return "; ".join(f"{kind} runtime: {why}" for kind, why in blind.items())
        return ""
