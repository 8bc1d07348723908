"""Unit tests of ``scheduler.engine``: order, choice of machine, preemption."""

from collections import Counter

import pytest
from borgcell.specs import Constraint, Op
from borgcell.types import TaskKey

from scheduler.engine import plan_pass
from scheduler.scoring import POLICIES
from tests.helpers.scheduler_worlds import a_cell, a_job, a_machine, a_pending, a_placed, room


def plan(machines, placed=(), pending=(), *, seed=1, now_ms=0, **options):
    return plan_pass(a_cell(machines, placed, pending), seed=seed, now_ms=now_ms, **options)


def machines_of(found):
    return {str(one.key): one.machine for one in found.placements}


def victims_of(found):
    return [str(one.key) for placement in found.placements for one in placement.victims]


def test_an_empty_cell_places_nothing_and_says_so():
    found = plan([], pending=[a_pending()])
    assert found.placements == ()
    assert found.unplaced[0].misfit.summary == "the cell has no machines"


def test_a_cell_without_pending_tasks_has_an_empty_plan():
    found = plan([a_machine()])
    assert (found.placements, found.unplaced, found.left, found.waiting) == ((), (), 0, 0)


@pytest.mark.parametrize("seed", range(4))  # whoever has the first turn
def test_users_of_one_priority_take_turns_whatever_the_size_of_their_jobs(seed):
    pending = [*a_job("ann/big", 20, submitted_at_ms=1), *a_job("bob/small", 5, submitted_at_ms=2)]
    found = plan([a_machine(capacity=room(6, 16))], pending=pending, seed=seed)
    assert Counter(one.key.user for one in found.placements) == {"ann": 3, "bob": 3}


def test_which_user_has_the_first_turn_depends_on_the_seed():
    pending = [*a_job("ann/a", 2), *a_job("bob/b", 2)]
    firsts = {
        plan([a_machine()], pending=pending, seed=seed).placements[0].key.user for seed in range(20)
    }
    assert firsts == {"ann", "bob"}


def test_among_the_jobs_of_one_user_the_one_that_waits_longest_goes_first():
    pending = [a_pending("ann/a/0", submitted_at_ms=9), a_pending("ann/z/0", submitted_at_ms=3)]
    found = plan([a_machine(capacity=room(1, 1))], pending=pending)
    assert machines_of(found) == {"ann/z/0": "m1"}


def test_a_higher_priority_goes_first_even_if_it_came_last():
    pending = [
        a_pending("ann/a/0", priority=100),
        a_pending("bob/b/0", priority=101, submitted_at_ms=9),
    ]
    found = plan([a_machine(capacity=room(1, 1))], pending=pending)
    assert machines_of(found) == {"bob/b/0": "m1"}


def test_tasks_that_fit_nowhere_do_not_keep_others_from_their_turn():
    huge = a_job("ann/huge", 50, limit=room(99, 1))
    found = plan([a_machine()], pending=[*huge, a_pending("ann/web/0")], tasks_max=1)
    assert machines_of(found) == {"ann/web/0": "m1"}
    assert found.unplaced_count == 50


def test_a_task_in_back_off_waits_and_the_plan_says_until_when():
    pending = [a_pending("ann/a/0", not_before_ms=500), a_pending("ann/a/1", not_before_ms=900)]
    found = plan([a_machine()], pending=pending, now_ms=400)
    assert (found.placements, found.waiting, found.wake_at_ms) == ((), 2, 500)
    later = plan([a_machine()], pending=pending, now_ms=500)
    assert machines_of(later) == {"ann/a/0": "m1"}
    assert (later.waiting, later.wake_at_ms) == (1, 900)


def test_tasks_of_a_job_spread_over_machines_and_racks():
    machines = [
        a_machine(f"m{number}", attributes={"rack": f"r{number % 2}"}) for number in range(4)
    ]
    found = plan(machines, pending=a_job("ann/web", 4))
    assert sorted(machines_of(found).values()) == ["m0", "m1", "m2", "m3"]
    first_two = {int(one.machine[1:]) % 2 for one in found.placements[:2]}
    assert first_two == {0, 1}, "the second task goes to the other rack"


