"""Owns tables as text: columns aligned, styles only when asked for. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

STYLES: Final = {"good": 32, "warn": 33, "bad": 31, "dim": 2, "bold": 1}
GAP: Final = "   "


class Styled(NamedTuple):
    """A cell's text with the name of its style."""

    text: str
    style: str


Cell = str | Styled


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings. ``wide`` columns are shown only by ``-o wide``; ``numeric`` ones are right-aligned."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    numeric: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()
    empty: str = "nothing"
    title: str = ""
    names: list[str] = field(default_factory=list)  # what `-o name` prints, one per row


def table_text(table: Table, *, colour: bool = False, wide: bool = False) -> str:
    """The table as lines; ends with a newline."""
    title = f"{paint(table.title, 'bold', colour=colour)}\n" if table.title else ""
    if not table.rows:
        return f"{title}{table.empty}\n"
    shown = [
        position
        for position, column in enumerate(table.columns)
        if wide or column not in table.wide
    ]
    heads: list[Cell] = [Styled(table.columns[position], "dim") for position in shown]
    grid = [heads, *([row[position] for position in shown] for row in table.rows)]
    widths = [max(len(_text(row[position])) for row in grid) for position in range(len(shown))]
    right = [table.columns[position] in table.numeric for position in shown]
    return title + "".join(_line(row, widths, right, colour=colour) for row in grid)


def fields_text(fields: Iterable[tuple[str, Cell]], *, colour: bool = False) -> str:
    """Name and value of one thing per line, values aligned; empty values are left out."""
    given = [(name, value) for name, value in fields if _text(value)]
    width = max((len(name) for name, _ in given), default=0)
    return "".join(
        f"{paint(name.ljust(width), 'dim', colour=colour)}  {_painted(value, colour=colour)}\n"
        for name, value in given
    )


def paint(text: str, style: str, *, colour: bool) -> str:
    """The text in a style, when colours are wanted."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if colour and style and text else text


def printable(text: str) -> str:
    """The text without control characters: what a task or a machine says must not steer the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _line(row: Sequence[Cell], widths: list[int], right: list[bool], *, colour: bool) -> str:
    cells = []
    for position, (cell, width) in enumerate(zip(row, widths, strict=True)):
        text = _text(cell)
        padding = " " * (width - len(text))
        shown = _painted(cell, colour=colour)
        if right[position]:
            cells.append(padding + shown)
        else:
            cells.append(shown + (padding if position < len(row) - 1 else ""))
    return GAP.join(cells).rstrip() + "\n"


def _text(cell: Cell) -> str:
    return printable(cell.text if isinstance(cell, Styled) else cell)


def _painted(cell: Cell, *, colour: bool) -> str:
    style = cell.style if isinstance(cell, Styled) else ""
    return paint(_text(cell), style, colour=colour)
