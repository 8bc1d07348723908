"""Owns what is said about a bad config: where it is wrong, how, and what was probably meant."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FieldPath = tuple[str | int, ...]
SHOWN_MAX = 20  # diagnostics shown of one file


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; lines and columns count from 1, 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """``web.bcl:4:12``, as editors and compilers write it."""
        return ":".join([self.file, *(str(part) for part in (self.line, self.column) if part)])


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing wrong with a config."""

    place: Place
    message: str
    hint: str = ""  # what to do about it, such as "did you mean `task_count`?"

    def __str__(self) -> str:
        """``web.bcl:4:12: unknown field `replicas`; did you mean `task_count`?``."""
        return f"{self.place}: {self.message}" + (f"; {self.hint}" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a value, before it is known where in which file the value was written."""

    path: FieldPath
    message: str
    hint: str = ""
    names_field: bool = False  # whether the message says by itself which field it is about

    def under(self, *prefix: str | int) -> "Fault":
        """The same fault, seen from the value that holds this one."""
        return Fault((*prefix, *self.path), self.message, self.hint, self.names_field)

    def at(self, place: Place) -> Diagnostic:
        """What to tell the user, once it is known where the value was written."""
        field = "" if self.names_field else path_text(self.path)
        return Diagnostic(place, f"{field}: {self.message}" if field else self.message, self.hint)


class BadConfig(Exception):
    """A config that is no job: nothing of it may be sent."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("\n".join(map(str, diagnostics)))
        self.diagnostics = tuple(diagnostics)


def bad_config(message: str, *, file: str, line: int = 0, column: int = 0) -> BadConfig:
    """The error that one sentence about one place makes."""
    return BadConfig([Diagnostic(Place(file, line, column), message)])


def path_text(path: FieldPath) -> str:
    """``task.argv[0]`` for ("task", "argv", 0)."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def did_you_mean(word: str, known: Iterable[str], synonyms: dict[str, str] | None = None) -> str:
    """``did you mean `task_count`?``, or "" when nothing is near."""
    meant = {name: name for name in known}
    for synonym, name in (synonyms or {}).items():
        if name in meant:
            meant.setdefault(synonym, name)
    asked = word[:80].lower().replace("-", "_")
    nearest = difflib.get_close_matches(asked, meant, n=1, cutoff=0.6)
    return f"did you mean `{meant[nearest[0]]}`?" if nearest else ""
