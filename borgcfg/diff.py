"""Owns the difference between two job specs, field by field. Pure."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from borgcell.specs import JobSpec
from borgcell.types import JobKey

from borgcfg.lang.diagnostics import FieldPath, path_text
from borgcfg.render.table import paint, printable

CHANGES_SHOWN_MAX: Final = 200
_STYLES: Final = {"+": "good", "-": "bad", "~": "warn"}
_ABSENT: Any = object()


class Change(NamedTuple):
    """A field that differs; ``old`` or ``new`` is None where the field is only on one side (see ``sign``)."""

    sign: str  # "+" added, "-" removed, "~" changed
    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """``~ task.limit.cpu_milli: 500 -> 1000``."""
        match self.sign:
            case "+":
                return f"+ {self.field}: {_shown(self.new)}"
            case "-":
                return f"- {self.field}: {_shown(self.old)}"
            case _:
                return f"~ {self.field}: {_shown(self.old)} -> {_shown(self.new)}"


def changes(old: JobSpec | None, new: JobSpec) -> list[Change]:
    """What becomes different when ``new`` replaces ``old``, in the order of the fields."""
    before = msgspec.to_builtins(old) if old is not None else {}
    return list(_changes((), before, msgspec.to_builtins(new)))


def diff_text(key: JobKey, found: list[Change], consequence: str, *, colour: bool) -> str:
    """The changes of one job, one per line, under what they would do."""
    if not found:
        return f"{key}: no difference\n"
    lines = [f"{paint(str(key), 'bold', colour=colour)}: {consequence}"]
    lines += (
        "  " + paint(printable(str(change)), _STYLES[change.sign], colour=colour)
        for change in found[:CHANGES_SHOWN_MAX]
    )
    if len(found) > CHANGES_SHOWN_MAX:
        lines.append(f"  and {len(found) - CHANGES_SHOWN_MAX} more")
    return "\n".join(lines) + "\n"


def changes_plain(found: list[Change]) -> list[dict[str, Any]]:
    """The changes for JSON and YAML."""
    return [{"change": c.sign, "field": c.field, "old": c.old, "new": c.new} for c in found]


def _changes(path: FieldPath, old: Any, new: Any) -> Iterator[Change]:
    if old is _ABSENT:
        yield from ([] if new in ({}, [], None) else [Change("+", path_text(path), None, new)])
    elif new is _ABSENT:
        yield Change("-", path_text(path), old, None)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            yield from _changes((*path, key), old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif old != new:
        yield Change("~", path_text(path), old, new)


def _shown(value: Any) -> str:
    """Values as configs write them, on one line."""
    if value is None:
        return "none"
    return msgspec.json.encode(value).decode()
