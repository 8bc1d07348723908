"""borglet.plan from any state: repeated planning and perfect execution reaches what is wanted, safely all the way."""

from borgcell.resources import MIB, Resources, fits, total
from borgcell.types import EndKind
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from borglet.actions import Conclude, Drop, Forget, Kill, Release, Start, Terminate, Wait
from borglet.plan import KILL_RETRY_MS, Retention, make_plan
from borglet.runtime.port import ContainerState
from borglet.values import Record, Stop
from tests.helpers.borglet_values import NOW_MS, WALL_MS, a_desired, a_view, alive, an_id, ended

CAPACITY = Resources(cpu_milli=4_000, ram_bytes=1_000 * MIB, disk_bytes=0, ports=3)
PORTS = (21_000, 21_001, 21_002)
IDS = [an_id(index, incarnation) for index in range(3) for incarnation in range(2)]
ROUNDS_MAX = 40


class Machine:
    """Containers that do what they are told: some at SIGTERM, some only when killed, none at once."""

    def __init__(self, wanted, records, containers, stubborn):
        self.wanted = {desired.id: desired for desired in wanted}
        self.records = {record.id: record for record in records}
        self.containers = {container.id: container for container in containers}
        self.stubborn = stubborn
        self.now_ms = NOW_MS
        self.started = []
        self.reported = {}
        self.ending = []  # told to end: they do after the round, and hold their room until then

    def view(self):
        return replace(
            a_view(capacity=CAPACITY, retention=Retention(per_task_max=0)),
            wanted=self.wanted,
            records=self.records,
            containers=self.containers,
            now_ms=self.now_ms,
        )

    def live(self):
        return [c for c in self.containers.values() if c.state is ContainerState.ALIVE]

    def end(self, id, exit_code):
        self.containers[id] = replace(ended(id, exit_code), limit=self.containers[id].limit)

    def end_the_ending(self):
        for id, exit_code in self.ending:
            if self.containers[id].state is ContainerState.ALIVE:
                self.end(id, exit_code)
        self.ending.clear()

    def of(self, id):
        return self.records.get(id, Record(id))

    def perform(self, action):
        match action:
            case Terminate(id=id, kind=kind, detail=detail, grace_ms=grace_ms):
                stop = self.of(id).stop or Stop(kind, detail, grace_ms, self.now_ms + grace_ms)
                self.records[id] = replace(self.of(id), stop=replace(stop, signalled=True))
                if id not in self.stubborn:
                    self.ending.append((id, 143))
            case Kill(id=id):
                stop = replace(self.of(id).stop, kill_at_ms=self.now_ms + KILL_RETRY_MS)
                self.records[id] = replace(self.of(id), stop=stop)
                self.ending.append((id, 137))
            case Conclude(id=id, ended=end):
                assert not self.of(id).ended, f"{id} ended twice"
                self.records[id] = replace(self.of(id), ended=end, desired=None, retry_at_ms=None)
                self.reported[id] = end
            case Start(desired=desired):
                assert desired.id not in self.started, f"{desired.id} started twice"
                assert not self.of(desired.id).ended, f"{desired.id} started after its end"
                self.started.append(desired.id)
                self.records[desired.id] = replace(
                    self.of(desired.id), desired=desired, retry_at_ms=None
                )
                self.containers[desired.id] = alive(
                    desired.id, limit=desired.spec.limit, ports=desired.ports
                )
            case Release(id=id):
                self.records[id] = replace(self.of(id), released=True)
            case Forget(id=id):
                del self.containers[id]
            case Drop(id=id):
                del self.records[id]
            case Wait():
                pass

    def acknowledge(self):
        """The master has recorded every end, and asks no more for those incarnations."""
        for id, record in list(self.records.items()):
            if record.ended:
                end = replace(record.ended, acknowledged=True)
                self.records[id] = replace(record, ended=end)
                self.wanted.pop(id, None)

    def check(self, *, was_over):
        tasks = [c.id.task for c in self.live()]
        assert len(tasks) == len(set(tasks)) or was_over, "two live incarnations of one task"
        held = total(c.limit for c in self.live())
        assert fits(held, CAPACITY) or was_over, f"over-committed: {held}"
        ports = [port for c in self.live() for port in c.ports.values()]
        assert len(ports) == len(set(ports)) or was_over, "two live containers with one port"

    def is_over(self):
        """Whether the state was unsafe already when the agent met it."""
        try:
            self.check(was_over=False)
        except AssertionError:
            return True
        return False


