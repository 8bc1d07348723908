"""Owns whether a placement still fits, which ports it gets, and what it costs its victims."""

from typing import Final

from borgcell.priority import may_preempt
from borgcell.resources import fits, total
from borgcell.specs import JobSpec
from borgcell.types import EndReason, EventKind, EvictionCause, TaskState
from msgspec.structs import replace

from borgmaster.state.commands import Placed, PlaceTasks
from borgmaster.state.draft import Draft
from borgmaster.state.endings import stop_task
from borgmaster.state.events import Note
from borgmaster.state.model import Machine, Stopping, Task
from borgmaster.state.outcome import Accepted, Outcome

RACK: Final = "rack"  # the attribute that max_per_rack counts by


def place_tasks(draft: Draft, command: PlaceTasks) -> Outcome:
    """Accept each placement that still fits, one after the other."""
    placed = sum(_place(draft, placement) for placement in command.placements)
    return Accepted(changed=placed > 0, tasks_affected=placed)


def _place(draft: Draft, placement: Placed) -> bool:
    task = draft.current(placement.task, placement.incarnation)
    machine = draft.machine(placement.machine)
    if task is None or machine is None or not _may_be_placed(draft, task, machine):
        return False
    victims = _victims(draft, task, placement)
    if victims is None:
        return False
    free = machine.capacity - draft.held_on(machine.name) + total(v.held for v in victims)
    spec = draft.job_of(task).spec
    if not fits(task.limit, free) or not _is_spread_enough(draft, spec, machine, victims):
        return False
    names = spec.task_spec(task.key.index).ports
    numbers = _choose_ports(draft, machine, len(names), victims)
    if numbers is None:
        return False
    for victim in victims:
        _preempt(draft, victim, task)
    if numbers:
        draft.put_machine(replace(machine, port_next=numbers[-1] + 1))
    current = replace(
        task.current,
        machine=machine.name,
        ports=dict(zip(names, numbers, strict=True)),
        scheduled_at_ms=draft.now_ms,
    )
    draft.put_task(replace(task, current=current), _schedule_note(task, machine, victims))
    return True


def _may_be_placed(draft: Draft, task: Task, machine: Machine) -> bool:
    """Whether both are ready for it, apart from the room."""
    if task.state is not TaskState.PENDING or draft.now_ms < task.not_before_ms:
        return False
    constraints = draft.job_of(task).spec.task_constraints(task.key.index)
    return machine.takes_tasks and all(
        constraint.soft or constraint.holds(machine.attributes) for constraint in constraints
    )


def _victims(draft: Draft, task: Task, placement: Placed) -> list[Task] | None:
    """The tasks to evict, each once; None when one of them is not there for this task to evict."""
    victims = []
    for key, incarnation in dict.fromkeys(placement.victims):
        victim = draft.current(key, incarnation)
        if (
            victim is None
            or victim.machine != placement.machine
            or (victim.stopping is not None and victim.stopping.by is not None)
            or not may_preempt(task.priority, victim.priority)
        ):
            return None
        victims.append(victim)
    return victims


def _is_spread_enough(draft: Draft, spec: JobSpec, machine: Machine, victims: list[Task]) -> bool:
    """Whether the job's limits per machine and per rack hold with one more task on this machine."""
    leaving = sum(victim.key.job_key == spec.key for victim in victims)
    if spec.max_per_machine:
        here = draft.spread_on(spec.key, machine.name)
        if here - leaving >= spec.max_per_machine:
            return False
    if not spec.max_per_rack:
        return True
    rack = _rack_of(machine)
    in_rack = sum(
        draft.spread_on(spec.key, name)
        for name in draft.machines_of(spec.key)
        if (other := draft.machine(name)) is not None and _rack_of(other) == rack
    )
    return in_rack - leaving < spec.max_per_rack


def _rack_of(machine: Machine) -> tuple[str, str]:
    """The rack it stands in; a machine that does not say is a rack of its own."""
    rack = machine.attributes.get(RACK, "")
    return (RACK, rack) if rack else ("machine", machine.name)


def _choose_ports(
    draft: Draft, machine: Machine, count: int, victims: list[Task]
) -> tuple[int, ...] | None:
    """Ports in rotation, so that none is used again at once; those of victims only when no others are left.

    Tasks that are leaving keep their ports until they have ended, whoever owns their room.
    """
    if count == 0:
        return ()
    span = machine.port_last - machine.port_first + 1
    if span < count:
        return None
    used: set[int] = set()
    for task in draft.tasks_on(machine.name):
        used.update(task.current.ports.values())
    of_victims = {port for victim in victims for port in victim.current.ports.values()}
    start = machine.port_next - machine.port_first
    if not 0 <= start < span:
        start = 0
    free: list[int] = []
    fallback: list[int] = []
    for step in range(span):
        port = machine.port_first + (start + step) % span
        if port not in used:
            free.append(port)
            if len(free) == count:
                return tuple(free)
        elif port in of_victims:
            fallback.append(port)
    if len(free) + len(fallback) < count:
        return None
    return tuple(free + fallback[: count - len(free)])


def _preempt(draft: Draft, victim: Task, by: Task) -> None:
    """Tell a victim to stop, and give its room away; one that was stopping keeps the reason it had."""
    before = victim.stopping
    if before is not None:
        detail = f"{before.detail}; its room goes to {by.key}".removeprefix("; ")
        stop_task(draft, victim, replace(before, by=by.key, detail=detail))
        return
    stopping = Stopping(
        EndReason.EVICTED,
        draft.now_ms,
        cause=EvictionCause.PREEMPTION,
        by=by.key,
        detail=f"preempted by {by.key}",
    )
    stop_task(draft, victim, stopping)


def _schedule_note(task: Task, machine: Machine, victims: list[Task]) -> Note:
    return Note(
        EventKind.SCHEDULE,
        incarnation=task.current.number,
        machine=machine.name,
        counterpart=str(victims[0].key) if victims else "",
        detail=f"preempts {', '.join(str(victim.key) for victim in victims)}" if victims else "",
    )