def test_max_per_machine_and_max_per_rack_hold_while_the_pass_goes_on():
    machines = [
        a_machine("m1", attributes={"rack": "r"}),
        a_machine("m2", attributes={"rack": "r"}),
    ]
    by_machine = plan(machines, pending=a_job("ann/web", 5, max_per_machine=2))
    assert Counter(machines_of(by_machine).values()) == {"m1": 2, "m2": 2}
    by_rack = plan(machines, pending=a_job("ann/web", 5, max_per_rack=3))
    assert len(by_rack.placements) == 3
    assert by_rack.unplaced[0].misfit.counts[0].reason == "max_per_rack"


def test_a_machine_without_a_rack_is_a_rack_of_its_own():
    machines = [a_machine("m1"), a_machine("m2"), a_machine("m3", attributes={"rack": ""})]
    found = plan(machines, pending=a_job("ann/web", 5, max_per_rack=1))
    assert sorted(machines_of(found).values()) == ["m1", "m2", "m3"]


def test_soft_constraints_draw_a_task_but_never_keep_it_pending():
    ssd = Constraint("ssd", Op.PRESENT, soft=True)
    machines = [a_machine("m1"), a_machine("m2", attributes={"ssd": "1"}), a_machine("m3")]
    found = plan(machines, pending=[a_pending(constraints=(ssd,))])
    assert machines_of(found) == {"ann/web/0": "m2"}
    assert found.placements[0].score.soft > 0
    assert plan([a_machine("m1")], pending=[a_pending(constraints=(ssd,))]).placements


def test_a_wish_does_not_outweigh_spreading():
    ssd = Constraint("ssd", Op.PRESENT, soft=True)
    machines = [a_machine("m1"), a_machine("m2", attributes={"ssd": "1"})]
    found = plan(machines, pending=a_job("ann/web", 2, constraints=(ssd,)))
    assert sorted(machines_of(found).values()) == ["m1", "m2"]


@pytest.mark.parametrize(
    ("policy", "machine"), [("best_fit", "full"), ("worst_fit", "empty"), ("hybrid", "full")]
)
def test_best_fit_fills_worst_fit_spreads_and_the_hybrid_mildly_fills(policy, machine):
    machines = [a_machine("full", room(8, 8)), a_machine("empty", room(8, 8))]
    placed = [a_placed("bob/x/0", "full", room(4, 4), 200)]
    found = plan(machines, placed, [a_pending()], policy=policy)
    assert machines_of(found) == {"ann/web/0": machine}


def test_the_hybrid_prefers_the_machine_where_less_is_left_stranded():
    machines = [a_machine("cpu_left", room(8, 8)), a_machine("balanced", room(8, 8))]
    placed = [
        a_placed("bob/x/0", "cpu_left", room(1, 5), 200),
        a_placed("bob/x/1", "balanced", room(3, 3), 200),
    ]
    found = plan(machines, placed, [a_pending(limit=room(4, 1))])
    assert machines_of(found) == {"ann/web/0": "cpu_left"}


def test_prod_goes_where_non_prod_prevails():
    machines = [a_machine("prod", room(8, 8)), a_machine("mixed", room(8, 8))]
    placed = [
        a_placed("bob/x/0", "prod", room(4, 4), 200),
        a_placed("bob/y/0", "mixed", room(4, 4), 100),
    ]
    found = plan(machines, placed, [a_pending(priority=200)])
    assert machines_of(found) == {"ann/web/0": "mixed"}


