"""Property tests of ``scheduler.engine.plan_pass`` against ``scheduler.reference``.

Every plan is replayed, step by step, by the reference: whatever the columns, heaps and caches do, each step
must be one that the obvious form allows, and what is left must be what the obvious form leaves.
"""

import itertools

import numpy as np
from borgcell.priority import band_of
from borgcell.resources import fits
from borgcell.types import TaskKey
from hypothesis import event, given
from hypothesis import strategies as st

from scheduler import reference
from scheduler.engine import plan_pass
from scheduler.scoring import POLICIES
from tests.helpers.scheduler_worlds import a_cell, a_world, any_worlds

NOW_MS = 1_000
seeds = st.integers(0, 1_000)
policies = st.sampled_from(sorted(POLICIES))


def replay(machines, placed, pending, plan):
    """Every step of a plan with the world before it."""
    world = a_world(machines, placed)
    rows = {row.key: row for row in pending}
    for placement in plan.placements:
        yield world, rows[placement.key], placement
        world.place(rows[placement.key], placement.machine, [one.key for one in placement.victims])


@given(any_worlds, seeds, policies)
def test_every_placement_is_feasible_once_its_victims_are_gone(given_world, seed, policy):
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS, policy=policy)
    event(f"placements: {min(len(plan.placements), 5)}")
    for world, row, placement in replay(*given_world, plan):
        evicting = bool(placement.victims)
        job, shape = row.key.job_key, row.shape
        failure = reference.first_failure(world, job, shape, placement.machine, evicting=evicting)
        assert failure is None
        victims = [world.placed[one.key] for one in placement.victims]
        assert fits(shape.limit, reference.free_on(world, placement.machine, victims))


@given(any_worlds, seeds)
def test_victims_are_on_the_machine_in_a_lower_band_and_not_leaving_already(given_world, seed):
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS)
    evicted = [one.key for placement in plan.placements for one in placement.victims]
    assert len(evicted) == len(set(evicted))
    for world, row, placement in replay(*given_world, plan):
        for one in placement.victims:
            victim = world.placed[one.key]
            assert victim.machine == placement.machine
            assert victim.priority < row.shape.priority
            assert band_of(victim.priority) != band_of(row.shape.priority)
            assert not victim.stopping
            assert (one.incarnation, one.priority) == (victim.incarnation, victim.priority)


@given(any_worlds, seeds)
def test_nobody_is_evicted_in_vain(given_world, seed):
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS)
    event(f"most victims: {max((len(one.victims) for one in plan.placements), default=0)}")
    for world, row, placement in replay(*given_world, plan):
        if not placement.victims:
            continue
        assert not reference.feasible(world, row.key.job_key, row.shape, evicting=False)
        victims = [world.placed[one.key] for one in placement.victims]
        for spared in victims:
            rest = [one for one in victims if one is not spared]
            free = reference.free_on(world, placement.machine, rest)
            assert not fits(row.shape.limit, free), f"{spared.key} could have stayed"


@given(any_worlds, seeds)
def test_higher_tasks_are_evicted_only_when_all_lower_ones_are_not_enough(given_world, seed):
    """Of one machine; a lower task may stay when it would give nothing that lacks, or what it gives is not needed."""
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS)
    for world, row, placement in replay(*given_world, plan):
        if not placement.victims:
            continue
        highest = max(one.priority for one in placement.victims)
        options = reference.evictable(world, row.shape.priority, placement.machine)
        lower = [one for one in options if one.priority < highest]
        assert not fits(row.shape.limit, reference.free_on(world, placement.machine, lower))


@given(any_worlds, seeds)
def test_no_machine_would_have_needed_far_fewer_victims(given_world, seed):
    """The machine is chosen by exact victims where there are few machines; monitoring spares production first."""
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS)
    for world, row, placement in replay(*given_world, plan):
        if not placement.victims or row.shape.priority >= 360:
            continue
        options = reference.feasible(world, row.key.job_key, row.shape, evicting=True)
        fewest = min(len(reference.victims(world, row.shape, name)) for name in options)
        assert len(placement.victims) <= fewest


@given(any_worlds, seeds)
def test_every_task_is_placed_or_explained_or_waits(given_world, seed):
    pending = given_world[2]
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS)
    ready = {row.key for row in pending if row.not_before_ms <= NOW_MS}
    done = [one.key for one in plan.placements]
    left = [
        TaskKey(group.job.user, group.job.name, index)
        for group in plan.unplaced
        for index in group.indexes
    ]
    assert sorted(done + left) == sorted(ready)
    assert plan.unplaced_count == len(left)
    assert plan.waiting == len(pending) - len(ready)
    assert plan.wake_at_ms == (5_000 if plan.waiting else 0)
    assert all(group.misfit.summary for group in plan.unplaced)


@given(any_worlds, seeds)
def test_a_task_left_unplaced_fits_nowhere(given_world, seed):
    machines, placed, pending = given_world
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS)
    event(f"unplaced: {bool(plan.unplaced)}")
    world = a_world(machines, placed)
    rows = {row.key: row for row in pending}
    for one in plan.placements:
        world.place(rows[one.key], one.machine, [victim.key for victim in one.victims])
    for group in plan.unplaced:
        for index in group.indexes:
            row = rows[TaskKey(group.job.user, group.job.name, index)]
            assert not reference.feasible(world, group.job, row.shape, evicting=True)
            assert group.misfit.machine_count == len(machines)
            assert sum(count.machines for count in group.misfit.counts) == len(machines)


@given(any_worlds, seeds)
def test_higher_priorities_go_first(given_world, seed):
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS)
    rows = {row.key: row for row in given_world[2]}
    priorities = [rows[one.key].shape.priority for one in plan.placements]
    assert priorities == sorted(priorities, reverse=True)


@given(any_worlds, seeds)
def test_the_same_seed_gives_the_same_plan_and_the_cell_stays_as_it_is(given_world, seed):
    cell, twin = a_cell(*given_world), a_cell(*given_world)
    first = plan_pass(cell, seed=seed, now_ms=NOW_MS)
    again = plan_pass(cell, seed=seed, now_ms=NOW_MS)
    assert first == again == plan_pass(cell.clone(), seed=seed, now_ms=NOW_MS)
    for column in ("capacity", "used", "inverse", "takes", "known", "rack"):
        assert np.array_equal(getattr(cell, column), getattr(twin, column)), column
    for values in ("slots", "rows", "placed", "pending", "classes", "index"):
        assert getattr(cell, values) == getattr(twin, values), values


@given(any_worlds, seeds, st.integers(0, 5))
def test_a_bounded_pass_places_no_more_and_says_what_is_left(given_world, seed, most):
    cell = a_cell(*given_world)
    plan = plan_pass(cell, seed=seed, now_ms=NOW_MS, tasks_max=most)
    whole = plan_pass(cell, seed=seed, now_ms=NOW_MS)
    assert plan.placements == whole.placements[:most]
    ready = [row for row in given_world[2] if row.not_before_ms <= NOW_MS]
    assert len(plan.placements) + plan.unplaced_count + plan.left == len(ready)


@given(any_worlds, seeds)
def test_the_total_of_a_score_is_that_of_the_reference_at_its_step(given_world, seed):
    plan = plan_pass(a_cell(*given_world), seed=seed, now_ms=NOW_MS)
    weights = POLICIES["hybrid"]
    for world, row, placement in itertools.islice(replay(*given_world, plan), 20):
        if placement.victims:
            continue
        expected = reference.score(world, row.key.job_key, row.shape, placement.machine, weights)
        assert abs(placement.score.total - placement.score.dice - expected) < 1e-4
