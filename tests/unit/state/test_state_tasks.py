"""What machines report of tasks, and what follows: progress, ends, back-off, resubmission."""

import pytest
from borgcell.types import (
    EndKind,
    EndReason,
    EvictionCause,
    JobKey,
    TaskKey,
    TaskPhase,
    TaskState,
)

from borgmaster.state.commands import (
    EvictTasks,
    KillJob,
    LoseTasks,
    MarkMachine,
    RemoveMachine,
    Reported,
    ReportTasks,
    SubmitJob,
    UpdateTasks,
)
from borgmaster.state.model import FINISHED_KEPT_MAX
from borgmaster.state.outcome import Code, Rejected
from tests.helpers.builders import World, a_batch_spec, a_spec, a_task_spec

WEB0 = TaskKey("ann", "web", 0)
COUNT = JobKey("bob", "count")


@pytest.fixture
def world():
    world = World()
    world.add_machine("m1")
    world.submit(a_spec())
    return world


@pytest.fixture
def batch():
    world = World()
    world.add_machine("m1")
    world.submit(a_batch_spec(max_failures=1))
    world.start("bob/count/0")
    return world


# --- progress


def test_a_task_goes_from_assigned_to_running_as_its_machine_reports(world):
    world.place("ann/web/0")
    assert world.report("ann/web/0", TaskPhase.WAITING).state is TaskState.STARTING
    assert world.kinds() == ["START"]
    assert world.report("ann/web/0", TaskPhase.STARTING).state is TaskState.STARTING
    assert world.kinds() == []
    world.wait(5)
    task = world.report("ann/web/0", TaskPhase.RUNNING)
    assert (task.state, task.healthy) == (TaskState.RUNNING, True)
    assert task.current.running_at_ms == world.now_ms
    assert world.kinds() == ["HEALTHY"]


def test_a_task_may_be_seen_running_at_once(world):
    world.place("ann/web/0")
    assert world.report("ann/web/0", TaskPhase.RUNNING).state is TaskState.RUNNING
    assert world.kinds() == ["START", "HEALTHY"]


def test_a_running_task_that_becomes_unhealthy_stays_running(world):
    world.start("ann/web/0")
    task = world.report("ann/web/0", TaskPhase.RUNNING, healthy=False)
    assert (task.state, task.healthy, world.kinds()) == (TaskState.RUNNING, False, ["UNHEALTHY"])
    since_ms = task.current.running_at_ms
    world.wait(1_000)
    task = world.report("ann/web/0", TaskPhase.RUNNING)
    assert (task.healthy, world.kinds()) == (True, ["HEALTHY"])
    assert task.current.running_at_ms == since_ms


def test_a_task_adopted_by_a_new_borglet_is_unhealthy_until_probed(world):
    world.start("ann/web/0")
    task = world.report("ann/web/0", TaskPhase.STARTING)
    assert (task.state, task.healthy) == (TaskState.RUNNING, False)


def test_what_is_known_already_changes_nothing(world):
    world.start("ann/web/0")
    world.report("ann/web/0", TaskPhase.RUNNING)
    assert not world.last.events
    assert not world.last.outcomes[0].changed


def test_a_machine_that_stops_a_task_by_itself_is_believed_at_its_end(world):
    world.start("ann/web/0")
    assert world.report("ann/web/0", TaskPhase.STOPPING).state is TaskState.RUNNING
    assert not world.last.events


@pytest.mark.parametrize(
    ("machine", "incarnation"), [("m1", 2), ("m2", 1)], ids=["stale", "elsewhere"]
)
def test_reports_of_what_is_not_there_are_ignored(world, machine, incarnation):
    world.add_machine("m2")
    world.start("ann/web/0")
    for phase in TaskPhase:
        report = Reported(WEB0, incarnation, phase, EndKind.EXITED, 1)
        assert not world.must(ReportTasks(machine, (report,))).changed
    assert world.task("ann/web/0").state is TaskState.RUNNING


def test_a_report_of_an_unknown_machine_is_refused(world):
    assert world.run(ReportTasks("m9", ())) == Rejected(Code.NOT_FOUND, "there is no machine m9")


