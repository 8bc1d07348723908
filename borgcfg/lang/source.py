"""Owns finding things in a Starlark file: the call on a line, and the place of a field among its arguments.

Starlark is Python's syntax, so Python's parser finds the places that Starlark's call stacks leave out. A file
that Python cannot read only makes places less exact.
"""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from borgcfg.lang.diagnostics import FieldPath, Place
from borgcfg.lang.limits import read_config
from borgcfg.lang.schema import SPELLINGS

PARSED_BYTES_MAX = 256 << 10  # beyond it, parsing costs more than a column is worth


@dataclass
class Source:
    """A Starlark file: what it is called to the user, and its text ("" when it cannot be read)."""

    shown: str
    text: str

    @classmethod
    def read(cls, path: Path, shown: str) -> "Source":
        """The file; never fails, for it only serves messages."""
        try:
            return cls(shown, read_config(path, shown))
        except (OSError, ValueError):
            return cls(shown, "")

    @cached_property
    def _tree(self) -> ast.Module:
        if len(self.text) <= PARSED_BYTES_MAX:
            try:
                return ast.parse(self.text)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                pass
        return ast.Module(body=[], type_ignores=[])

    @cached_property
    def _calls(self) -> dict[int, list[ast.Call]]:
        calls: dict[int, list[ast.Call]] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                calls.setdefault(node.lineno, []).append(node)
        return calls

    def assigned(self, name: str) -> ast.expr | None:
        """What a name of the file is set to, when it is set once at the top."""
        found = [
            statement.value
            for statement in self._tree.body
            if isinstance(statement, ast.Assign)
            and any(
                isinstance(target, ast.Name) and target.id == name for target in statement.targets
            )
        ]
        return found[0] if len(found) == 1 else None

    def call(self, line: int, function: str, path: FieldPath = ()) -> "CallSite | None":
        """The call of ``function`` that begins on a line; of several, one that has the field."""
        calls = self._calls.get(line, [])
        named = [call for call in calls if _name(call.func).lower() == function.lower()]
        having = [call for call in named or calls if path and _argument(call, path[0]) is not None]
        found = having or named or calls
        return CallSite(self, found[0]) if found else None


@dataclass(frozen=True)
class CallSite:
    """A call of a constructor in a file."""

    source: Source
    call: ast.Call

    def place(self, path: FieldPath) -> Place:
        """Where the field at ``path`` was written: at its keyword, or at the nearest thing around it."""
        value: ast.expr = self.call
        line, column = value.lineno, value.col_offset
        for step in path:
            found = self._step(value, step)
            if found is None:
                break
            (line, column), value = found
        return Place(self.source.shown, line, self._characters(line, column) + 1)

    def _step(self, value: ast.expr, step: str | int) -> tuple[tuple[int, int], ast.expr] | None:
        if isinstance(value, ast.Name):
            assigned = self.source.assigned(value.id)
            value = value if assigned is None else assigned
        match value:
            case ast.Call():
                keyword = _argument(value, step)
                if keyword is None and step == "overrides":
                    keyword = _argument(value, "override")
                if keyword is not None:
                    return (keyword.lineno, keyword.col_offset), keyword.value
            case ast.Dict(keys=keys, values=values):
                for key, item in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and str(key.value) in _spellings(step):
                        return (key.lineno, key.col_offset), item
            case ast.List(elts=items) | ast.Tuple(elts=items):
                if isinstance(step, int) and step < len(items):
                    item = items[step]
                    return (item.lineno, item.col_offset), item
            case _:
                pass
        return None

    def _characters(self, line: int, byte_column: int) -> int:
        """Python counts columns in bytes of UTF-8; people and editors count characters."""
        text = self.source.text.split("\n")[line - 1]
        return len(text.encode()[:byte_column].decode(errors="replace"))


def _argument(call: ast.Call, step: str | int) -> ast.keyword | None:
    return next((keyword for keyword in call.keywords if keyword.arg in _spellings(step)), None)


def _spellings(step: str | int) -> tuple[str, ...]:
    text = str(step)
    return (text, SPELLINGS[text]) if text in SPELLINGS else (text,)


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""
