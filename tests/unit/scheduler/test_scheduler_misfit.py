"""Unit tests of ``scheduler.misfit``, ``scheduler.hints`` and ``scheduler.explain``: the words for "no"."""

import pytest
from borgcell.resources import format_quantity
from borgcell.specs import Constraint, Op

from scheduler.explain import explain
from scheduler.hints import floor_quantity
from tests.helpers.scheduler_worlds import a_cell, a_machine, a_pending, a_placed, room

ARM = Constraint("arch", Op.EQUAL, "arm64")
X86 = {"arch": "x86_64"}


def misfit(machines, placed=(), **fields):
    found = explain(a_cell(machines, placed), a_pending(**fields), 0).misfit
    assert found is not None, "it fits"
    return found


def test_the_summary_counts_every_machine_once_most_frequent_reason_first():
    machines = [
        a_machine(f"small{number}", room(2, 8), attributes={"arch": "arm64"}) for number in range(6)
    ]
    machines += [a_machine(f"other{number}", attributes=X86) for number in range(3)]
    found = misfit(machines, limit=room(4, 1), constraints=(ARM,))
    assert found.summary == "does not fit on 9 of 9 machines: 6 cpu, 3 constraint arch == arm64"
    assert sum(count.machines for count in found.counts) == found.machine_count == 9


def test_the_nearest_miss_is_the_machine_that_lacks_least():
    machines = [
        a_machine("m1", room(1, 8)),
        a_machine("m3", room(2.5, 8)),
        a_machine("m2", room(2, 8)),
    ]
    found = misfit(machines, limit=room(4, 1))
    assert found.nearest_machine == "m3"
    assert found.nearest_detail == "wants 4 cpu, could free 2.5 cpu"
    assert "ask for at most 2.5 cpu per task" in found.hints


def test_room_of_lower_bands_counts_as_what_could_be_freed():
    placed = [
        a_placed(held=room(1, 1), priority=200),
        a_placed("bob/y/0", held=room(3, 3), priority=0),
    ]
    found = misfit([a_machine(capacity=room(4, 4))], placed, limit=room(4, 1))
    assert found.nearest_detail == "wants 4 cpu, could free 3 cpu"


def test_a_missing_attribute_is_named_with_what_the_machine_has():
    found = misfit([a_machine(attributes=X86)], constraints=(ARM,))
    assert found.nearest_detail == "wants arch == arm64, its arch is x86_64"
    assert "add a machine with arch == arm64" in found.hints
    assert "drop arch == arm64: 1 machine would fit then" in found.hints


def test_a_missing_runtime_is_named_as_one():
    docker = Constraint("runtime.docker", Op.PRESENT)
    found = misfit([a_machine()], constraints=(docker,))
    assert found.hints == ("add a machine with the docker runtime",)


def test_machines_that_take_no_tasks_are_told_apart_and_waiting_is_hinted_at():
    machines = [
        *(a_machine(f"d{number}", reason="down") for number in range(3)),
        a_machine("e", reason="draining"),
        a_machine("n", reason="not ready: no cgroups"),
        a_machine("small", room(0.5, 1)),
    ]
    found = misfit(machines)
    assert {(one.reason, one.detail): one.machines for one in found.counts} == {
        ("down", ""): 3,
        ("draining", ""): 1,
        ("not_ready", "no cgroups"): 1,
        ("cpu", ""): 1,
    }
    assert "wait: 3 machines that could take it are down" in found.hints
    assert "undrain: 1 machine that could take it is draining" in found.hints
    assert "1 not ready no cgroups" in found.summary


def test_many_different_reasons_for_not_being_ready_are_bounded():
    machines = [
        a_machine(f"m{number}", reason=f"not ready: fault {number}") for number in range(30)
    ]
    found = misfit(machines)
    assert len(found.counts) == 6
    assert sum(count.machines for count in found.counts) == 30


def test_a_down_machine_is_the_nearest_miss_only_when_there_is_no_other():
    assert misfit([a_machine("m1", reason="down")]).nearest_detail == "is down"
    found = misfit([a_machine("m1", reason="down"), a_machine("m2", room(0.5, 8))])
    assert found.nearest_machine == "m2"


def test_limits_per_machine_and_rack_are_named():
    placed = [a_placed("ann/web/7", priority=200)]
    found = misfit([a_machine()], placed, max_per_machine=1)
    assert found.nearest_detail == "already has 1 of the job's tasks, max_per_machine is 1"
    assert "raise max_per_machine: 1 machine has room for one more" in found.hints
    racked = misfit([a_machine(attributes={"rack": "r1"})], placed, max_per_rack=1)
    assert racked.nearest_detail == "its rack already has 1 of the job's tasks, max_per_rack is 1"


def test_a_higher_band_is_hinted_at_when_it_would_help():
    placed = [a_placed(held=room(8, 8), priority=100)]
    found = misfit([a_machine()], placed, limit=room(8, 8), priority=100)
    assert "a task of the production band could evict batch tasks on 1 machine" in found.hints


def test_a_request_larger_than_every_machine_says_how_large_the_largest_is():
    found = misfit([a_machine(capacity=room(8, 64))], limit=room(99, 1))
    assert "add a machine with 99 cpu: the largest that qualifies has 8 cpu" in found.hints


def test_constraints_met_only_on_different_machines_are_said_to_be():
    ssd = Constraint("ssd", Op.PRESENT)
    machines = [
        a_machine("m1", attributes={"arch": "arm64"}),
        a_machine("m2", attributes={"ssd": "1"}),
    ]
    found = misfit(machines, constraints=(ARM, ssd))
    assert any("on different ones" in hint for hint in found.hints)


def test_what_a_preempted_task_gave_away_no_longer_counts_for_its_job():
    placed = [a_placed("ann/web/7", held=room(), priority=200, stopping=True)]
    cell = a_cell([a_machine()], placed)
    assert explain(cell, a_pending(max_per_machine=1), 0).misfit is None


def test_an_explanation_lists_at_most_five_machines_best_first():
    cell = a_cell([a_machine(f"m{number}", room(2 + number, 16)) for number in range(9)])
    found = explain(cell, a_pending(), 0)
    totals = [one.score.total for one in found.feasible]
    assert (found.feasible_count, len(totals)) == (9, 5)
    assert totals == sorted(totals, reverse=True)
    assert not found.misfit


def test_an_explanation_names_who_would_have_to_leave():
    cell = a_cell([a_machine(capacity=room(1, 1))], [a_placed()])
    found = explain(cell, a_pending(), 0)
    assert [str(one.key) for one in found.feasible[0].victims] == ["bob/batch/0"]


def test_an_explanation_says_how_long_the_back_off_lasts():
    assert explain(a_cell([a_machine()]), a_pending(not_before_ms=900), 400).wait_ms == 500


@pytest.mark.parametrize(
    ("dimension", "amount", "shown"),
    [
        ("cpu_milli", 1_234_567, "1234.56 cpu"),
        ("cpu_milli", 2_500, "2.5 cpu"),
        ("ram_bytes", (1 << 30) + (1 << 29) + 9_999_999, "1.5 GiB ram"),
        ("disk_bytes", 1_000, "1000 B disk"),
        ("ports", 2, "2 ports"),
    ],
)
def test_an_amount_is_shown_rounded_down(dimension, amount, shown):
    floored = floor_quantity(dimension, amount)
    assert floored <= amount
    assert format_quantity(dimension, floored) == shown
