"""Unit tests of ``scheduler.preemption``: whom one machine would give up."""

from scheduler.preemption import cheapest_eviction
from tests.helpers.scheduler_worlds import a_placed, room


def victims(limit, free, *rows):
    found = cheapest_eviction(limit.as_tuple(), free.as_tuple(), rows)
    return None if found is None else [row.key.index for row in found]


def test_the_lowest_priority_leaves_first():
    rows = [a_placed("bob/x/0", priority=100), a_placed("bob/x/1", priority=10)]
    assert victims(room(1, 1), room(), *rows) == [1]


def test_a_low_task_is_spared_when_a_higher_one_must_leave_anyway_and_is_enough():
    rows = [
        a_placed("bob/x/0", held=room(1, 1), priority=10),
        a_placed("bob/x/1", held=room(3, 3), priority=100),
    ]
    assert victims(room(3, 3), room(), *rows) == [1]


def test_a_task_that_gives_nothing_of_what_lacks_is_spared():
    rows = [
        a_placed("bob/x/0", held=room(0, 4), priority=0),
        a_placed("bob/x/1", held=room(1, 1), priority=100),
    ]
    assert victims(room(1, 1), room(0, 8), *rows) == [1]


def test_inside_one_priority_one_large_task_leaves_rather_than_two_small_ones():
    rows = [
        a_placed(f"bob/x/{index}", held=room(size, size)) for index, size in enumerate((1, 1, 2))
    ]
    assert victims(room(2, 2), room(), *rows) == [2]


def test_there_is_no_eviction_when_all_together_are_not_enough():
    assert victims(room(3, 1), room(), a_placed(), a_placed("bob/x/1")) is None


def test_a_dimension_nobody_asks_for_may_stay_over_committed():
    assert victims(room(1, 1), room(0, 0, -5), a_placed()) == [0]
