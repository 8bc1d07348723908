"""Owns the decisions about machines: known or not, up or down, draining, what they offer."""

from typing import Final

from borgcell.resources import DIMENSIONS
from borgcell.specs import Problem
from borgcell.types import EventKind, TaskState, is_machine_name
from msgspec.structs import replace

from borgmaster.state.commands import (
    AddMachine,
    MarkMachine,
    RemoveMachine,
    SetDraining,
    SetMachineFacts,
)
from borgmaster.state.draft import Draft
from borgmaster.state.endings import lose_task
from borgmaster.state.events import MachineForgotten, Note
from borgmaster.state.model import Machine, Task
from borgmaster.state.outcome import Accepted, Code, Outcome, Rejected

MACHINES_MAX: Final = 50_000  # five times the largest cells of B15 §2.2
ADDRESS_LENGTH_MAX: Final = 256
ATTRIBUTES_MAX: Final = 256
TEXT_LENGTH_MAX: Final = 256
DETAIL_LENGTH_MAX: Final = 1_024
QUANTITY_MAX: Final = 1 << 60
PORT_MAX: Final = 65_535


def add_machine(draft: Draft, command: AddMachine) -> Outcome:
    """Make a machine known, or change its address."""
    found = []
    if not is_machine_name(command.name):
        message = (
            f"{command.name[:80]!r} is not a machine name: use 1 to 63 letters, digits, "
            "and inner '.', '-' or '_'"
        )
        found.append(Problem("name", message))
    if not 0 < len(command.address) <= ADDRESS_LENGTH_MAX or not command.address.isprintable():
        found.append(
            Problem("address", f"{command.address[:80]!r} is not an address such as host:9000")
        )
    if found:
        return _invalid(found)
    known = draft.machine(command.name)
    if known is not None:
        if known.address == command.address:
            return Accepted(changed=False)
        note = Note(EventKind.UPDATE, detail=f"address {command.address}")
        draft.put_machine(replace(known, address=command.address), note)
        return Accepted()
    if len(draft.cell.machines) >= MACHINES_MAX:
        return Rejected(Code.RESOURCE_EXHAUSTED, f"the cell has {MACHINES_MAX} machines already")
    machine = Machine(command.name, command.address, draft.now_ms, draft.now_ms)
    draft.put_machine(machine, Note(EventKind.ADD, detail=f"address {command.address}"))
    return Accepted(created=True)


def remove_machine(draft: Draft, command: RemoveMachine) -> Outcome:
    """Forget a machine; with ``force`` also when tasks are placed on it."""
    if draft.machine(command.name) is None:
        return _unknown(command.name)
    tasks = _tasks_on(draft, command.name)
    if tasks and not command.force:
        return Rejected(
            Code.FAILED_PRECONDITION,
            f"{command.name} has {len(tasks)} tasks: drain it first, or force it and lose them",
        )
    for task in tasks:
        lose_task(draft, task, f"{command.name} was removed")
    draft.events.append(MachineForgotten(command.name, Note(EventKind.REMOVE)))
    return Accepted(tasks_affected=len(tasks))


def set_draining(draft: Draft, command: SetDraining) -> Outcome:
    """Start or end the emptying of a machine; the drain controller moves its tasks."""
    machine = draft.machine(command.name)
    if machine is None:
        return _unknown(command.name)
    affected = len(_tasks_on(draft, command.name))
    if machine.draining == command.draining:
        return Accepted(changed=False, tasks_affected=affected)
    draft.put_machine(
        replace(machine, draining=command.draining, since_ms=draft.now_ms),
        Note(EventKind.UPDATE, detail="draining" if command.draining else "no longer draining"),
    )
    return Accepted(tasks_affected=affected)


def mark_machine(draft: Draft, command: MarkMachine) -> Outcome:
    """Take over whether a machine answers. Its tasks rejoin one by one, as they are reported."""
    machine = draft.machine(command.name)
    if machine is None:
        return _unknown(command.name)
    if machine.up == command.up:
        return Accepted(changed=False)
    if command.up:
        mark_up(draft, command.name, command.detail)
        return Accepted()
    detail = command.detail[:DETAIL_LENGTH_MAX] or "does not answer"
    draft.put_machine(
        replace(machine, up=False, since_ms=draft.now_ms, detail=detail),
        Note(EventKind.UPDATE, detail=f"down: {detail}"),
    )
    affected = 0
    for task in _tasks_on(draft, command.name):
        if task.state is not TaskState.PARTITIONED:
            note = Note(EventKind.PARTITION, task.current.number, command.name, detail=detail)
            draft.put_task(replace(task, healthy=False), note)
            affected += 1
    return Accepted(tasks_affected=affected)


