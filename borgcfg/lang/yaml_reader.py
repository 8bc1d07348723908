"""Owns reading YAML into Nodes: from parser events, so that nesting costs no stack and keys keep their places."""

from typing import Any

import yaml

from borgcfg.lang.diagnostics import BadConfig, Diagnostic, Place, bad_config
from borgcfg.lang.nodes import DEPTH_MAX, NODES_MAX, Node

_SCALAR_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")
)


def read_yaml(text: str, file: str) -> Node:
    """The one document in ``text``. Raises BadConfig: bad syntax, a key twice, too deep, several documents."""
    loader = yaml.CSafeLoader(text)
    try:
        return _Reader(loader, file).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        said = " ".join(part for part in (error.context, error.problem) if part)
        raise bad_config(f"bad YAML: {said}", file=file, line=line, column=column) from error
    except yaml.YAMLError as error:
        raise bad_config(f"bad YAML: {error}", file=file) from error
    finally:
        loader.dispose()


class _Reader:
    """Builds Nodes from events. One open collection per level; a mapping's key waits until its value comes."""

    def __init__(self, loader: Any, file: str) -> None:
        self._loader = loader
        self._file = file
        self._anchors: dict[str, Node] = {}
        self._weights: dict[int, int] = {}  # nodes below a collection, by id: aliases count in full
        self._node_count = 0

    def document(self) -> Node:
        loader = self._loader
        loader.get_event()  # stream start
        if loader.check_event(yaml.StreamEndEvent):
            raise bad_config("is empty: it has no job", file=self._file)
        loader.get_event()  # document start
        root = self._value()
        loader.get_event()  # document end
        if not loader.check_event(yaml.StreamEndEvent):
            mark = loader.peek_event().start_mark
            raise self._error("has several documents: list the jobs under one `jobs:`", mark)
        return root

    def _value(self) -> Node:
        open_nodes: list[Node] = []
        waiting_keys: list[Any] = []  # per open mapping: its key without value yet, or _NO_KEY
        root: Node | None = None
        while root is None or open_nodes:
            event = self._loader.get_event()
            if isinstance(event, yaml.CollectionEndEvent):
                closed = open_nodes.pop()
                waiting_keys.pop()
                self._close(closed)
                continue
            if (
                open_nodes
                and isinstance(open_nodes[-1].value, dict)
                and waiting_keys[-1] is _NO_KEY
            ):
                waiting_keys[-1] = self._key(event, open_nodes[-1])
                continue
            node = self._node(event)
            if open_nodes:
                self._put(open_nodes[-1], waiting_keys, node)
            else:
                root = node
            if isinstance(event, yaml.CollectionStartEvent):
                if len(open_nodes) >= DEPTH_MAX:
                    raise self._error(f"is nested deeper than {DEPTH_MAX} levels", event.start_mark)
                open_nodes.append(node)
                waiting_keys.append(_NO_KEY)
        return root

    @staticmethod
    def _put(parent: Node, waiting_keys: list[Any], node: Node) -> None:
        if isinstance(parent.value, dict):
            parent.value[waiting_keys[-1]] = node
            waiting_keys[-1] = _NO_KEY
        else:
            parent.value.append(node)

    def _close(self, node: Node) -> None:
        children = node.value.values() if isinstance(node.value, dict) else node.value
        self._weights[id(node)] = 1 + sum(self._weights.get(id(child), 1) for child in children)
        if self._weights[id(node)] > NODES_MAX:  # aliases of aliases: "a billion laughs"
            raise bad_config(
                f"grows to more than {NODES_MAX} values by its aliases",
                file=self._file,
                line=node.line,
                column=node.column,
            )

    def _key(self, event: Any, mapping: Node) -> Any:
        mark: Any = event.start_mark
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error("a key must be a text or a number", mark)
        key = self._scalar(event)
        if isinstance(key, bool) or key is None:
            key = (
                event.value
            )  # `on:` and `null:` are what was written, not what YAML 1.1 makes of it
        if key in mapping.key_places:
            line, column = mapping.key_places[key]
            here = Place(self._file, mark.line + 1, mark.column + 1)
            raise BadConfig(
                [Diagnostic(here, f"`{key}` is given twice", f"the first is at {line}:{column}")]
            )
        mapping.key_places[key] = (mark.line + 1, mark.column + 1)
        return key

    def _node(self, event: Any) -> Node:
        self._node_count += 1
        if self._node_count > NODES_MAX:
            raise self._error(f"has more than {NODES_MAX} values", event.start_mark)
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            node = self._anchors.get(str(event.anchor))
            if node is None or (
                isinstance(node.value, (dict, list)) and id(node) not in self._weights
            ):
                raise self._error(f"`*{event.anchor}` names no value before it", mark)
            return node
        value: Any
        if isinstance(event, yaml.MappingStartEvent):
            value = {}
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
        else:
            value = self._scalar(event)
        node = Node(value, mark.line + 1, mark.column + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any) -> Any:
        """The value of a plain scalar by the rules of YAML 1.1, but dates and the like stay text."""
        tag = event.tag or self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag not in _SCALAR_TAGS:
            return event.value
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError) as error:
            raise self._error(
                f"cannot read {event.value[:40]!r}: {error}", event.start_mark
            ) from error

    def _error(self, message: str, mark: Any) -> BadConfig:
        return bad_config(message, file=self._file, line=mark.line + 1, column=mark.column + 1)


_NO_KEY = object()
