"""borglet.plan: what is and what should be -> what to do next."""

import pytest
from borgcell.resources import GIB, MIB, Resources
from borgcell.types import EndKind, RuntimeKind

from borglet.actions import Conclude, Drop, Forget, Kill, Release, Start, Terminate, Wait
from borglet.plan import GRACE_MS_DEFAULT, Retention, make_plan
from tests.helpers.borglet_values import (
    NOW_MS,
    WALL_MS,
    a_desired,
    a_record,
    a_stop,
    a_view,
    alive,
    an_end,
    an_id,
    ended,
)


def actions(view):
    return list(make_plan(view).actions)


def only(view):
    """The one action of the plan."""
    (action,) = actions(view)
    return action


def kinds(view):
    return [type(action) for action in actions(view)]


# --- nothing to do


def test_a_running_task_that_is_wanted_is_left_alone():
    desired = a_desired()
    view = a_view(wanted=[desired], records=[a_record(desired=desired)], containers=[alive()])
    assert actions(view) == []
    assert make_plan(view).wake_at_ms is None


def test_before_a_master_said_anything_nothing_is_stopped_or_started():
    unknown, known = an_id(1), a_desired(an_id(2))
    records = [a_record(unknown), a_record(known.id, known)]
    view = a_view(wanted=None, records=records, containers=[alive(unknown), alive(known.id)])
    assert actions(view) == []


def test_what_is_busy_is_left_alone():
    desired = a_desired()
    view = a_view(
        wanted=[],
        records=[a_record(desired=desired)],
        containers=[alive()],
        busy=frozenset({an_id()}),
    )
    assert actions(view) == []


# --- stops


def test_a_container_that_is_not_wanted_gets_its_own_grace():
    desired = a_desired(grace_ms=3_000)
    view = a_view(records=[a_record(desired=desired)], containers=[alive()])
    assert only(view) == Terminate(an_id(), EndKind.STOPPED, "stopped by the master", 3_000)


def test_a_container_that_nobody_knows_gets_the_default_grace():
    assert only(a_view(containers=[alive()])).grace_ms == GRACE_MS_DEFAULT


def test_a_task_to_be_stopped_is_terminated():
    desired = a_desired(stop=True)
    view = a_view(wanted=[desired], records=[a_record(desired=desired)], containers=[alive()])
    assert isinstance(only(view), Terminate)


def test_during_the_grace_nothing_happens_and_the_plan_wakes_at_its_end():
    record = a_record(stop=a_stop(kill_at_ms=NOW_MS + 700))
    plan = make_plan(a_view(records=[record], containers=[alive()]))
    assert plan.actions == ()
    assert plan.wake_at_ms == NOW_MS + 700


def test_after_the_grace_it_is_killed():
    record = a_record(stop=a_stop(kill_at_ms=NOW_MS))
    assert only(a_view(records=[record], containers=[alive()])) == Kill(an_id())


def test_a_stop_that_an_earlier_agent_began_is_signalled_again_and_goes_on_without_a_master():
    stop = a_stop(EndKind.UNHEALTHY, signalled=False)
    view = a_view(wanted=None, records=[a_record(stop=stop)], containers=[alive()])
    assert only(view) == Terminate(an_id(), EndKind.UNHEALTHY, stop.detail, stop.grace_ms)


def test_an_unhealthy_task_is_stopped_as_unhealthy_even_without_a_master():
    desired = a_desired()
    view = a_view(
        wanted=None,
        records=[a_record(desired=desired)],
        containers=[alive()],
        unhealthy={an_id(): "health check failed 3 times"},
    )
    assert only(view) == Terminate(
        an_id(), EndKind.UNHEALTHY, "health check failed 3 times", desired.spec.grace_ms
    )


def test_of_two_wanted_incarnations_only_the_latest_runs():
    old, new = a_desired(an_id(0, 1)), a_desired(an_id(0, 2))
    view = a_view(wanted=[old, new], records=[a_record(old.id, old)], containers=[alive(old.id)])
    stop, wait = actions(view)
    assert isinstance(stop, Terminate)
    assert stop.id == old.id
    assert isinstance(wait, Wait)
    assert wait.id == new.id