def test_a_large_class_takes_the_best_machines_though_few_are_kept_in_its_heap():
    """Two hundred machines in two racks: what is left out of the heap must come up again."""
    machines = [
        a_machine(f"m{number}", room(8, 16), attributes={"rack": f"r{number // 100}"})
        for number in range(200)
    ]
    placed = [a_placed(f"bob/x/{number}", f"m{number}", room(4, 8), 200) for number in range(100)]
    found = plan(machines, placed, a_job("ann/web", 10))
    racks = Counter(int(one.machine[1:]) // 100 for one in found.placements)
    assert racks == {0: 5, 1: 5}


def test_prod_evicts_batch_when_there_is_no_room_otherwise():
    found = plan([a_machine(capacity=room(2, 2))], [a_placed(held=room(2, 2))], [a_pending()])
    assert machines_of(found) == {"ann/web/0": "m1"}
    assert victims_of(found) == ["bob/batch/0"]


@pytest.mark.parametrize(("above", "below"), [(210, 200), (119, 100), (400, 360), (99, 0)])
def test_nobody_is_evicted_inside_a_band(above, below):
    placed = [a_placed(held=room(2, 2), priority=below)]
    found = plan([a_machine(capacity=room(2, 2))], placed, [a_pending(priority=above)])
    assert found.placements == ()


def test_a_task_that_is_stopping_is_no_victim_and_its_room_is_not_free_yet():
    placed = [a_placed(held=room(2, 2), stopping=True)]
    found = plan([a_machine(capacity=room(2, 2))], placed, [a_pending()])
    assert found.placements == ()


def test_the_machine_with_the_fewest_victims_is_chosen():
    machines = [a_machine("m1", room(2, 2)), a_machine("m2", room(2, 2))]
    placed = [
        a_placed("bob/x/0", "m1", priority=0),
        a_placed("bob/x/1", "m1", priority=0),
        a_placed("bob/x/2", "m2", room(2, 2), priority=100),
    ]
    found = plan(machines, placed, [a_pending(limit=room(2, 2))])
    assert victims_of(found) == ["bob/x/2"]


def test_of_equally_many_victims_the_lowest_leaves():
    machines = [a_machine("m1", room(1, 1)), a_machine("m2", room(1, 1))]
    placed = [a_placed("bob/x/0", "m1", priority=100), a_placed("bob/x/1", "m2", priority=0)]
    assert victims_of(plan(machines, placed, [a_pending()])) == ["bob/x/1"]


def test_monitoring_takes_productions_room_only_when_that_of_batch_is_not_enough():
    machines = [a_machine("m1", room(2, 2)), a_machine("m2", room(2, 2))]
    placed = [
        a_placed("bob/x/0", "m1", room(2, 2), priority=200),
        a_placed("bob/x/1", "m2", priority=100),
        a_placed("bob/x/2", "m2", priority=100),
    ]
    watcher = [a_pending("eve/watch/0", room(2, 2), 400)]
    assert victims_of(plan(machines, placed, watcher)) == ["bob/x/1", "bob/x/2"]
    assert victims_of(plan(machines[:1], placed, watcher)) == ["bob/x/0"]


def test_room_that_an_eviction_leaves_over_is_used_before_anybody_else_is_evicted():
    machines = [a_machine("m1", room(4, 4)), a_machine("m2", room(1, 1))]
    placed = [a_placed("bob/x/0", "m1", room(4, 4)), a_placed("bob/x/1", "m2", room(1, 1))]
    pending = [a_pending("ann/a/0", room(2, 2), submitted_at_ms=1), *a_job("eve/b", 2)]
    found = plan(machines, placed, pending, seed=0)
    assert len(found.placements) == 3
    assert len(victims_of(found)) <= 2
    whole = plan(machines[:1], placed[:1], pending)
    assert victims_of(whole) == ["bob/x/0"]
    assert len(whole.placements) == 3


def test_ports_are_a_resource():
    machine = a_machine(capacity=room(8, 16, 0, 3))
    found = plan([machine], pending=a_job("ann/web", 3, limit=room(1, 1, 0, 2)))
    assert len(found.placements) == 1
    assert found.unplaced[0].misfit.summary == "does not fit on 1 of 1 machines: 1 ports"


def test_an_over_committed_dimension_rules_nobody_out_who_does_not_ask_for_it():
    placed = [a_placed(held=room(1, 1, 500), priority=200)]
    found = plan([a_machine()], placed, [a_pending()])
    assert machines_of(found) == {"ann/web/0": "m1"}


def test_quantities_are_compared_exactly():
    exact = a_machine(capacity=room(1, 1))
    almost = a_pending(limit=room(1, 1).__class__(1000, (1 << 30) + 1))
    assert plan([exact], pending=[a_pending()]).placements
    assert not plan([exact], pending=[almost]).placements


def test_every_placement_keeps_the_parts_of_its_score_and_its_incarnation():
    placement = plan([a_machine()], pending=[a_pending()]).placements[0]
    assert (placement.key, placement.incarnation) == (TaskKey("ann", "web", 0), 1)
    assert placement.score.fit > 0
    assert 0 <= placement.score.dice <= POLICIES["hybrid"].dice


def test_more_reasons_than_a_pass_explains_are_given_in_short():
    pending = [a_pending(f"ann/job{number}/0", room(99, 1)) for number in range(300)]
    found = plan([a_machine()], pending=pending)
    assert found.unplaced_count == 300
    assert sum(bool(group.misfit.counts) for group in found.unplaced) == 256
    assert all(
        group.misfit.summary.startswith("does not fit on 1 of 1") for group in found.unplaced
    )
