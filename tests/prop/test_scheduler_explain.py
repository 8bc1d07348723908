"""Property tests of explanations, scores and the cell's bookkeeping against ``scheduler.reference``."""

import numpy as np
from borgcell.types import TaskKey
from hypothesis import assume, event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduler import reference
from scheduler.candidates import Candidates
from scheduler.cell import SchedulerCell
from scheduler.explain import explain
from scheduler.model import Delta, merge, split
from scheduler.scoring import POLICIES, score_at, score_column
from scheduler.scratch import Scratch
from tests.helpers.scheduler_worlds import (
    a_cell,
    a_world,
    machine_rows,
    placed_rows,
    shapes,
    worlds,
)

UNITS = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}


def parse_amount(text: str) -> dict[str, int]:
    """``2.5 cpu``, ``1.5 GiB ram``, ``2 ports`` as a field of Resources."""
    match text.split():
        case [amount, "cpu"]:
            return {"cpu_milli": round(float(amount) * 1000)}
        case [amount, unit, name]:
            return {f"{name}_bytes": round(float(amount) * UNITS[unit])}
        case [amount, _]:
            return {"ports": int(amount)}
    raise AssertionError(text)


@given(worlds())
def test_explanations_count_machines_as_the_reference_does(given_world):
    machines, placed, pending = given_world
    cell, world = a_cell(machines, placed), a_world(machines, placed)
    for row in pending:
        explanation = explain(cell, row, 0)
        job, shape = row.key.job_key, row.shape
        fitting = reference.feasible(world, job, shape, evicting=False)
        possible = fitting or reference.feasible(world, job, shape, evicting=True)
        assert explanation.feasible_count == len(possible)
        assert {one.machine for one in explanation.feasible} <= set(possible)
        assert len(explanation.feasible) == min(5, len(possible))
        assert all(bool(one.victims) == (not fitting) for one in explanation.feasible)
        assert (explanation.misfit is None) == bool(possible)
        if explanation.misfit is not None:
            counts = {(one.reason, one.detail): one.machines for one in explanation.misfit.counts}
            assert counts == reference.counts(world, job, shape)
            event(f"reasons: {sorted({reason for reason, _ in counts})}")


@given(worlds())
def test_asking_for_as_little_as_the_hint_says_makes_the_task_fit(given_world):
    machines, placed, pending = given_world
    cell, world = a_cell(machines, placed), a_world(machines, placed)
    for row in pending:
        misfit = explain(cell, row, 0).misfit
        for hint in misfit.hints if misfit else ():
            if not hint.startswith("ask for at most "):
                continue
            event("hint to ask for less")
            text = hint.removeprefix("ask for at most ").removesuffix(" per task")
            fields: dict[str, int] = {}
            for part in text.split(" and "):
                fields |= parse_amount(part)
            modest = replace(row.shape, limit=replace(row.shape.limit, **fields))
            assert reference.feasible(world, row.key.job_key, modest, evicting=True), hint


@given(worlds())
def test_the_nearest_miss_is_a_machine_of_the_cell(given_world):
    machines, placed, pending = given_world
    cell = a_cell(machines, placed)
    for row in pending:
        misfit = explain(cell, row, 0).misfit
        if misfit is not None:
            assert misfit.nearest_machine in {one.name for one in machines} or not machines
            assert bool(misfit.nearest_detail) == bool(machines)
            assert len(misfit.hints) <= 6


@given(worlds(), st.sampled_from(sorted(POLICIES)))
def test_scores_are_the_same_as_a_column_for_one_machine_and_by_the_reference(given_world, policy):
    machines, placed, pending = given_world
    assume(machines)
    cell, world = a_cell(machines, placed), a_world(machines, placed)
    weights = POLICIES[policy]
    for row in pending[:3]:
        job, shape = row.key.job_key, row.shape
        scratch = Scratch(cell, np.random.default_rng(1))
        candidates = Candidates(scratch, job, shape, 1, weights)
        column = score_column(scratch, candidates.ask, candidates.spread, weights)
        for name, slot in cell.slots.items():
            one = score_at(scratch, candidates.ask, candidates.spread, weights, slot)
            assert abs(column[slot] - one.total) < 1e-4
            assert (
                abs(one.total - one.dice - reference.score(world, job, shape, name, weights)) < 1e-4
            )