def test_a_container_that_returns_after_it_was_given_up_is_stopped():
    desired = a_desired()
    record = a_record(ended=an_end(EndKind.LOST))
    view = a_view(wanted=[desired], records=[record], containers=[alive()])
    assert isinstance(only(view), Terminate)


# --- starts


def test_what_is_wanted_and_not_there_is_started():
    desired = a_desired()
    assert only(a_view(wanted=[desired])) == Start(desired)


def test_stops_come_before_starts():
    view = a_view(wanted=[a_desired(an_id(1))], containers=[alive(an_id(2))])
    assert kinds(view) == [Terminate, Start]


def test_an_ended_incarnation_is_never_started_again():
    desired = a_desired()
    for record in (
        a_record(ended=an_end()),
        a_record(ended=an_end(acknowledged=True)),
        a_record(ended=an_end(EndKind.REFUSED)),
    ):
        assert Start not in kinds(a_view(wanted=[desired], records=[record]))


def test_a_start_waits_for_the_earlier_incarnation_to_end():
    old, new = an_id(0, 1), a_desired(an_id(0, 2))
    record = a_record(old, a_desired(old), stop=a_stop())
    view = a_view(wanted=[new], records=[record], containers=[alive(old)])
    assert only(view) == Wait(new.id, "waits for ann/web/0#1 to end")


def test_a_start_waits_for_an_earlier_incarnation_that_is_still_being_made():
    old, new = a_desired(an_id(0, 1)), a_desired(an_id(0, 2))
    view = a_view(wanted=[new], records=[a_record(old.id, old)], busy=frozenset({old.id}))
    assert isinstance(only(view), Wait)


def test_a_start_waits_for_room_that_a_leaving_task_holds():
    new = a_desired(an_id(1), cpu_milli=3_000)
    leaving = alive(an_id(2), limit=Resources(2_000, MIB))
    record = a_record(leaving.id, stop=a_stop())
    view = a_view(wanted=[new], records=[record], containers=[leaving])
    assert only(view) == Wait(new.id, "waits for the room of ann/web/2#0, leaving")


def test_what_takes_the_place_of_a_task_in_the_same_assignment_waits_and_is_not_refused():
    new = a_desired(an_id(1), cpu_milli=3_000, ports={"http": 20_001})
    old = alive(an_id(2), limit=Resources(3_000, MIB, 0, 1), ports={"http": 20_001})
    stop, wait = actions(a_view(wanted=[new], records=[a_record(old.id)], containers=[old]))
    assert isinstance(stop, Terminate)
    assert isinstance(wait, Wait)


def test_a_smaller_task_need_not_wait_behind_one_that_waits_for_room():
    big = a_desired(an_id(1), cpu_milli=3_000, priority=300)
    small = a_desired(an_id(3), cpu_milli=1_000, priority=100)
    leaving = alive(an_id(2), limit=Resources(2_000, MIB))
    view = a_view(
        wanted=[small, big], records=[a_record(leaving.id, stop=a_stop())], containers=[leaving]
    )
    assert [type(action) for action in actions(view)] == [Wait, Start]


def test_a_start_waits_for_a_port_that_a_leaving_task_holds():
    new = a_desired(an_id(1), ports={"http": 20_001})
    leaving = alive(an_id(2), ports={"web": 20_001})
    view = a_view(wanted=[new], records=[a_record(leaving.id, stop=a_stop())], containers=[leaving])
    assert only(view).reason == "waits for port 20001, held by ann/web/2#0 that is leaving"


def test_room_of_a_container_being_made_is_not_free():
    making = a_desired(an_id(1), cpu_milli=3_000)
    new = a_desired(an_id(2), cpu_milli=2_000)
    view = a_view(
        wanted=[making, new],
        records=[a_record(making.id, making)],
        busy=frozenset({making.id}),
    )
    assert only(view).ended.kind is EndKind.REFUSED


def test_two_starts_of_one_plan_do_not_share_room_or_ports():
    first = a_desired(an_id(1), cpu_milli=3_000, ports={"http": 20_001})
    second = a_desired(an_id(2), cpu_milli=100, ports={"http": 20_001})
    third = a_desired(an_id(3), cpu_milli=3_000)
    start, *refused = actions(a_view(wanted=[first, second, third]))
    assert start == Start(first)
    assert [one.ended.detail for one in refused] == [
        "port 20001 is taken by ann/web/1#0",
        "no room: wants 3 cpu, 64 MiB ram; free are 1 cpu, 3.94 GiB ram, 10 GiB disk, 99 ports (too little cpu)",
    ]


