"""Unit tests of ``borgmaster.scheduling.feed``: the scheduler's copy follows a cell that lives by commands."""

from borgcell.specs import Constraint, Op
from borgcell.types import EndReason, JobKey, TaskKey, TaskState

from borgmaster.scheduling.feed import delta, full, machine_row, pending_row, placed_row
from borgmaster.state.commands import (
    ForgetJobs,
    KillJob,
    MarkMachine,
    RemoveMachine,
    SetDraining,
)
from borgmaster.state.events import JobChanged, JobForgotten
from borgmaster.state.model import Stopping
from scheduler.cell import SchedulerCell
from scheduler.engine import plan_pass
from scheduler.model import MachineRow
from tests.helpers.builders import (
    START_MS,
    World,
    a_batch_spec,
    a_cell,
    a_job,
    a_limit,
    a_machine,
    a_spec,
    a_task,
    a_task_spec,
)

WEB = JobKey("ann", "web")


class Followed(World):
    """A world with a scheduler's copy that is told of every entry."""

    def __init__(self) -> None:
        super().__init__()
        self.copy = SchedulerCell()

    def run(self, *commands, request_id=""):
        outcome = super().run(*commands, request_id=request_id)
        self.copy.apply(delta(self.cell, tuple(self.last.events)))
        fresh = SchedulerCell()
        fresh.apply(full(self.cell))
        for values in ("index", "placed", "pending", "classes"):
            assert getattr(self.copy, values) == getattr(fresh, values), values
        assert {row.name: row for row in self.copy.rows if row.name} == {
            row.name: row for row in fresh.rows if row.name
        }
        return outcome


def test_a_copy_fed_by_events_equals_one_made_from_the_whole_cell_all_through_a_jobs_life():
    world = Followed()
    world.add_machine("m1")
    world.add_machine("m2")
    world.submit(a_spec("ann/web", task_count=3))
    assert len(world.copy.pending) == 3
    world.start("ann/web/0", "m1")
    world.start("ann/web/1", "m2")
    assert set(world.copy.placed) == {TaskKey("ann", "web", 0), TaskKey("ann", "web", 1)}
    world.must(SetDraining("m2", draining=True))
    assert world.copy.rows[world.copy.slots["m2"]].reason == "draining"
    world.must(MarkMachine("m2", up=False, detail="no answer"))
    world.must(RemoveMachine("m2", force=True))
    assert set(world.copy.slots) == {"m1"}
    world.must(KillJob(WEB))
    assert world.copy.pending == {}
    assert world.copy.placed[TaskKey("ann", "web", 0)].stopping


def test_what_the_scheduler_plans_from_the_copy_is_what_the_state_machine_accepts():
    world = Followed()
    for name in ("m1", "m2"):
        world.add_machine(name)
    world.submit(a_batch_spec("bob/count", task_count=20, task=a_task_spec(limit=a_limit(2_000))))
    world.submit(a_spec("ann/web", task_count=4, task=a_task_spec(limit=a_limit(3_000))))
    for _ in range(2):
        plan = plan_pass(world.copy, seed=world.cell.applied_index, now_ms=world.now_ms)
        for one in plan.placements:
            victims = [str(victim.key) for victim in one.victims]
            assert world.place(str(one.key), one.machine, victims=victims).machine == one.machine
    running = [key.job for key, row in world.copy.placed.items() if not row.stopping]
    assert running.count("web") == 4


def test_a_preemption_shows_as_room_that_changed_hands():
    world = Followed()
    world.add_machine("m1")
    world.submit(a_batch_spec("bob/count", task=a_task_spec(limit=a_limit(8_000))))
    world.start("bob/count/0")
    world.submit(a_spec("ann/web", task=a_task_spec(limit=a_limit(8_000))))
    plan = plan_pass(world.copy, seed=1, now_ms=world.now_ms)
    assert [str(one.key) for one in plan.placements[0].victims] == ["bob/count/0"]
    world.place("ann/web/0", victims=["bob/count/0"])
    victim = world.copy.placed[TaskKey("bob", "count", 0)]
    assert (victim.stopping, victim.held.cpu_milli) == (True, 0)
    assert world.copy.used[0, 0, world.copy.slots["m1"]] == 8_000


