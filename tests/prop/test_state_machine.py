"""The pure core under any sequence of commands in a small world: sound, deterministic, restorable.

Commands are drawn from what exists, so that most of them mean something; a twin that is now and then replaced
by a restored checkpoint must stay equal to the cell.
"""

from collections import Counter

from borgcell.resources import MIB, Resources
from borgcell.specs import UpdatePolicy
from borgcell.types import PLACED_STATES, EndKind, EvictionCause, JobKind, TaskPhase, TaskState
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from borgmaster.controllers.drain import reconcile_drains
from borgmaster.controllers.garbage import JOBS_KEPT_MS, reconcile_garbage
from borgmaster.controllers.liveness import reconcile_liveness
from borgmaster.controllers.update import reconcile_updates
from borgmaster.state import invariants
from borgmaster.state.cell import CellState
from borgmaster.state.checkpoint import capture, digest, restore
from borgmaster.state.commands import (
    AddMachine,
    EvictTasks,
    ForgetJobs,
    KillJob,
    LoseTasks,
    MarkMachine,
    Placed,
    PlaceTasks,
    RemoveMachine,
    Reported,
    ReportTasks,
    SetDraining,
    SetMachineFacts,
    SubmitJob,
    UpdateTasks,
)
from borgmaster.state.core import Decided, apply_bytes, decide
from borgmaster.state.entry import Entry, Proposal, encode_entry
from borgmaster.state.events import TaskForgotten
from borgmaster.state.outcome import Code, Rejected
from borgmaster.state.task_machine import state_after
from tests.helpers.builders import ATTRIBUTES, START_MS, a_limit, a_spec, a_task_spec

MACHINES = ("m0", "m1", "m2")
JOBS = ("ann/web", "bob/count", "cat/mon")
URGENT = ("dan/now", "dan/soon", "dan/today")
PRIORITIES = (0, 100, 200, 360)
PORTS = (("http",), ("http", "admin"), ())
FLAGS = st.booleans()
PLACED = tuple(sorted(PLACED_STATES))
TALLY: Counter[str] = Counter()  # what the rules reached, over all examples


def placement(task, machine, victims=()):
    names = tuple((victim.key, victim.current.number) for victim in victims)
    return Placed(task.key, task.current.number, machine, names)


class CellMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.cell, self.twin = CellState("prop"), CellState("prop")
        self.now_ms = START_MS
        self.index = 0
        self.states = {}
        self.submitted = set()

    # --- the world

    def run(self, *commands, request_id=""):
        proposals = tuple(Proposal(command, request_id) for command in commands)
        data = encode_entry(Entry(self.now_ms, proposals))
        self.index += 1
        applied = apply_bytes(self.cell, self.index, data)
        assert applied == apply_bytes(self.twin, self.index, data)
        assert not applied.faults, applied.faults[0]
        for command, outcome in zip(commands, applied.outcomes, strict=True):
            changed = not isinstance(outcome, Rejected) and outcome.changed
            TALLY[f"{type(command).__name__} {'changed' if changed else 'nothing'}"] += 1
        self.follow(applied)
        return applied.outcomes

    def decide_first(self, command):
        before = digest(self.cell)
        decided = decide(self.cell, command, self.now_ms)
        assert digest(self.cell) == before, "decide changed the cell"
        (outcome,) = self.run(command)
        assert isinstance(outcome, Rejected) == (not isinstance(decided, Decided))

    def follow(self, applied):
        """The notes alone tell the state of every task, and no incarnation is submitted twice."""
        for line in applied.recorded:
            if line.subject != "task":
                continue
            TALLY[f"note {line.note.kind} {line.note.cause or ''}"] += 1
            before = self.states.get(line.key, TaskState.DEAD)
            self.states[line.key] = state_after(before, [line.note.kind])
            if line.note.kind == "SUBMIT":
                assert (line.key, line.note.incarnation) not in self.submitted
                self.submitted.add((line.key, line.note.incarnation))
        for event in applied.events:
            if isinstance(event, TaskForgotten):
                assert self.states[str(event.task)] is TaskState.DEAD

    def tasks(self, *states):
        return [
            self.cell.tasks[key]
            for key in sorted(self.cell.tasks)
            if not states or self.cell.tasks[key].state in states
        ]

    def some(self, data, *states, max_size=3):
        tasks = self.tasks(*states)
        if not tasks:
            return []
        return data.draw(st.lists(st.sampled_from(tasks), min_size=1, max_size=max_size))

    def identities(self, data, *states):
        stale = data.draw(st.sampled_from((0,) * 9 + (1,)))
        return tuple((task.key, task.current.number - stale) for task in self.some(data, *states))

    # --- users

    @rule(
        name=st.sampled_from(JOBS),
        count=st.integers(1, 4),
        priority=st.sampled_from(PRIORITIES),
        kind=st.sampled_from(JobKind),
        ports=st.sampled_from(PORTS),
        cpu_milli=st.sampled_from((500, 1_000, 3_000)),
        limits=st.sampled_from(((0, 0), (1, 0), (0, 2), (2, 3))),
        max_failures=st.integers(0, 1),
        expected=st.sampled_from((-1, -1, -1, 0, 1)),
    )
    def submit(self, name, count, priority, kind, ports, cpu_milli, limits, max_failures, expected):
        known = self.cell.jobs.get(a_spec(name).key)
        if known is not None and not known.ended and priority != 0:
            kind = known.spec.kind  # or hardly any update would be accepted
        spec = a_spec(
            name,
            task_count=count,
            priority=priority,
            kind=kind,
            task=a_task_spec(limit=a_limit(cpu_milli), ports=ports),
            max_per_machine=limits[0],
            max_per_rack=limits[1],
            max_failures=max_failures,
            update=UpdatePolicy(max_in_flight=2),
        )
        self.decide_first(SubmitJob(spec, expected))

    @rule(name=st.sampled_from(JOBS), priority=st.sampled_from(PRIORITIES), again=FLAGS)
    def resubmit_with_another_priority(self, name, priority, again):
        job = self.cell.jobs.get(a_spec(name).key)
        if job is None:
            return
        spec = replace(job.spec, priority=priority)
        if again:
            spec = replace(spec, task=a_task_spec(("/bin/other",), limit=job.spec.task.limit))
        self.run(SubmitJob(spec))

    @rule(data=st.data(), whole=st.sampled_from((False, False, True)))
    def kill(self, data, whole):
        for task in self.some(data, max_size=1):
            indexes = () if whole else (task.key.index,)
            self.decide_first(KillJob(task.key.job_key, indexes))

    # --- machines

    @initialize()
    def fill_the_cell(self):
        self.all_machines_are_well()
        for name, kind in zip(JOBS, (JobKind.SERVICE, JobKind.BATCH, JobKind.SERVICE), strict=True):
            spec = a_spec(
                name, task_count=3, kind=kind, priority=100, task=a_task_spec(ports=("p",))
            )
            self.run(SubmitJob(spec))
        self.place_everything(MACHINES)
        self.everything_placed_becomes_healthy()

    @rule()
    def all_machines_are_well(self):
        for name in MACHINES:
            self.run(AddMachine(name, f"{name}:9100"), SetDraining(name, False))
            self.change_facts(name, True, "")

    @rule(name=st.sampled_from(MACHINES), big=FLAGS, detail=st.sampled_from(("", "", "disk full")))
    def change_facts(self, name, big, detail):
        capacity = Resources(3_000 if big else 1_500, 4_096 * MIB, 0)
        rack = {} if name == "m0" else {"rack": "r1"}
        last = 20_003 if big else 20_002
        facts = SetMachineFacts(name, capacity, {**ATTRIBUTES, **rack}, 20_001, last, detail)
        self.decide_first(facts)

    @rule(name=st.sampled_from(MACHINES), up=st.sampled_from((True, False, False)))
    def mark(self, name, up):
        self.decide_first(MarkMachine(name, up))

    @rule(name=st.sampled_from(MACHINES))
    def drain(self, name):
        self.decide_first(SetDraining(name, True))

    @rule(name=st.sampled_from(MACHINES), force=FLAGS)
    def remove_a_machine_that_returns_empty(self, name, force):
        self.decide_first(RemoveMachine(name, force))
        self.run(AddMachine(name, f"{name}:9100"))
        self.change_facts(name, True, "")

    # --- the scheduler and the machines' reports

    @rule(data=st.data(), count=st.integers(1, 4))
    def place(self, data, count):
        placements = []
        for task in self.some(data, TaskState.PENDING, max_size=count):
            machine = data.draw(st.sampled_from(MACHINES))
            here = self.cell.tasks_on(machine)
            victims = data.draw(st.lists(st.sampled_from(here), max_size=3)) if here else []
            placements.append(placement(task, machine, victims))
        self.now_ms += 10_000
        self.decide_first(PlaceTasks(tuple(placements)))

    @rule(order=st.permutations(MACHINES))
    def place_everything(self, order):
        """First fit, without victims, to keep the world busy."""
        self.now_ms += 300_000
        for machine in order:
            pending = self.tasks(TaskState.PENDING)
            self.run(PlaceTasks(tuple(placement(task, machine) for task in pending)))

    @rule(
        data=st.data(),
        name=st.sampled_from(URGENT),
        machine=st.sampled_from(MACHINES),
        cpu_milli=st.sampled_from((1_000, 2_000, 3_000)),
        ports=st.sampled_from(((), (), ("http",))),
        naming=st.sampled_from(("all", "some", "one twice", "anywhere")),
    )
    def an_urgent_job_wants_the_room_of_others(self, data, name, machine, cpu_milli, ports, naming):
        """It may name some of them twice, and some that are elsewhere."""
        task = a_task_spec(limit=a_limit(cpu_milli), ports=ports)
        self.run(SubmitJob(a_spec(name, task_count=2, priority=360, task=task)))
        here = self.cell.tasks_on(machine)
        placements = []
        for pending in self.tasks(TaskState.PENDING):
            if pending.priority != 360:
                continue
            pool = self.tasks(*PLACED) if naming == "anywhere" else here
            victims = [victim for victim in pool if victim.priority < 360]
            if naming != "all" and victims:
                victims = data.draw(st.lists(st.sampled_from(victims), min_size=1, max_size=3))
            if naming == "one twice":
                victims = victims[:1] * 2
            placements.append(placement(pending, machine, victims))
        self.decide_first(PlaceTasks(tuple(placements)))

    @rule(
        data=st.data(),
        phase=st.sampled_from(sorted(set(TaskPhase) - {TaskPhase.ENDED})),
        healthy=FLAGS,
    )
    def report(self, data, phase, healthy):
        self.let_machines_say(data, phase, healthy=healthy)

    @rule(
        data=st.data(),
        end=st.sampled_from((EndKind.EXITED, EndKind.EXITED, *EndKind)),
        exit_code=st.sampled_from((0, 1)),
        wait_ms=st.sampled_from((0, 1_000, 700_000)),
    )
    def end(self, data, end, exit_code, wait_ms):
        self.now_ms += wait_ms
        self.let_machines_say(data, TaskPhase.ENDED, end=end, exit_code=exit_code)

    @rule(name=st.sampled_from(JOBS + URGENT), exit_code=st.sampled_from((0, 0, 1)))
    def all_tasks_of_a_job_exit(self, name, exit_code):
        for task in self.cell.tasks_of(a_spec(name).key):
            if task.machine:
                report = Reported(
                    task.key, task.current.number, TaskPhase.ENDED, EndKind.EXITED, exit_code
                )
                self.run(ReportTasks(task.machine, (report,)))

    def let_machines_say(self, data, phase, **fields):
        by_machine = {}
        stale = data.draw(st.sampled_from((0,) * 9 + (1,)))
        for task in self.some(data, *PLACED):
            report = Reported(task.key, task.current.number - stale, phase, **fields)
            by_machine.setdefault(task.machine, []).append(report)
        for machine in sorted(by_machine):
            self.decide_first(ReportTasks(machine, tuple(by_machine[machine])))

    @rule()
    def everything_placed_becomes_healthy(self):
        for name in MACHINES:
            if name not in self.cell.machines or not self.cell.machines[name].up:
                continue
            reports = tuple(
                Reported(task.key, task.current.number, TaskPhase.RUNNING, healthy=True)
                for task in self.cell.tasks_on(name)
            )
            self.run(ReportTasks(name, reports))

    @rule(data=st.data(), name=st.sampled_from(MACHINES))
    def lose(self, data, name):
        self.run(MarkMachine(name, False))
        self.decide_first(LoseTasks(self.identities(data, TaskState.PARTITIONED)))

    @rule(data=st.data(), cause=st.sampled_from(EvictionCause))
    def evict(self, data, cause):
        self.decide_first(EvictTasks(self.identities(data, *PLACED), cause, "moved"))

    @rule(data=st.data())
    def update(self, data):
        self.decide_first(UpdateTasks(self.identities(data, *PLACED)))

    # --- controllers, time and replicas

    @rule(name=st.sampled_from(MACHINES))
    def controllers_ask_only_for_what_changes_something(self, name):
        heard = {other: 50_000 for other in MACHINES if other != name}
        for _ in range(2):
            commands = [
                *reconcile_liveness(
                    self.cell, self.now_ms, heard_ms=heard, mono_ms=55_000, leading_since_ms=0
                ),
                *reconcile_drains(self.cell, self.now_ms),
                *reconcile_updates(self.cell, self.now_ms),
                *reconcile_garbage(self.cell, self.now_ms),
            ]
            for command in commands:
                (outcome,) = self.run(command)
                assert not isinstance(outcome, Rejected), outcome

    @rule()
    def forget(self):
        self.decide_first(ForgetJobs(tuple(sorted(self.cell.jobs)), self.now_ms - 1))

    @rule()
    def a_day_passes(self):
        self.now_ms += JOBS_KEPT_MS

    @rule()
    def the_clock_of_a_new_leader_is_behind(self):
        self.now_ms -= 60_000

    @rule(name=st.sampled_from(MACHINES), request_id=st.sampled_from(("r1", "r2")))
    def retry_a_request(self, name, request_id):
        (first,) = self.run(SetDraining(name, True), request_id=request_id)
        (second,) = self.run(SetDraining(name, False), request_id=request_id)
        assert first == second

    @rule()
    def an_entry_of_a_newer_version_changes_nothing(self):
        before = digest(self.cell)
        self.index += 1
        data = encode_entry(Entry(self.now_ms, (), version=99))
        for cell in (self.cell, self.twin):
            (outcome,) = apply_bytes(cell, self.index, data).outcomes
            assert isinstance(outcome, Rejected)
            assert outcome.code is Code.UNIMPLEMENTED
        self.cell.applied_index -= 1
        assert digest(self.cell) == before
        self.cell.applied_index += 1

    @rule()
    def the_twin_restarts_from_a_checkpoint(self):
        self.twin = restore(list(capture(self.cell)))

    @invariant()
    def the_cell_is_sound(self):
        assert not (faults := invariants.check(self.cell)), faults

    @invariant()
    def replicas_agree(self):
        assert digest(self.cell) == digest(self.twin)

    @invariant()
    def the_notes_tell_the_states(self):
        for key, task in self.cell.tasks.items():
            assert self.states[str(key)] is task.state


def test_no_sequence_of_commands_breaks_the_cell():
    TALLY.clear()
    run_state_machine_as_test(CellMachine)
    for reached in ("PlaceTasks changed", "note STOP preemption", "note LOST ", "note REJOIN "):
        assert TALLY[reached], f"the rules no longer reach {reached}: {TALLY}"
