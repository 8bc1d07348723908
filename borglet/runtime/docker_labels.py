"""Owns how a container of ours is named and labelled in the Docker Engine, and how it is read back.

Laws:
- Name and labels say everything a new Borglet must know to adopt a container; there is no other record.
- Two tasks never share a name: user, job and cell have no '.', so the parts can be read back one by one.
- A container is ours only if labels *and* name agree: images made from our containers inherit the labels.
"""

import hashlib
from collections.abc import Mapping

import msgspec
from borgcell.resources import Resources
from borgcell.types import TaskKey

from borglet.runtime.port import ContainerId, ContainerSpec

CELL = "borg.cell"
MACHINE = "borg.machine"
USER = "borg.user"
JOB = "borg.job"
INDEX = "borg.index"
INCARNATION = "borg.incarnation"
SPEC = "borg.spec"
LIMIT = "borg.limit"
PORTS = "borg.ports"


def container_name(cell: str, machine: str, id: ContainerId) -> str:
    """The one name of this attempt of a task on this machine."""
    task = id.task
    return f"borg.{cell}.{machine}.{task.user}.{task.job}.{task.index}.{id.incarnation}"


def labels_of(cell: str, machine: str, spec: ContainerSpec) -> dict[str, str]:
    """Labels of the container that runs ``spec``."""
    task = spec.id.task
    return {
        CELL: cell,
        MACHINE: machine,
        USER: task.user,
        JOB: task.job,
        INDEX: str(task.index),
        INCARNATION: str(spec.id.incarnation),
        SPEC: spec_hash(spec),
        LIMIT: msgspec.json.encode(spec.limit).decode(),
        PORTS: msgspec.json.encode(spec.ports, order="sorted").decode(),
    }


def selector(cell: str, machine: str) -> list[str]:
    """The label filter that finds every container of this cell and machine."""
    return [f"{CELL}={cell}", f"{MACHINE}={machine}"]


def id_in(labels: Mapping[str, str], *, cell: str, machine: str, name: str) -> ContainerId | None:
    """Whose container this is, or None if it is not one of this cell and machine."""
    try:
        task = TaskKey(labels[USER], labels[JOB], int(labels[INDEX]))
        id = ContainerId(task, int(labels[INCARNATION]))
    except (KeyError, ValueError):
        return None
    ours = labels.get(CELL) == cell and labels.get(MACHINE) == machine
    return id if ours and name.removeprefix("/") == container_name(cell, machine, id) else None


def limit_in(labels: Mapping[str, str]) -> Resources:
    """The limit it was started with; nothing if the label is damaged."""
    try:
        return msgspec.json.decode(labels.get(LIMIT, "{}"), type=Resources)
    except msgspec.MsgspecError:
        return Resources()


def ports_in(labels: Mapping[str, str]) -> dict[str, int]:
    """Its assigned ports by name; none if the label is damaged."""
    try:
        return msgspec.json.decode(labels.get(PORTS, "{}"), type=dict[str, int])
    except msgspec.MsgspecError:
        return {}


def spec_hash(spec: ContainerSpec) -> str:
    """16 hex digits that change when anything of the spec does."""
    return hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()[:16]