def test_forgotten_jobs_are_gone_from_the_copy():
    world = Followed()
    world.submit(a_spec("ann/web", task_count=2))
    world.must(KillJob(WEB))
    world.must(ForgetJobs(jobs=(WEB,)))
    assert not world.copy.pending
    assert not world.copy.classes


def test_a_row_of_a_machine_says_why_it_takes_no_tasks():
    for fields, reason in (
        ({}, ""),
        ({"up": False, "detail": "no answer"}, "down"),
        ({"draining": True}, "draining"),
        ({"detail": "no cgroups"}, "not ready: no cgroups"),
    ):
        row = machine_row(a_machine(**fields))
        assert isinstance(row, MachineRow)
        assert (row.reason, row.takes_tasks) == (reason, reason == "")


def test_a_pending_row_carries_what_the_version_of_its_incarnation_asks_for():
    arm = Constraint("arch", Op.EQUAL, "arm64")
    job = a_job("ann/web", constraints=(arm,), max_per_machine=2, max_per_rack=3)
    task = a_task("ann/web/0", job=job, not_before_ms=START_MS + 5)
    row = pending_row(job, task)
    assert row.shape.constraints == (arm, Constraint("runtime.native", Op.PRESENT))
    assert (row.shape.max_per_machine, row.shape.max_per_rack) == (2, 3)
    assert (row.submitted_at_ms, row.not_before_ms) == (START_MS, START_MS + 5)


def test_a_task_killed_alone_is_gone_while_its_job_goes_on():
    world = Followed()
    world.submit(a_spec("ann/web", task_count=3))
    world.must(KillJob(WEB, indexes=(1,)))
    assert not world.cell.jobs[WEB].ended
    assert sorted(key.index for key in world.copy.pending) == [0, 2]


def test_forgotten_and_ended_jobs_are_named_even_if_nothing_is_said_of_their_tasks():
    ended = a_job("ann/web", ended=True)
    assert delta(a_cell(), (JobForgotten(WEB),)).removed_jobs == (WEB,)
    assert delta(a_cell(ended), (JobChanged(ended),)).ended_jobs == (WEB,)
    goes_on = a_job("ann/web")
    assert delta(a_cell(goes_on), (JobChanged(goes_on),)).ended_jobs == ()


def test_an_override_that_needs_another_runtime_has_its_own_constraints():
    override = a_task_spec(argv=(), image="busybox")
    world = Followed()
    world.submit(a_spec("ann/web", task_count=2, overrides={1: override}))
    rows = [world.copy.pending[TaskKey("ann", "web", index)] for index in range(2)]
    names = [row.shape.constraints[-1].attribute for row in rows]
    assert names == ["runtime.native", "runtime.docker"]


def test_tasks_of_an_override_have_a_shape_of_their_own():
    large = a_task_spec(limit=a_limit(4_000))
    spec = a_spec("ann/web", task_count=3, overrides={1: large})
    world = Followed()
    world.submit(spec)
    limits = [world.copy.pending[TaskKey("ann", "web", index)].shape.limit for index in range(3)]
    assert [limit.cpu_milli for limit in limits] == [1_000, 4_000, 1_000]
    assert len(world.copy.classes) == 2


def test_a_task_that_is_being_stopped_is_marked_even_while_its_machine_is_silent():
    stopping = Stopping(EndReason.KILLED, START_MS)
    task = a_task(machine="m1", state=TaskState.PARTITIONED, stopping=stopping)
    assert placed_row(task).stopping
    assert not placed_row(a_task(machine="m1")).stopping


def test_a_pending_task_of_an_ended_job_is_gone():
    job = a_job("ann/web", ended=True)
    assert full(a_cell(job, a_task("ann/web/0", job=job))).pending == ()