@st.composite
def desireds(draw, id):
    names = draw(st.lists(st.sampled_from(PORTS), max_size=1))
    return a_desired(
        id,
        ports={f"p{port}": port for port in names},
        stop=draw(st.booleans()) and draw(st.booleans()),
        priority=draw(st.sampled_from([0, 100, 200])),
        cpu_milli=draw(st.sampled_from([200, 500, 1_500, 2_500, 5_000])),
        ram_bytes=100 * MIB,
        grace_ms=draw(st.sampled_from([0, 1_000])),
    )


@st.composite
def machines(draw):
    wanted, records, containers = [], [], []
    for id in IDS:
        desired = draw(desireds(id))
        if draw(st.booleans()):
            wanted.append(desired)
        here = draw(
            st.sampled_from(
                ["nothing", "nothing", "alive", "unknown", "ended", "gone", "retry", "stopping"]
            )
        )
        if here in ("alive", "unknown", "stopping"):
            containers.append(alive(id, limit=desired.spec.limit, ports=desired.ports))
        if here == "ended":
            containers.append(ended(id, draw(st.sampled_from([0, 1, 137]))))
        if here in ("alive", "ended", "gone"):
            records.append(Record(id, desired))
        if here == "retry":
            records.append(Record(id, desired, attempts=1, retry_at_ms=NOW_MS + 500))
        if here == "stopping":
            stop = Stop(EndKind.STOPPED, "stopped", 1_000, NOW_MS + 1_000, draw(st.booleans()))
            records.append(Record(id, desired, stop=stop))
    stubborn = frozenset(draw(st.lists(st.sampled_from(IDS), unique=True, max_size=3)))
    return Machine(wanted, records, containers, stubborn)


def check_order(plan):
    """Stops come before starts."""
    kinds = [type(action) for action in plan.actions]
    starts = [place for place, kind in enumerate(kinds) if kind is Start]
    stops = [place for place, kind in enumerate(kinds) if kind in (Terminate, Kill)]
    assert not starts or not stops or max(stops) < min(starts)


@given(machines())
def test_any_state_converges_to_what_is_wanted_and_is_safe_all_the_way(machine):
    wanted_first = dict(machine.wanted)
    over = machine.is_over()
    acknowledged = False
    for _ in range(ROUNDS_MAX):
        plan = make_plan(machine.view())
        check_order(plan)
        for action in plan.actions:
            machine.perform(action)
            if isinstance(action, Start):
                # a start never makes it worse: what is live now fits, ports and incarnations are single
                mine = machine.containers[action.desired.id]
                siblings = [c for c in machine.live() if c.id.task == mine.id.task]
                assert siblings == [mine], "started beside a live incarnation"
                clashes = [
                    c
                    for c in machine.live()
                    if c is not mine and set(c.ports.values()) & set(mine.ports.values())
                ]
                assert not clashes
                assert fits(total(c.limit for c in machine.live()), CAPACITY)
        machine.end_the_ending()
        over = over and machine.is_over()
        machine.check(was_over=over)
        if not [action for action in plan.actions if not isinstance(action, Wait)]:
            if plan.wake_at_ms is not None:
                machine.now_ms = plan.wake_at_ms
            elif not acknowledged:
                machine.acknowledge()
                acknowledged = True
            else:
                break
    else:
        raise AssertionError("did not come to rest")
    event(f"started {len(machine.started)}, ended {len(machine.reported)}")
    live = {c.id for c in machine.live()}
    assert live == machine.wanted.keys(), "what lives is what is wanted"
    for id in wanted_first.keys() - live:
        assert id in machine.reported, f"{id} was wanted, does not live and nobody was told"
    assert machine.records.keys() <= live, "nothing is remembered for ever"


@given(machines())
def test_a_plan_that_is_not_carried_out_is_the_same_again(machine):
    view = machine.view()
    assert make_plan(view) == make_plan(view)


@given(machines())
def test_without_a_master_nothing_starts_and_only_begun_stops_go_on(machine):
    view = replace(machine.view(), wanted=None)
    for action in make_plan(view).actions:
        assert not isinstance(action, Start | Forget | Drop)
        if isinstance(action, Terminate):
            assert machine.records[action.id].stop is not None
        if isinstance(action, Conclude):
            assert action.ended.at_ms == WALL_MS
