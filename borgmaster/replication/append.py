"""Owns a follower's decision on the leader's entries. Pure: reads the log, changes nothing.

Truncates on a real conflict only; PySyncObj deletes everything behind ``prev_index`` each time and so loses what it
has acknowledged (raft.md §2.2).
"""

from collections.abc import Sequence

from msgspec import Struct

from borgmaster.replication.journal import Journal, LogEntry


class Behind(Struct, frozen=True):
    """The entries do not join this log: the leader should go on with ``next_index``."""

    next_index: int


class Joins(Struct, frozen=True):
    """The entries continue this log, which then matches the leader's up to ``matched``."""

    fresh: Sequence[LogEntry]  # to append
    cut_from: int  # first the log must be cut from here; 0: nothing to cut
    matched: int


def judge(
    journal: Journal, prev: tuple[int, int], entries: Sequence[LogEntry], committed: int
) -> Behind | Joins:
    """What to do with ``entries`` behind ``prev`` (index, term); no result asks to go back behind ``committed``."""
    prev_index, prev_term = prev
    first, last = journal[0][1], journal[-1][1]
    if prev_index > last:
        return Behind(last + 1)
    if prev_index < first:
        # Up to ``first`` all is committed and applied here, so the leader has the same.
        newer = [entry for entry in entries if entry[1] > first]
        if not newer:
            return Joins((), 0, first)
        if newer[0][1] != first + 1:
            return Behind(last + 1)
        return _compare(journal, first, newer)
    if journal.term_at(prev_index) != prev_term:
        return Behind(_start_of_term(journal, prev_index, committed))
    return _compare(journal, prev_index, entries)


def _compare(journal: Journal, prev_index: int, entries: Sequence[LogEntry]) -> Joins:
    matched = entries[-1][1] if entries else prev_index
    for position, (_, index, term) in enumerate(entries):
        known = journal.term_at(index)
        if known != term:
            return Joins(entries[position:], 0 if known is None else index, matched)
    return Joins((), 0, matched)


def _start_of_term(journal: Journal, index: int, committed: int) -> int:
    """Where the conflicting term begins: going back one index at a time takes minutes (raft.md §2)."""
    first = journal[0][1]
    term = journal.term_at(index)
    while index - 1 > max(first, committed) and journal.term_at(index - 1) == term:
        index -= 1
    return max(index, 2)