@st.composite
def histories(draw):
    """Deltas over a few machines and tasks, with upserts, moves, removals and endings."""
    names = tuple(f"m{number}" for number in range(4))
    keys = [TaskKey("ann", job, index) for job in ("a", "b") for index in range(3)]
    deltas = []
    for index in range(1, draw(st.integers(2, 7))):
        rows = [draw(machine_rows(name)) for name in draw(st.sets(st.sampled_from(names)))]
        changed = sorted(draw(st.sets(st.sampled_from(keys))))
        placed, pending, removed = [], [], []
        for key in changed:
            kind = draw(st.sampled_from(("placed", "pending", "removed")))
            if kind == "placed":
                placed.append(draw(placed_rows(key, names)))
            elif kind == "pending":
                pending.append(reference_pending(key, draw(shapes())))
            else:
                removed.append(key)
        idle = sorted(set(names) - {row.name for row in rows})
        gone = [name for name in idle if draw(st.booleans()) and draw(st.booleans())]
        jobs = [key.job_key for key in keys if draw(st.integers(0, 11)) == 0]
        ended = draw(st.booleans())
        deltas.append(
            Delta(
                index,
                tuple(rows),
                tuple(placed),
                tuple(pending),
                tuple(gone),
                tuple(removed),
                () if ended else tuple(dict.fromkeys(jobs)),
                tuple(dict.fromkeys(jobs)) if ended else (),
            )
        )
    return deltas


def reference_pending(key, shape):
    from scheduler.model import PendingRow

    return PendingRow(key, 1, shape)


def picture(cell: SchedulerCell):
    """Everything a cell says, by names instead of slots."""
    racks = {}
    for name, slot in cell.slots.items():
        racks.setdefault(int(cell.rack[slot]), set()).add(name)
    jobs = {key.job_key for key in (*cell.placed, *cell.pending)}
    names = [row.name for row in cell.rows]
    return {
        "columns": {
            name: (
                cell.capacity[:, slot].tolist(),
                cell.used[:, :, slot].tolist(),
                cell.inverse[:, slot].tolist(),
                bool(cell.takes[slot]),
                sorted(row.key for row in cell.tasks_on(slot)),
            )
            for name, slot in sorted(cell.slots.items())
        },
        "known": sorted(names[slot] for slot in np.flatnonzero(cell.known[: cell.size])),
        "racks": sorted(sorted(one) for one in racks.values()),
        "spread": {
            job: {names[slot]: count for slot, count in sorted(cell.job_slots(job).items())}
            for job in sorted(jobs)
        },
        "placed": dict(sorted(cell.placed.items())),
        "pending": dict(sorted(cell.pending.items())),
        "classes": {key: sorted(rows) for key, rows in cell.classes.items()},
    }


@given(histories())
def test_a_cell_fed_by_deltas_equals_one_made_from_what_is_left(deltas):
    fed = SchedulerCell()
    for delta in deltas:
        fed.apply(delta)
    machines = [fed.rows[slot] for slot in fed.slots.values()]
    fresh = a_cell(machines, fed.placed.values(), fed.pending.values(), index=fed.index)
    assert picture(fed) == picture(fresh)
    assert picture(fed.clone()) == picture(fed)


@given(histories(), st.integers(1, 3))
def test_merged_and_split_deltas_do_what_they_did_one_by_one(deltas, rows_max):
    fed, merged, parts = SchedulerCell(), SchedulerCell(), SchedulerCell()
    for delta in deltas:
        fed.apply(delta)
    together = merge(deltas)
    merged.apply(together)
    for part in split(together, rows_max):
        assert part.row_count() <= rows_max or not (part.machines or part.placed or part.pending)
        parts.apply(part)
    assert picture(merged) == picture(fed)
    assert picture(parts) == picture(fed)


@given(histories(), shapes(), histories())
def test_constraint_masks_follow_the_attributes(before, shape, after):
    """Masks are asked for in between, so that stale ones would show."""
    cell = SchedulerCell()
    for delta in before:
        cell.apply(delta)
    for _ in range(2):
        for constraint in shape.constraints:
            mask = cell.mask(constraint)
            for name, slot in cell.slots.items():
                row = cell.rows[slot]
                assert mask[slot] == constraint.holds(row.attributes), f"{constraint} on {name}"
        for delta in after:
            cell.apply(replace(delta, index=100))