def test_the_more_important_task_gets_the_last_room():
    cheap = a_desired(an_id(1), cpu_milli=3_000, priority=0)
    dear = a_desired(an_id(2), cpu_milli=3_000, priority=200)
    start, refusal = actions(a_view(wanted=[cheap, dear]))
    assert start == Start(dear)
    assert (refusal.id, refusal.ended.kind) == (cheap.id, EndKind.REFUSED)


def test_what_can_never_fit_is_refused_with_what_lacks():
    desired = a_desired(ram_bytes=8 * GIB)
    refusal = only(a_view(wanted=[desired]))
    assert refusal.ended.kind is EndKind.REFUSED
    assert refusal.ended.detail.startswith("wants 0.5 cpu, 8 GiB ram; the machine has only 4 cpu")
    assert refusal.ended.detail.endswith("(too little ram)")


def test_a_runtime_that_the_machine_has_not_is_refused():
    refusal = only(a_view(wanted=[a_desired(image="busybox")]))
    assert refusal.ended.detail == "this machine has no docker runtime"


def test_a_spec_that_is_not_understood_is_refused_with_its_problem():
    refusal = only(a_view(wanted=[a_desired(problem="unknown runtime 9")]))
    assert refusal.ended == type(refusal.ended)(EndKind.REFUSED, -1, "unknown runtime 9", WALL_MS)


def test_on_hold_everything_waits_and_stops_go_on():
    view = a_view(wanted=[a_desired(an_id(1))], containers=[alive(an_id(2))], hold="disk full")
    stop, wait = actions(view)
    assert isinstance(stop, Terminate)
    assert wait == Wait(an_id(1), "disk full")


def test_a_start_that_failed_for_a_passing_reason_is_repeated_when_due():
    desired = a_desired()
    record = a_record(desired=desired, attempts=1, retry_at_ms=NOW_MS + 5, retry_reason="busy")
    early = a_view(wanted=[desired], records=[record])
    assert only(early) == Wait(desired.id, "busy")
    assert make_plan(early).wake_at_ms == NOW_MS + 5
    due = a_view(wanted=[desired], records=[record], now_ms=NOW_MS + 5)
    assert only(due) == Start(desired)


# --- ends


@pytest.mark.parametrize(
    ("container", "record", "kind", "exit_code", "detail"),
    [
        (ended(exit_code=0), a_record(), EndKind.EXITED, 0, "exited with status 0"),
        (ended(exit_code=3), a_record(), EndKind.EXITED, 3, "exited with status 3"),
        (ended(exit_code=139), a_record(), EndKind.EXITED, 139, "killed by signal 11"),
        (
            ended(exit_code=137, out_of_memory=True),
            a_record(),
            EndKind.OUT_OF_MEMORY,
            137,
            "out of memory (limit 64 MiB)",
        ),
        (
            ended(exit_code=-1, lost=True),
            a_record(),
            EndKind.LOST,
            -1,
            "ended while nobody watched it",
        ),
        (
            ended(exit_code=143),
            a_record(stop=a_stop()),
            EndKind.STOPPED,
            143,
            "stopped by the master",
        ),
        (
            ended(exit_code=137),
            a_record(stop=a_stop(EndKind.UNHEALTHY)),
            EndKind.UNHEALTHY,
            137,
            "stopped by the master",
        ),
        (ended(exit_code=7, detail="boom"), a_record(), EndKind.EXITED, 7, "boom"),
    ],
)
def test_an_end_is_concluded_from_what_is_known(container, record, kind, exit_code, detail):
    conclusion = actions(a_view(wanted=None, records=[record], containers=[container]))[0]
    assert isinstance(conclusion, Conclude)
    end = conclusion.ended
    assert (end.kind, end.exit_code, end.detail, end.at_ms) == (kind, exit_code, detail, WALL_MS)


