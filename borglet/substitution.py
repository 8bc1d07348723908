"""Owns what a task finds on its command line and in its environment. Pure.

``%port:NAME%``, ``%index%``, ``%job%``, ``%user%``, ``%cell%`` and ``%machine%`` are replaced, ``%%`` becomes
``%``; every other ``%`` stays as it is, so that ``date +%Y-%m`` needs no care.
"""

import re
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from borglet.runtime.port import ContainerSpec
from borglet.values import Desired

_PATTERN = re.compile(r"%(?:(%)|port:([^%\s]*)%|(index|job|user|cell|machine)%)")


class Place(Struct, frozen=True):
    """Where a task runs."""

    cell: str
    machine: str


class UnknownPort(ValueError):
    """A text names a port that the task does not have; the message is for people."""


def substitute(text: str, words: Mapping[str, str], ports: Mapping[str, int]) -> str:
    """The text with our names replaced. Raises UnknownPort."""

    def replacement(match: re.Match[str]) -> str:
        percent, port, word = match.groups()
        if percent:
            return "%"
        if word:
            return words[word]
        if port not in ports:
            known = ", ".join(sorted(ports)) or "none"
            raise UnknownPort(f"%port:{port}% names no port of the task; it has: {known}")
        return str(ports[port])

    return _PATTERN.sub(replacement, text) if "%" in text else text


def container_spec(desired: Desired, place: Place) -> ContainerSpec:
    """What the runtime is to run. Raises UnknownPort."""
    spec, ports = desired.spec, desired.ports
    words = _words(desired, place)
    env = {name: substitute(value, words, ports) for name, value in spec.env.items()}
    return ContainerSpec(
        id=desired.id,
        argv=tuple(substitute(argument, words, ports) for argument in spec.argv),
        env=env | identity_env(desired, place),  # ours last: a task cannot pose as another
        limit=spec.limit,
        pids_max=spec.pids_max,
        image=spec.image,
        ports=ports,
        priority=desired.priority,
    )


def with_probe_substituted(desired: Desired, place: Place) -> Desired:
    """The same with its exec probe's command substituted. Raises UnknownPort."""
    check = desired.spec.health
    if check is None or not check.exec:
        return desired
    words = _words(desired, place)
    argv = tuple(substitute(argument, words, desired.ports) for argument in check.exec)
    return replace(desired, spec=replace(desired.spec, health=replace(check, exec=argv)))


def identity_env(desired: Desired, place: Place) -> dict[str, str]:
    """Who the task is and which ports it has; ``PORT_<NAME>`` in capitals with '-' as '_'."""
    task = desired.id.task
    ports = {
        f"PORT_{name.upper().replace('-', '_')}": str(port) for name, port in desired.ports.items()
    }
    return {
        "BORG_CELL": place.cell,
        "BORG_USER": task.user,
        "BORG_JOB": task.job,
        "BORG_INDEX": str(task.index),
        "BORG_INCARNATION": str(desired.id.incarnation),
        "BORG_MACHINE": place.machine,
        **ports,
    }


def _words(desired: Desired, place: Place) -> dict[str, str]:
    task = desired.id.task
    return {
        "index": str(task.index),
        "job": task.job,
        "user": task.user,
        "cell": place.cell,
        "machine": place.machine,
    }