def test_an_end_that_is_reported_twice_counts_once(world):
    world.start("ann/web/0")
    end = Reported(WEB0, 1, TaskPhase.ENDED, EndKind.EXITED, 1)
    assert world.must(ReportTasks("m1", (end, end))).tasks_affected == 1
    assert world.task("ann/web/0").current.number == 2


# --- ends


@pytest.mark.parametrize(
    ("end", "exit_code", "kind", "cause", "detail"),
    [
        (EndKind.EXITED, 3, "FAIL", None, "exited with status 3"),
        (EndKind.EXITED, 0, "FINISH", None, ""),
        (EndKind.OUT_OF_MEMORY, 137, "FAIL", None, "ran out of memory"),
        (EndKind.UNHEALTHY, 137, "FAIL", None, "failed its health check"),
        (EndKind.START_FAILED, -1, "FAIL", None, "could not be started"),
        (EndKind.LOST, -1, "LOST", None, "ended while nobody could see how"),
        (
            EndKind.STOPPED,
            -1,
            "LOST",
            None,
            "stopped by its machine, though nobody had asked for it",
        ),
        (None, -1, "LOST", None, "ended while nobody could see how"),
        (EndKind.REFUSED, -1, "EVICT", EvictionCause.OUT_OF_RESOURCES, "refused by its machine"),
    ],
)
def test_every_end_of_a_service_is_a_death_and_a_new_start(
    world, end, exit_code, kind, cause, detail
):
    world.start("ann/web/0")
    task = world.end("ann/web/0", exit_code, end)
    assert world.kinds() == [kind, "SUBMIT"]
    note = world.last.recorded[0].note
    assert (note.incarnation, note.machine, note.exit_code) == (1, "m1", exit_code)
    assert (note.cause, note.detail) == (cause, detail)
    assert (task.state, task.current.number, task.machine) == (TaskState.PENDING, 2, "")
    past = task.finished[0]
    assert (past.exit_code, past.cause, past.detail) == (exit_code, cause, detail)
    assert past.ended_at_ms == world.now_ms
    assert world.cell.held_on("m1").cpu_milli == 0


def test_what_the_machine_says_of_an_end_is_kept(world):
    world.start("ann/web/0")
    task = world.report(
        "ann/web/0", TaskPhase.ENDED, end=EndKind.START_FAILED, detail="no such file: /bin/x"
    )
    assert task.finished[0].detail == "no such file: /bin/x"


def test_only_the_latest_finished_incarnations_are_kept(world):
    for _ in range(FINISHED_KEPT_MAX + 3):
        world.start("ann/web/0")
        world.end("ann/web/0", 1)
        world.wait(300_000)
    numbers = [past.number for past in world.task("ann/web/0").finished]
    assert numbers == list(range(4, FINISHED_KEPT_MAX + 4))


def test_a_batch_task_that_exits_with_0_is_done_and_so_is_its_job(batch):
    task = batch.end("bob/count/0", 0)
    assert (task.state, task.current.end_reason) == (TaskState.DEAD, EndReason.FINISHED)
    job = batch.cell.jobs[COUNT]
    assert (job.ended, job.ended_at_ms) == (True, batch.now_ms)
    assert batch.kinds() == ["FINISH", "FINISH"]


def test_a_batch_task_fails_for_good_after_too_many_failures(batch):
    assert batch.end("bob/count/0", 1).state is TaskState.PENDING
    batch.wait(10_000)
    batch.start("bob/count/0")
    task = batch.end("bob/count/0", 2)
    assert (task.state, task.failures) == (TaskState.DEAD, 2)
    assert task.current.end_reason is EndReason.FAILED
    assert batch.cell.jobs[COUNT].ended
    assert batch.kinds() == ["FAIL", "FAIL"]
    assert batch.last.recorded[-1].note.detail == "1 failed"


@pytest.mark.parametrize("end", [EndKind.LOST, EndKind.REFUSED])
def test_losses_and_evictions_are_no_failures(batch, end):
    for _ in range(3):
        task = batch.end("bob/count/0", -1, end)
        assert (task.state, task.failures, task.not_before_ms) == (TaskState.PENDING, 0, 0)
        batch.start("bob/count/0")


