"""Owns the difference between two job specs, field by field. Pure."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from borgcell.specs import JobSpec
from borgcell.types import JobKey

from borgcfg.lang.diagnostics import FieldPath, path_text
from borgcfg.render.table import paint, printable

CHANGES_SHOWN_MAX: Final = 200
VALUE_SHOWN_MAX: Final = 160
CONTEXT: Final = 20  # shown before the place where long texts begin to differ
_EMPTY: Final[tuple[Any, ...]] = (
    None,
    "",
    0,
    False,
    (),
    [],
    {},
)  # of a new job: what everyone has unless they say otherwise
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
                return f"~ {self.field}: {_both_shown(self.old, self.new)}"


def changes(old: JobSpec | None, new: JobSpec) -> list[Change]:
    """What becomes different when ``new`` replaces ``old``, in the order of the fields."""
    after = msgspec.to_builtins(new)
    if old is None:
        return [change for change in _added((), after) if change.new not in _EMPTY]
    return list(_changes((), msgspec.to_builtins(old), after))


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


def _added(path: FieldPath, new: Any) -> Iterator[Change]:
    if isinstance(new, dict) and new:
        for key, value in new.items():
            yield from _added((*path, key), value)
    else:
        yield Change("+", path_text(path), None, new)


def _changes(path: FieldPath, old: Any, new: Any) -> Iterator[Change]:
    if old is _ABSENT:
        yield from _added(path, new)
    elif new is _ABSENT:
        yield Change("-", path_text(path), old, None)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            yield from _changes((*path, key), old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        for position, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _changes((*path, position), before, after)
    elif old != new:
        yield Change("~", path_text(path), old, new)


def _shown(value: Any) -> str:
    """Values as configs write them, on one line."""
    return "none" if value is None else _shortened(msgspec.json.encode(value).decode())


def _shortened(text: str, start: int = 0) -> str:
    """The part of a long text from a little before ``start``."""
    if len(text) <= VALUE_SHOWN_MAX:
        return text
    start = max(0, start - CONTEXT)
    end = start + VALUE_SHOWN_MAX
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def _both_shown(old: Any, new: Any) -> str:
    """Two values; of long texts, the part where they begin to differ."""
    if not isinstance(old, str) or not isinstance(new, str):
        return f"{_shown(old)} -> {_shown(new)}"
    before, after = (msgspec.json.encode(text).decode() for text in (old, new))
    differing = (i for i, (b, a) in enumerate(zip(before, after, strict=False)) if b != a)
    start = next(differing, min(len(before), len(after)))
    return f"{_shortened(before, start)} -> {_shortened(after, start)}"
