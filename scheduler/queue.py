"""Owns the order of the pending queue: priority high to low, users in turn inside one priority (B15 §3.2).
Inside one user the job that waits longest goes first; B15 does not say.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from scheduler.cell import ClassKey, SchedulerCell
from scheduler.model import PendingRow


class PendingClass:
    """The tasks of one equivalence class that may be placed now, longest waiting first, then by index."""

    def __init__(self, key: ClassKey, rows: list[PendingRow]) -> None:
        self.key = key
        self.rows = deque(sorted(rows, key=_seniority))
        self.seniority = _seniority(self.rows[0])


def _seniority(row: PendingRow) -> tuple[int, tuple[str, str, int]]:
    return row.submitted_at_ms, row.key


class Level:
    """All that is pending at one priority; users take turns, starting with one chosen by dice."""

    def __init__(self, classes: list[PendingClass], dice: np.random.Generator) -> None:
        by_user: dict[str, list[PendingClass]] = {}
        for one in sorted(classes, key=lambda one: one.seniority):
            by_user.setdefault(one.key[0].user, []).append(one)
        self._turns = deque(deque(by_user[user]) for user in sorted(by_user))
        self._turns.rotate(int(dice.integers(len(self._turns))))

    def classes(self) -> Iterator[PendingClass]:
        """Classes in the order of turns; each time it comes up, one task of it should be taken or all given up.

        A class without rows has left the queue. Ends when none has rows.
        """
        while self._turns:
            queue = self._turns.popleft()
            while queue and not queue[0].rows:
                queue.popleft()
            if queue:
                self._turns.append(queue)
                yield queue[0]

    def left(self) -> int:
        """How many tasks are still in it."""
        return sum(len(one.rows) for queue in self._turns for one in queue)


class Queue:
    """What is pending and may be placed at ``now_ms``, by priority; and what waits for its back-off."""

    def __init__(self, cell: SchedulerCell, now_ms: int, dice: np.random.Generator) -> None:
        self._dice = dice
        self.waiting = 0
        self.wake_at_ms = 0
        by_priority: dict[int, list[PendingClass]] = {}
        for key, rows in cell.classes.items():
            ready = [row for row in rows.values() if row.not_before_ms <= now_ms]
            if len(ready) < len(rows):
                self._note_waiting(rows.values(), now_ms)
            if ready:
                by_priority.setdefault(key[1].priority, []).append(PendingClass(key, ready))
        self._by_priority = by_priority

    def levels(self) -> Iterator[Level]:
        """Levels from the highest priority to the lowest."""
        for priority in sorted(self._by_priority, reverse=True):
            yield Level(self._by_priority[priority], self._dice)

    def _note_waiting(self, rows: Iterable[PendingRow], now_ms: int) -> None:
        times = [row.not_before_ms for row in rows if row.not_before_ms > now_ms]
        self.waiting += len(times)
        self.wake_at_ms = min([*times, self.wake_at_ms] if self.wake_at_ms else times)