# --- back-off


def crash(world, *, ran_ms=0, exit_code=1):
    """Start the task, let it run, let it end; how long it must wait then."""
    world.start("ann/web/0")
    world.wait(ran_ms)
    task = world.end("ann/web/0", exit_code)
    wait_ms = max(0, task.not_before_ms - world.now_ms)
    world.wait(wait_ms)
    return wait_ms


def test_the_back_off_of_a_crash_loop_doubles_up_to_five_minutes(world):
    waits = [crash(world) // 1_000 for _ in range(7)]
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert world.task("ann/web/0").failures == 7


def test_ten_minutes_of_running_end_a_crash_loop(world):
    crash(world)
    crash(world)
    assert crash(world, ran_ms=599_999) == 40_000
    assert crash(world, ran_ms=600_000) == 10_000
    assert world.task("ann/web/0").failures == 1


def test_a_service_that_finishes_too_soon_waits_like_a_failed_one(world):
    assert crash(world, exit_code=0) == 10_000
    assert crash(world, exit_code=0) == 20_000
    assert world.task("ann/web/0").failures == 0
    assert crash(world, exit_code=0, ran_ms=600_000) == 0


def test_an_eviction_neither_waits_nor_ends_a_crash_loop(world):
    crash(world)
    world.start("ann/web/0")
    world.must(EvictTasks(((WEB0, 2),), EvictionCause.MAINTENANCE))
    assert world.end("ann/web/0", 143).not_before_ms == 0
    assert crash(world) == 20_000


def test_the_submission_says_how_long_it_waits(world):
    world.start("ann/web/0")
    world.end("ann/web/0", 1)
    assert world.last.recorded[-1].note.detail == "back-off 10 s"


# --- stopping


def test_an_evicted_task_stops_and_comes_back(world):
    world.start("ann/web/0")
    outcome = world.must(EvictTasks(((WEB0, 1), (WEB0, 1)), EvictionCause.MAINTENANCE, "m1 drains"))
    assert outcome.tasks_affected == 1
    task = world.task("ann/web/0")
    assert (task.state, task.healthy, task.machine) == (TaskState.STOPPING, False, "m1")
    assert world.kinds() == ["STOP"]
    task = world.end("ann/web/0", 143, EndKind.STOPPED)
    assert world.kinds() == ["EVICT", "SUBMIT"]
    assert task.finished[0].cause is EvictionCause.MAINTENANCE
    assert task.finished[0].detail == "m1 drains"


@pytest.mark.parametrize("command", [EvictTasks, UpdateTasks, LoseTasks])
def test_stale_and_waiting_incarnations_are_skipped(world, command):
    more = {"cause": EvictionCause.MAINTENANCE} if command is EvictTasks else {}
    outcome = world.must(command(((WEB0, 1), (WEB0, 9), (TaskKey("no", "no", 1), 1)), **more))
    assert (outcome.changed, outcome.tasks_affected) == (False, 0)


def test_only_the_end_of_a_stopping_task_is_news(world):
    world.start("ann/web/0")
    world.must(EvictTasks(((WEB0, 1),), EvictionCause.MAINTENANCE))
    for phase in set(TaskPhase) - {TaskPhase.ENDED}:
        world.report("ann/web/0", phase)
        assert not world.last.events


def test_a_stopping_service_that_exits_with_0_was_stopped(world):
    world.start("ann/web/0")
    world.must(KillJob(JobKey("ann", "web")))
    assert world.end("ann/web/0", 0).current.end_reason is EndReason.KILLED


def test_a_stopping_batch_task_that_exits_with_0_has_finished(batch):
    batch.must(EvictTasks(((TaskKey("bob", "count", 0), 1),), EvictionCause.MAINTENANCE))
    task = batch.end("bob/count/0", 0)
    assert (task.state, task.current.end_reason) == (TaskState.DEAD, EndReason.FINISHED)
    assert batch.cell.jobs[COUNT].ended


def test_an_update_of_a_task_that_runs_the_version_already_is_skipped(world):
    world.start("ann/web/0")
    assert not world.must(UpdateTasks(((WEB0, 1),))).changed


def test_an_evicted_task_is_not_stopped_again_for_an_update(world):
    world.start("ann/web/0")
    world.must(EvictTasks(((WEB0, 1),), EvictionCause.MAINTENANCE))
    world.must(SubmitJob(a_spec(task=a_task_spec(("/bin/other",)))))
    assert not world.must(UpdateTasks(((WEB0, 1),))).changed
    assert world.end("ann/web/0", 143).current.version == 2


# --- partitions


def test_tasks_of_a_silent_machine_are_partitioned_and_rejoin_when_reported(world):
    since_ms = world.start("ann/web/0").current.running_at_ms
    assert world.must(MarkMachine("m1", up=False)).tasks_affected == 1
    assert world.task("ann/web/0").state is TaskState.PARTITIONED
    assert world.kinds() == ["UPDATE", "PARTITION"]
    world.wait(1_000)
    world.must(MarkMachine("m1", up=True))
    assert world.task("ann/web/0").state is TaskState.PARTITIONED
    task = world.report("ann/web/0", TaskPhase.RUNNING)
    assert (task.state, task.healthy) == (TaskState.RUNNING, True)
    assert task.current.running_at_ms == since_ms
    assert world.kinds() == ["REJOIN", "HEALTHY"]


def test_a_report_shows_that_its_machine_is_up(world):
    world.start("ann/web/0")
    world.must(MarkMachine("m1", up=False))
    assert world.report("ann/web/0", TaskPhase.STARTING).state is TaskState.STARTING
    assert world.cell.machines["m1"].up
    assert world.kinds() == ["UPDATE", "REJOIN"]


def test_the_end_of_a_partitioned_task_counts(world):
    world.start("ann/web/0")
    world.must(MarkMachine("m1", up=False))
    task = world.end("ann/web/0", 1)
    assert (task.state, task.finished[0].end_reason) == (TaskState.PENDING, EndReason.FAILED)


def test_a_partitioned_task_that_is_given_up_is_lost_and_submitted_again(world):
    world.start("ann/web/0")
    world.must(MarkMachine("m1", up=False))
    assert world.must(LoseTasks(((WEB0, 1),))).tasks_affected == 1
    assert world.kinds() == ["LOST", "SUBMIT"]
    task = world.task("ann/web/0")
    assert (task.state, task.current.number, task.not_before_ms) == (TaskState.PENDING, 2, 0)
    assert task.finished[0].detail == "m1 does not answer"


def test_a_task_that_answers_is_not_given_up(world):
    world.start("ann/web/0")
    assert not world.must(LoseTasks(((WEB0, 1),))).changed


def test_a_partitioned_task_can_be_told_to_stop(world):
    world.start("ann/web/0")
    world.must(MarkMachine("m1", up=False))
    world.must(KillJob(JobKey("ann", "web")))
    task = world.task("ann/web/0")
    assert (task.state, task.stopping.reason) == (TaskState.PARTITIONED, EndReason.KILLED)
    assert world.report("ann/web/0", TaskPhase.RUNNING).state is TaskState.STOPPING
    assert world.kinds("ann/web/0") == ["REJOIN", "STOP"]


def test_a_stopping_task_that_is_given_up_ends_as_it_was_stopped(world):
    world.start("ann/web/0")
    world.must(KillJob(JobKey("ann", "web")))
    world.must(MarkMachine("m1", up=False))
    assert world.task("ann/web/0").stopping is not None
    world.must(LoseTasks(((WEB0, 1),)))
    task = world.task("ann/web/0")
    assert (task.state, task.current.end_reason) == (TaskState.DEAD, EndReason.KILLED)


def test_a_removed_machine_takes_its_tasks_along(world):
    world.start("ann/web/0")
    assert world.must(RemoveMachine("m1", force=True)).tasks_affected == 1
    assert world.kinds() == ["LOST", "SUBMIT", "REMOVE"]
    assert world.task("ann/web/0").finished[0].detail == "m1 was removed"
    assert not world.cell.machines