def mark_up(draft: Draft, name: str, detail: str = "") -> None:
    """Decide that a known machine answers, if that is not known."""
    machine = draft.machine(name)
    assert machine is not None, f"there is no machine {name}"
    if machine.up:
        return
    draft.put_machine(
        replace(machine, up=True, since_ms=draft.now_ms, detail=detail[:DETAIL_LENGTH_MAX]),
        Note(EventKind.UPDATE, detail="up"),
    )


def set_machine_facts(draft: Draft, command: SetMachineFacts) -> Outcome:
    """Take over what a machine offers, which also shows that it is up.

    ``capacity.ports`` is always the size of the port range.
    """
    machine = draft.machine(command.name)
    if machine is None:
        return _unknown(command.name)
    if found := _facts_problems(command):
        return _invalid(found)
    ports = max(0, command.port_last - command.port_first + 1)
    capacity = replace(command.capacity, ports=ports)
    after = replace(
        machine,
        up=True,
        since_ms=machine.since_ms if machine.up else draft.now_ms,
        capacity=capacity,
        attributes=command.attributes,
        port_first=command.port_first,
        port_last=command.port_last,
        detail=command.detail,
    )
    if after == machine:
        return Accepted(changed=False)
    draft.put_machine(after, Note(EventKind.UPDATE, detail=_what_changed(machine, after)))
    return Accepted()


def _tasks_on(draft: Draft, machine: str) -> list[Task]:
    return sorted(draft.tasks_on(machine), key=lambda task: task.key)


def _unknown(name: str) -> Rejected:
    return Rejected(Code.NOT_FOUND, f"there is no machine {name}")


def _invalid(found: list[Problem]) -> Rejected:
    return Rejected(Code.INVALID_ARGUMENT, "; ".join(map(str, found)), tuple(found))


def _facts_problems(command: SetMachineFacts) -> list[Problem]:
    found = [
        Problem(f"capacity.{dimension}", f"{amount} is not in 0..{QUANTITY_MAX}")
        for dimension, amount in zip(DIMENSIONS, command.capacity.as_tuple(), strict=True)
        if not 0 <= amount <= QUANTITY_MAX
    ]
    if command.port_first <= command.port_last and not (
        0 < command.port_first <= command.port_last <= PORT_MAX
    ):
        message = f"{command.port_first}..{command.port_last} is not in 1..{PORT_MAX}"
        found.append(Problem("port_first", message))
    if len(command.attributes) > ATTRIBUTES_MAX:
        count = len(command.attributes)
        found.append(Problem("attributes", f"has {count} entries; at most {ATTRIBUTES_MAX}"))
    found.extend(
        Problem(f"attributes[{name[:80]!r}]", f"needs 1 to {TEXT_LENGTH_MAX} characters each")
        for name, value in command.attributes.items()
        if not 0 < len(name) <= TEXT_LENGTH_MAX or len(value) > TEXT_LENGTH_MAX
    )
    if len(command.detail) > DETAIL_LENGTH_MAX:
        found.append(Problem("detail", f"is longer than {DETAIL_LENGTH_MAX} characters"))
    return found


def _what_changed(before: Machine, after: Machine) -> str:
    changes = [] if before.up else ["up"]
    if before.capacity != after.capacity:
        changes.append(f"offers {after.capacity}")
    if before.attributes != after.attributes:
        changes.append("attributes changed")
    if (before.port_first, before.port_last) != (after.port_first, after.port_last):
        changes.append(f"ports {after.port_first}..{after.port_last}")
    if after.detail and (before.detail != after.detail or not before.up):
        changes.append(f"not ready: {after.detail}")
    elif before.detail and before.up:
        changes.append("ready")
    return "; ".join(changes)
