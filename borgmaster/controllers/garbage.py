"""Owns what the cell forgets, and when: ended jobs, and answers to old requests."""

from itertools import islice
from typing import Final

from borgmaster.state.cell import CellState
from borgmaster.state.commands import Command, ForgetJobs

JOBS_KEPT_MS: Final = 24 * 3_600_000
REQUESTS_KEPT_MS: Final = 3_600_000
REQUESTS_KEPT_MAX: Final = 100_000
FORGOTTEN_MAX: Final = 100  # jobs per call


def reconcile_garbage(cell: CellState, now_ms: int) -> list[Command]:
    """Forget the jobs that ended a day ago, the oldest first, and the answers that nobody asks for again."""
    due = [
        (job.ended_at_ms, key)
        for key, job in cell.jobs.items()
        if job.ended
        and now_ms - job.ended_at_ms >= JOBS_KEPT_MS
        and cell.indexes.live_count(key) == 0
    ]
    jobs = tuple(key for _, key in sorted(due)[:FORGOTTEN_MAX])
    before_ms = _requests_before_ms(cell, now_ms)
    if not jobs and not before_ms:
        return []
    return [ForgetJobs(jobs, before_ms)]


def _requests_before_ms(cell: CellState, now_ms: int) -> int:
    """The time before which answers go; 0 when all may stay."""
    times = (at_ms for at_ms, _ in cell.requests.values())  # oldest first
    before_ms = 0
    surplus = len(cell.requests) - REQUESTS_KEPT_MAX
    if surplus > 0:
        before_ms = next(islice(times, surplus - 1, None)) + 1
    oldest_ms = next((at_ms for at_ms, _ in cell.requests.values()), now_ms)
    if oldest_ms < now_ms - REQUESTS_KEPT_MS:
        before_ms = max(before_ms, now_ms - REQUESTS_KEPT_MS)
    return before_ms
