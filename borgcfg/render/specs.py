"""Owns specs as plain values in the schema of configs: what ``eval`` prints and a config may hold. Pure."""

from typing import Any

import msgspec
from borgcell.specs import JobSpec, TaskSpec

Plain = dict[str, Any]


def spec_plain(spec: JobSpec) -> Plain:
    """A job in the schema of configs; overrides hold only the fields that differ from the job's task."""
    plain: Plain = msgspec.to_builtins(spec)
    task = plain["task"]
    plain["overrides"] = {
        index: {name: value for name, value in override.items() if value != task[name]}
        for index, override in plain["overrides"].items()
    }
    return plain


def task_spec_plain(spec: TaskSpec) -> Plain:
    """A task in the schema of configs."""
    plain: Plain = msgspec.to_builtins(spec)
    return plain
