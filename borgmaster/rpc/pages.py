"""Owns paging of lists: rows in the order of their keys, a token that names the last key sent."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from borgcell.types import JobKey, TaskKey

from borgmaster.rpc.status import invalid

PAGE_SIZE_DEFAULT: Final = 500
PAGE_SIZE_MAX: Final = 1_000
K = TypeVar("K", str, JobKey, TaskKey)


def page(
    keys: list[K],
    *,
    size: int,
    token: str,
    parse: Callable[[str], K],
    wanted: Callable[[K], bool],
) -> tuple[list[K], str]:
    """The next page of the sorted ``keys`` that are wanted, and the token of the one after it ("" at the end).

    A row that appears or disappears between two pages is seen or not; no other row is seen twice or missed.
    Raises Refused for a bad size or token.
    """
    if not 0 <= size <= PAGE_SIZE_MAX:
        raise invalid("page_size", f"{size} is not in 0..{PAGE_SIZE_MAX}")
    start = 0
    if token:
        try:
            start = bisect_right(keys, parse(token))
        except ValueError as error:
            raise invalid("page_token", f"{token[:80]!r} is not a token of this list") from error
    rows: list[K] = []
    for position in range(start, len(keys)):
        if not wanted(keys[position]):
            continue
        if len(rows) == (size or PAGE_SIZE_DEFAULT):
            return rows, str(rows[-1])
        rows.append(keys[position])
    return rows, ""


def selector(field: str, terms: Iterable[str]) -> dict[str, str]:
    """``key=value`` terms as a mapping. Raises Refused for a term of another form."""
    wanted: dict[str, str] = {}
    for position, term in enumerate(terms):
        key, equals, value = term.partition("=")
        if not key or not equals:
            raise invalid(f"{field}[{position}]", f"{term[:80]!r} is not of the form key=value")
        wanted[key] = value
    return wanted


def selected(labels: dict[str, str], wanted: dict[str, str]) -> bool:
    """Whether the labels have every wanted value."""
    return all(labels.get(key) == value for key, value in wanted.items())
