"""The life cycle of a task: every state × every event, against a picture drawn by hand."""

import pytest
from borgcell.types import EventKind, TaskState

from borgmaster.state.task_machine import TRANSITIONS, state_after

# Rows: events; columns: the states in the order of COLUMNS; "." = cannot happen.
COLUMNS = "PENDING ASSIGNED STARTING RUNNING STOPPING PARTITIONED DEAD"
PICTURE = """
SUBMIT          .        .           .           .           .           .           PENDING
QUEUE           .        .           .           .           .           .           .
ENABLE          .        .           .           .           .           .           .
SCHEDULE        ASSIGNED .           .           .           .           .           .
EVICT           .        DEAD        DEAD        DEAD        DEAD        DEAD        .
FAIL            .        DEAD        DEAD        DEAD        .           DEAD        .
FINISH          .        DEAD        DEAD        DEAD        DEAD        DEAD        .
KILL            DEAD     .           .           .           DEAD        DEAD        .
LOST            .        DEAD        DEAD        DEAD        .           DEAD        .
UPDATE_PENDING  PENDING  .           .           .           .           .           .
UPDATE_RUNNING  .        ASSIGNED    STARTING    RUNNING     .           PARTITIONED .
ADD             .        .           .           .           .           .           .
REMOVE          .        .           .           .           .           .           .
UPDATE          .        .           .           .           .           .           .
START           .        STARTING    .           .           .           .           .
HEALTHY         .        .           RUNNING     RUNNING     .           .           .
UNHEALTHY       .        .           .           RUNNING     .           .           .
STOP            .        STOPPING    STOPPING    STOPPING    STOPPING    PARTITIONED .
PARTITION       .        PARTITIONED PARTITIONED PARTITIONED PARTITIONED .           .
REJOIN          .        .           .           .           .           STARTING    .
"""


def expected_arrows():
    states = [TaskState(name) for name in COLUMNS.split()]
    assert set(states) == set(TaskState)
    rows = [line.split() for line in PICTURE.strip().splitlines()]
    assert [row[0] for row in rows] == list(EventKind)
    return {
        (state, EventKind(row[0])): None if cell == "." else TaskState(cell)
        for row in rows
        for state, cell in zip(states, row[1:], strict=True)
    }


@pytest.mark.parametrize(("arrow", "after"), expected_arrows().items(), ids=str)
def test_every_state_meets_every_event_as_drawn(arrow, after):
    state, kind = arrow
    assert TRANSITIONS.get(arrow) == after
    if after is None:
        with pytest.raises(AssertionError, match=f"{state} cannot see {kind}"):
            state_after(state, [kind])
    else:
        assert state_after(state, [kind]) is after


def test_notes_are_folded_in_their_order():
    life = (EventKind.SUBMIT, EventKind.SCHEDULE, EventKind.START, EventKind.HEALTHY)
    assert state_after(TaskState.DEAD, life) is TaskState.RUNNING
    assert state_after(TaskState.RUNNING, [EventKind.FAIL, EventKind.SUBMIT]) is TaskState.PENDING


def test_a_task_to_which_nothing_happens_stays_as_it_is():
    assert state_after(TaskState.STOPPING, []) is TaskState.STOPPING


def test_every_state_but_the_first_can_be_left_for_death():
    for state in TaskState:
        if state is not TaskState.DEAD:
            assert TaskState.DEAD in {
                after for (before, _), after in TRANSITIONS.items() if before is state
            }
