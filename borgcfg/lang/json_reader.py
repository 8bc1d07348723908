"""Owns reading JSON into Nodes: the standard library's reader keeps no places and takes the last of two equal keys."""

import json
import re
from typing import Any, Final

from borgcfg.lang.diagnostics import BadConfig, Diagnostic, Place, bad_config
from borgcfg.lang.nodes import DEPTH_MAX, Node

_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"-?(?:0|[1-9]\d{0,400})(\.\d+)?([eE][+-]?\d+)?|true|false|null", re.ASCII)
_DECODER: Final = json.JSONDecoder()
_WORDS: Final = {"true": True, "false": False, "null": None}


def read_json(text: str, file: str) -> Node:
    """The value in ``text``. Raises BadConfig: bad syntax, a key twice, too deep."""
    reader = _Reader(text, file)
    node, end = reader.value(reader.skip(0), 0)
    end = reader.skip(end)
    if end != len(text):
        raise reader.error("bad JSON: something follows the value", end)
    return node


class _Reader:
    """Recursive descent, at most DEPTH_MAX deep; positions are offsets in the text."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._line = 0

    def skip(self, offset: int) -> int:
        found = _SPACE.match(self._text, offset)
        return found.end() if found else offset

    def value(self, offset: int, depth: int) -> tuple[Node, int]:
        first = self._text[offset : offset + 1]
        if depth >= DEPTH_MAX and first in ("{", "["):
            raise self.error(f"is nested deeper than {DEPTH_MAX} levels", offset)
        match first:
            case "{":
                return self._object(offset, depth)
            case "[":
                return self._array(offset, depth)
            case '"':
                text, end = self._string(offset)
                return self._node(text, offset), end
            case _:
                return self._scalar(offset)

    def _object(self, offset: int, depth: int) -> tuple[Node, int]:
        node = self._node({}, offset)
        offset = self.skip(offset + 1)
        if self._text[offset : offset + 1] == "}":
            return node, offset + 1
        while True:
            if self._text[offset : offset + 1] != '"':
                raise self.error('bad JSON: expected a key in "..."', offset)
            key, end = self._string(offset)
            self._add_key(node, key, offset)
            offset = self._expect(":", self.skip(end))
            node.value[key], end = self.value(self.skip(offset), depth + 1)
            offset = self.skip(end)
            if self._text[offset : offset + 1] == "}":
                return node, offset + 1
            offset = self.skip(self._expect(",", offset))

    def _add_key(self, node: Node, key: str, offset: int) -> None:
        line, column = self._position(offset)
        if key in node.key_places:
            first_line, first_column = node.key_places[key]
            raise BadConfig(
                [
                    Diagnostic(
                        Place(self._file, line, column),
                        f"`{key}` is given twice",
                        f"the first is at {first_line}:{first_column}",
                    )
                ]
            )
        node.key_places[key] = (line, column)

    def _array(self, offset: int, depth: int) -> tuple[Node, int]:
        node = self._node([], offset)
        offset = self.skip(offset + 1)
        if self._text[offset : offset + 1] == "]":
            return node, offset + 1
        while True:
            item, end = self.value(offset, depth + 1)
            node.value.append(item)
            offset = self.skip(end)
            if self._text[offset : offset + 1] == "]":
                return node, offset + 1
            offset = self.skip(self._expect(",", offset))

    def _string(self, offset: int) -> tuple[str, int]:
        try:
            text, end = _DECODER.raw_decode(self._text, offset)
        except json.JSONDecodeError as error:
            raise self.error(f"bad JSON: {error.msg}", error.pos) from error
        return str(text), end

    def _scalar(self, offset: int) -> tuple[Node, int]:
        found = _SCALAR.match(self._text, offset)
        if found is None:
            raise self.error("bad JSON: expected a value", offset)
        text = found[0]
        value: Any = _WORDS[text] if text in _WORDS else _number(found)
        return self._node(value, offset), found.end()

    def _expect(self, mark: str, offset: int) -> int:
        if self._text[offset : offset + 1] != mark:
            raise self.error(f"bad JSON: expected '{mark}'", offset)
        return offset + 1

    def _node(self, value: Any, offset: int) -> Node:
        return Node(value, *self._position(offset))

    def _position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset; offsets asked for grow, so the line is found by walking on."""
        starts = self._line_starts
        while self._line + 1 < len(starts) and starts[self._line + 1] <= offset:
            self._line += 1
        return self._line + 1, offset - starts[self._line] + 1

    def error(self, message: str, offset: int) -> BadConfig:
        line = self._text.count("\n", 0, offset)
        column = offset - self._line_starts[line] + 1
        return bad_config(message, file=self._file, line=line + 1, column=column)


def _number(found: re.Match[str]) -> int | float:
    return float(found[0]) if found[1] or found[2] else int(found[0])