def test_a_container_that_vanished_is_lost_and_not_started_again():
    desired = a_desired()
    conclusion = only(a_view(wanted=[desired], records=[a_record(desired=desired)]))
    assert (conclusion.ended.kind, conclusion.ended.detail) == (
        EndKind.LOST,
        "its container is gone",
    )


def test_a_container_whose_runtime_does_not_answer_is_not_lost():
    desired = a_desired()
    view = a_view(
        wanted=[desired],
        records=[a_record(desired=desired)],
        runtimes=frozenset(),
        blind=frozenset({RuntimeKind.NATIVE}),
    )
    assert actions(view) == []


def test_nothing_is_started_or_refused_on_a_runtime_that_does_not_answer():
    view = a_view(wanted=[a_desired()], runtimes=frozenset(), blind=frozenset({RuntimeKind.NATIVE}))
    assert only(view) == Wait(an_id(), "the native runtime does not answer")


def test_room_of_what_may_live_unseen_is_not_free():
    unseen, new = (
        a_desired(an_id(1), cpu_milli=3_000, image="x"),
        a_desired(an_id(2), cpu_milli=2_000),
    )
    view = a_view(
        wanted=[unseen, new],
        records=[a_record(unseen.id, unseen)],
        blind=frozenset({RuntimeKind.DOCKER}),
    )
    assert only(view).ended.kind is EndKind.REFUSED


def test_a_task_to_be_stopped_that_never_started_ends_as_stopped():
    conclusion = only(a_view(wanted=[a_desired(stop=True)]))
    assert conclusion.ended.kind is EndKind.STOPPED
    assert conclusion.ended.detail == "stopped before it was started"


def test_a_repeated_start_that_is_not_wanted_any_more_ends_as_stopped():
    desired = a_desired(stop=True)
    record = a_record(desired=desired, attempts=1, retry_at_ms=NOW_MS + 5)
    assert only(a_view(wanted=[desired], records=[record])).ended.kind is EndKind.STOPPED


def test_an_end_is_concluded_once():
    record = a_record(ended=an_end(), released=True)
    assert actions(a_view(wanted=[a_desired()], records=[record], containers=[ended()])) == []


# --- what remains


def test_a_concluded_container_is_released_at_once_and_kept():
    record = a_record(ended=an_end())
    assert only(a_view(records=[record], containers=[ended()])) == Release(an_id())


def test_logs_stay_until_the_end_is_acknowledged_however_old_they_are():
    record = a_record(ended=an_end(at_ms=0), released=True)
    assert actions(a_view(records=[record], containers=[ended()])) == []


def test_acknowledged_logs_go_after_their_time():
    keep = Retention(per_task_max=10, age_ms_max=1_000)
    for age_ms, expected in ((1_000, []), (1_001, [Forget(an_id())])):
        record = a_record(ended=an_end(at_ms=WALL_MS - age_ms, acknowledged=True), released=True)
        view = a_view(records=[record], containers=[ended()], retention=keep)
        assert actions(view) == expected


def test_of_one_task_only_the_latest_ends_are_kept():
    ids = [an_id(0, number) for number in range(4)]
    records = [
        a_record(
            id, ended=an_end(at_ms=WALL_MS - 10 + id.incarnation, acknowledged=True), released=True
        )
        for id in ids
    ]
    view = a_view(
        records=records, containers=[ended(id) for id in ids], retention=Retention(per_task_max=2)
    )
    assert sorted(action.id for action in actions(view)) == ids[:2]


def test_on_a_short_disk_the_older_half_goes():
    ids = [an_id(number) for number in range(3)]
    records = [
        a_record(
            id, ended=an_end(at_ms=WALL_MS - 10 + id.task.index, acknowledged=True), released=True
        )
        for id in ids
    ]
    view = a_view(records=records, containers=[ended(id) for id in ids], disk_short=True)
    assert actions(view) == [Forget(ids[0]), Forget(ids[1])]


def test_the_memory_of_an_end_goes_when_it_is_acknowledged_and_nobody_asks_for_it():
    record = a_record(ended=an_end(acknowledged=True))
    assert only(a_view(records=[record])) == Drop(an_id())
    assert actions(a_view(wanted=[a_desired()], records=[record])) == []
    assert actions(a_view(wanted=None, records=[record])) == []
    assert actions(a_view(records=[a_record(ended=an_end())])) == []
