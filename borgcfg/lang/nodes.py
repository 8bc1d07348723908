"""Owns plain values that know where they were written, the common result of the YAML and the JSON reader."""

from dataclasses import dataclass, field
from typing import Any, Final

from borgcfg.lang.diagnostics import FieldPath, Place
from borgcfg.lang.schema import SPELLINGS

DEPTH_MAX: Final = 64  # a job is 5 deep
NODES_MAX: Final = 2_000_000


@dataclass(slots=True)
class Node:
    """A value in a file. ``value`` is a scalar, a dict of Nodes by key, or a list of Nodes."""

    value: Any
    line: int
    column: int
    key_places: dict[Any, tuple[int, int]] = field(default_factory=dict)  # of a mapping's keys

    def plain(self) -> Any:
        """The value without places."""
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
            case scalar:
                return scalar

    def place(self, file: str, path: FieldPath) -> Place:
        """Where the value at ``path`` was written: at its key, or at the nearest thing around it."""
        node, line, column = self, self.line, self.column
        for step in path:
            match node.value:
                case dict():
                    key = _key(node.value, step)
                    if key is None:
                        break
                    line, column = node.key_places[key]
                    node = node.value[key]
                case list() if isinstance(step, int) and step < len(node.value):
                    node = node.value[step]
                    line, column = node.line, node.column
                case _:
                    break
        return Place(file, line, column)


def _key(mapping: dict[Any, Node], step: str | int) -> Any:
    """The key that the user wrote for a field: its name, its shorthand, or an index as number or text."""
    for name in (step, str(step), SPELLINGS.get(str(step))):
        if name in mapping:
            return name
    return None
