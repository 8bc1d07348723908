"""Owns the life cycle of a task: a table of arrows (B15 fig. 2, split as in DESIGN §4) and its only reader.

A task that does not exist yet counts as DEAD. Folding the notes of a task over this table gives its state, so
that the event history alone tells what happened.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from borgcell.types import EventKind, TaskState

_S = TaskState
_E = EventKind

TRANSITIONS: Final[Mapping[tuple[TaskState, EventKind], TaskState]] = {
    (_S.DEAD, _E.SUBMIT): _S.PENDING,
    (_S.PENDING, _E.UPDATE_PENDING): _S.PENDING,
    (_S.PENDING, _E.SCHEDULE): _S.ASSIGNED,
    (_S.PENDING, _E.KILL): _S.DEAD,
    (_S.ASSIGNED, _E.START): _S.STARTING,
    (_S.ASSIGNED, _E.UPDATE_RUNNING): _S.ASSIGNED,
    (_S.ASSIGNED, _E.STOP): _S.STOPPING,
    (_S.ASSIGNED, _E.PARTITION): _S.PARTITIONED,
    (_S.ASSIGNED, _E.FINISH): _S.DEAD,
    (_S.ASSIGNED, _E.FAIL): _S.DEAD,
    (_S.ASSIGNED, _E.EVICT): _S.DEAD,
    (_S.ASSIGNED, _E.LOST): _S.DEAD,
    (_S.STARTING, _E.HEALTHY): _S.RUNNING,
    (_S.STARTING, _E.UPDATE_RUNNING): _S.STARTING,
    (_S.STARTING, _E.STOP): _S.STOPPING,
    (_S.STARTING, _E.PARTITION): _S.PARTITIONED,
    (_S.STARTING, _E.FINISH): _S.DEAD,
    (_S.STARTING, _E.FAIL): _S.DEAD,
    (_S.STARTING, _E.EVICT): _S.DEAD,
    (_S.STARTING, _E.LOST): _S.DEAD,
    (_S.RUNNING, _E.HEALTHY): _S.RUNNING,
    (_S.RUNNING, _E.UNHEALTHY): _S.RUNNING,
    (_S.RUNNING, _E.UPDATE_RUNNING): _S.RUNNING,
    (_S.RUNNING, _E.STOP): _S.STOPPING,
    (_S.RUNNING, _E.PARTITION): _S.PARTITIONED,
    (_S.RUNNING, _E.FINISH): _S.DEAD,
    (_S.RUNNING, _E.FAIL): _S.DEAD,
    (_S.RUNNING, _E.EVICT): _S.DEAD,
    (_S.RUNNING, _E.LOST): _S.DEAD,
    # STOP again: for another reason, as when a task that leaves its machine is killed or preempted.
    (_S.STOPPING, _E.STOP): _S.STOPPING,
    (_S.STOPPING, _E.PARTITION): _S.PARTITIONED,
    (_S.STOPPING, _E.FINISH): _S.DEAD,
    (_S.STOPPING, _E.EVICT): _S.DEAD,
    (_S.STOPPING, _E.KILL): _S.DEAD,
    # A task that rejoins is alive; HEALTHY or STOP follows in the same breath where it is more than that.
    (_S.PARTITIONED, _E.REJOIN): _S.STARTING,
    (_S.PARTITIONED, _E.UPDATE_RUNNING): _S.PARTITIONED,
    (_S.PARTITIONED, _E.STOP): _S.PARTITIONED,
    (_S.PARTITIONED, _E.FINISH): _S.DEAD,
    (_S.PARTITIONED, _E.FAIL): _S.DEAD,
    (_S.PARTITIONED, _E.EVICT): _S.DEAD,
    (_S.PARTITIONED, _E.KILL): _S.DEAD,
    (_S.PARTITIONED, _E.LOST): _S.DEAD,
}


def state_after(state: TaskState, kinds: Iterable[EventKind]) -> TaskState:
    """The state that a task in ``state`` is in once these have happened to it, in this order.

    An arrow that the table does not have is our bug, never a user's.
    """
    for kind in kinds:
        after = TRANSITIONS.get((state, kind))
        assert after is not None, f"a task that is {state} cannot see {kind}"
        state = after
    return state
