"""Owns the one schema of configs: which fields there are, which shorthands stand for them, what type each has.

Starlark, YAML and JSON all end here. The field names and types are those of ``borgcell.specs``; the shorthands
(`resources`, `cpu`, `ram`, `disk`, `grace`, `interval`, `timeout`, a band's name as `priority`) are normalised by
``canonical`` and by nothing else. Pure.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec
from borgcell.resources import Resources
from borgcell.specs import Constraint, HealthCheck, JobSpec, TaskSpec, UpdatePolicy
from borgcell.types import JobKind, RuntimeKind

from borgcfg.lang import units
from borgcfg.lang.diagnostics import Fault, FieldPath, did_you_mean

Plain = dict[str, Any]  # what YAML, JSON and Starlark leave: dicts, lists, texts, numbers
FAULTS_MAX: Final = 100  # found in one value before giving up


class Shorthand(NamedTuple):
    """A field that users may write instead of another one."""

    field: str
    read: Callable[[object], int] | None  # None: the value is the same, only the name differs


STRUCTS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "job": JobSpec,
    "task": TaskSpec,
    "resources": Resources,
    "health": HealthCheck,
    "constraint": Constraint,
    "update": UpdatePolicy,
}
SHORTHANDS: Final[Mapping[str, Mapping[str, Shorthand]]] = {
    "task": {
        "resources": Shorthand("limit", None),
        "grace": Shorthand("grace_ms", units.duration_ms),
    },
    "resources": {
        "cpu": Shorthand("cpu_milli", units.cpu_milli),
        "ram": Shorthand("ram_bytes", units.size_bytes),
        "disk": Shorthand("disk_bytes", units.size_bytes),
    },
    "health": {
        "interval": Shorthand("interval_ms", units.duration_ms),
        "timeout": Shorthand("timeout_ms", units.duration_ms),
        "grace": Shorthand("grace_ms", units.duration_ms),
    },
}
# What a field was called by the user, for finding it in the file: canonical name -> shorthand.
SPELLINGS: Final[Mapping[str, str]] = {
    shorthand.field: name for table in SHORTHANDS.values() for name, shorthand in table.items()
}
# Words of other systems, so that their users are told ours.
SYNONYMS: Final[dict[str, str]] = {
    "replicas": "task_count",
    "instances": "task_count",
    "count": "task_count",
    "tasks": "task_count",
    "size": "task_count",
    "cmd": "argv",
    "cmdline": "argv",
    "command": "argv",
    "args": "argv",
    "entrypoint": "argv",
    "environment": "env",
    "owner": "user",
    "role": "user",
    "type": "kind",
    "service": "kind",
    "appclass": "kind",
    "requests": "resources",
    "limits": "resources",
    "memory": "ram",
    "mem": "ram",
    "cpus": "cpu",
    "healthcheck": "health",
    "health_check": "health",
    "package": "image",
    "container": "image",
    "interval_s": "interval",
    "timeout_s": "timeout",
    "failures": "failures_max",
    "max_failures": "failures_max",
    "attr": "attribute",
    "key": "attribute",
    "operator": "op",
    "hard": "soft",
    "override": "overrides",
    "parallelism": "max_in_flight",
    "kill_timeout": "grace",
    "affinity": "constraints",
}
_CHILDREN: Final = {
    ("job", "task"): "task",
    ("job", "update"): "update",
    ("task", "limit"): "resources",
    ("task", "health"): "health",
}
_LIMIT_DEFAULT: Final[Plain] = msgspec.structs.asdict(TaskSpec().limit)
_NULLABLE: Final = {("task", "health")}
_TYPE_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def canonical(kind: str, value: object) -> tuple[Plain, list[Fault]]:
    """The value with every shorthand replaced and every leaf of its type, and all that is wrong with it.

    Required fields are not asked for (see ``missing``): an override gives only what differs.
    """
    if not isinstance(value, dict):
        return {}, [Fault((), f"expected a mapping of {kind} fields, got {type_word(value)}")]
    plain: Plain = {}
    faults: list[Fault] = []
    given_as: dict[str, str] = {}
    for name, item in value.items():
        if len(faults) >= FAULTS_MAX:
            break
        field, fault = _field(kind, name)
        if fault is not None:
            faults.append(fault)
            continue
        if field in given_as:
            faults.append(
                Fault(
                    (name,),
                    f"`{name}` and `{given_as[field]}` say the same: give one of them",
                    names_field=True,
                )
            )
            continue
        given_as[field] = name
        plain[field], found = _field_value(kind, name, field, item)
        faults += (fault.under(name) for fault in found)
    return plain, faults


def missing(kind: str, plain: Plain) -> list[Fault]:
    """A fault for every required field that is not there."""
    return [
        Fault((), f"{kind} has no `{name}`", f"add `{name}`")
        for name, required in _fields(kind).items()
        if required and name not in plain
    ]


def job_spec(value: object) -> tuple[JobSpec | None, list[Fault]]:
    """The job that a plain value describes, or all that is wrong with it. Ranges are for ``specs.problems``."""
    plain, faults = canonical("job", value)
    if isinstance(value, dict):
        faults += missing("job", plain)
    if faults:
        return None, faults
    plain["task"] = _over({"limit": _LIMIT_DEFAULT}, plain["task"])
    plain["overrides"] = {
        index: _over(plain["task"], override)
        for index, override in plain.get("overrides", {}).items()
    }
    return msgspec.convert(plain, JobSpec, strict=True), []


def _over(base: Plain, task: Plain) -> Plain:
    """The base with the fields of ``task`` over it; of a limit, only the given quantities."""
    return {**base, **task, "limit": {**base["limit"], **task.get("limit", {})}}


def _field(kind: str, name: object) -> tuple[str, Fault | None]:
    fields = _fields(kind)
    shorthands = SHORTHANDS.get(kind, {})
    if isinstance(name, str):
        if name in fields:
            return name, None
        if name in shorthands:
            return shorthands[name].field, None
    text = str(name)
    hint = did_you_mean(text, [*fields, *shorthands], SYNONYMS)
    known = ", ".join([*shorthands, *(f for f in fields if f not in SPELLINGS)])
    return "", Fault(
        (text,),
        f"unknown field `{text[:80]}` in {kind}",
        hint or f"{kind} has {known}",
        names_field=True,
    )


def _field_value(kind: str, name: str, field: str, item: object) -> tuple[Any, list[Fault]]:
    if item is None and (kind, field) in _NULLABLE:
        return None, []
    if (kind, field) == ("job", "priority"):
        return _read(units.priority, item)
    if (kind, field) == ("job", "overrides"):
        return _overrides(item)
    if (kind, field) == ("job", "constraints"):
        return _constraints(item)
    child = _CHILDREN.get((kind, field))
    if child is not None:
        return canonical(child, item)
    shorthand = SHORTHANDS.get(kind, {}).get(name)
    if shorthand is not None and shorthand.read is not None:
        return _read(shorthand.read, item)
    return item, _leaf_faults(_types(kind)[field], item)


def _read(reader: Callable[[object], int], item: object) -> tuple[int, list[Fault]]:
    try:
        return reader(item), []
    except units.BadUnit as error:
        return 0, [Fault((), str(error), error.hint)]


def _constraints(item: object) -> tuple[list[Plain], list[Fault]]:
    if not isinstance(item, list):
        return [], [Fault((), f"expected a list of constraints, got {type_word(item)}")]
    constraints: list[Plain] = []
    faults: list[Fault] = []
    for position, each in enumerate(item[:FAULTS_MAX]):
        plain, found = canonical("constraint", each)
        if isinstance(each, dict):
            found = [*found, *missing("constraint", plain)]
        faults += (fault.under(position) for fault in found)
        constraints.append(plain)
    if len(item) > FAULTS_MAX:
        faults.append(Fault((), f"has {len(item)} constraints"))
    return constraints, faults


def _overrides(item: object) -> tuple[dict[int, Plain], list[Fault]]:
    if not isinstance(item, dict):
        return {}, [Fault((), f"expected a mapping from index to task, got {type_word(item)}")]
    overrides: dict[int, Plain] = {}
    faults: list[Fault] = []
    for key, each in item.items():
        if len(faults) >= FAULTS_MAX:
            break
        index = _index(key)
        if index is None:
            message = f"`{str(key)[:40]}` is no task index such as 0"
            faults.append(Fault((str(key),), message, names_field=True))
            continue
        if index in overrides:
            message = f"task {index} is overridden twice"
            faults.append(Fault((str(key),), message, names_field=True))
            continue
        overrides[index], found = canonical("task", each)
        faults += (fault.under(index) for fault in found)
    return overrides, faults


def _index(key: object) -> int | None:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 9:
        return int(key)
    return None


def _leaf_faults(expected: Any, item: object) -> list[Fault]:
    """Faults of a field that holds no struct: numbers, texts, lists of texts, maps of texts."""
    if expected == dict[str, str] and isinstance(item, dict):
        return [
            Fault((str(key),), _type_message("str", value), _quoted("str", value))
            for key, value in item.items()
            if not isinstance(value, str)
        ][:FAULTS_MAX]
    try:
        msgspec.convert(item, expected, strict=True)
    except msgspec.ValidationError as error:
        return [_type_fault(expected, item, str(error))]
    return []


_EXPECTED = re.compile(r"Expected `(?P<expected>[^`]*)`")
_POSITION = re.compile(r"at `\$\[(\d+)\]")


def _type_fault(expected: Any, item: object, text: str) -> Fault:
    found = _POSITION.search(text)
    path: FieldPath = ()
    if found is not None and isinstance(item, list):
        path, item = (int(found[1]),), item[int(found[1])]
    if isinstance(item, str) and isinstance(expected, type) and issubclass(expected, str):
        known = [str(choice) for choice in expected] if issubclass(expected, _ENUMS) else []
        return Fault(
            path,
            f"{item[:80]!r} is not one of {', '.join(known)}",
            did_you_mean(item, known, {"cron": "batch", "daemon": "service"}),
        )
    wanted = _EXPECTED.search(text)
    if wanted is None:
        return Fault(path, text)
    return Fault(path, _type_message(wanted["expected"], item), _quoted(wanted["expected"], item))


def _quoted(wanted: str, item: object) -> str:
    """The hint for those who left out the quotes of a number."""
    is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
    return f'write "{item}"' if wanted == "str" and is_number and len(str(item)) < 20 else ""


def _type_message(wanted: str, item: object) -> str:
    words = " or ".join(_TYPE_WORDS.get(part, part) for part in wanted.split(" | "))
    return f"expected {words}, got {type_word(item)}"


def type_word(item: object) -> str:
    """What a plain value is, for people, with the value when it is short: ``the text "x"``."""
    match item:
        case None:
            return "nothing"
        case bool():
            return str(item).lower()
        case int() | float():
            text = repr(item)
            return f"the number {text if len(text) <= 40 else text[:37] + '...'}"
        case str():
            return f"the text {item[:40]!r}"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(item).__name__}"


_ENUMS: Final = (JobKind, RuntimeKind, type(Constraint("x").op))


@cache
def _fields(kind: str) -> dict[str, bool]:
    """Fields of a kind, each with whether it must be given."""
    return {info.name: info.required for info in msgspec.structs.fields(STRUCTS[kind])}


@cache
def _types(kind: str) -> dict[str, Any]:
    return {info.name: info.type for info in msgspec.structs.fields(STRUCTS[kind])}
