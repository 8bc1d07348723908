"""Owns how entries of the log change a cell: decide reads, evolve writes, and nothing else does either.

Applying is total and the same on every replica: what cannot be decided becomes a refusal, never an exception.
"""

import traceback
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from borgmaster.state import jobs, machines, placing, tasks
from borgmaster.state.cell import CellState
from borgmaster.state.commands import (
    AddMachine,
    Command,
    EvictTasks,
    ForgetJobs,
    KillJob,
    LoseTasks,
    MarkMachine,
    PlaceTasks,
    RemoveMachine,
    ReportTasks,
    SetDraining,
    SetMachineFacts,
    SubmitJob,
    UpdateTasks,
)
from borgmaster.state.draft import Draft
from borgmaster.state.entry import ENTRY_VERSION, Entry, Proposal, decode_entry
from borgmaster.state.events import (
    Event,
    JobChanged,
    JobForgotten,
    MachineChanged,
    MachineForgotten,
    Note,
    Recorded,
    RequestAnswered,
    RequestsForgotten,
    TaskChanged,
    TaskForgotten,
)
from borgmaster.state.outcome import Accepted, Code, Outcome, Rejected


class Decided(Struct, frozen=True):
    """A command accepted: what happens, in order, and the answer."""

    events: tuple[Event, ...]
    accepted: Accepted


class Applied(Struct, frozen=True):
    """What an entry did: one outcome per proposal, the events in order, and their lines in the history.

    ``faults`` are tracebacks of our own bugs for the shell to log; they are not replicated.
    """

    outcomes: tuple[Outcome, ...]
    events: tuple[Event, ...] = ()
    recorded: tuple[Recorded, ...] = ()
    faults: tuple[str, ...] = ()


def decide(cell: CellState, command: Command, now_ms: int) -> Decided | Rejected:
    """What a command would do to the cell. Reads the cell, never changes it."""
    draft = Draft(cell, now_ms)
    outcome = _dispatch(draft, command)
    if isinstance(outcome, Rejected):
        return outcome
    draft.settle()
    return Decided(tuple(draft.events), outcome)


def _dispatch(draft: Draft, command: Command) -> Outcome:  # noqa: C901 - one case per command
    match command:
        case SubmitJob():
            return jobs.submit_job(draft, command)
        case KillJob():
            return jobs.kill_job(draft, command)
        case ForgetJobs():
            return jobs.forget_jobs(draft, command)
        case PlaceTasks():
            return placing.place_tasks(draft, command)
        case ReportTasks():
            return tasks.report_tasks(draft, command)
        case LoseTasks():
            return tasks.lose_tasks(draft, command)
        case EvictTasks():
            return tasks.evict_tasks(draft, command)
        case UpdateTasks():
            return tasks.update_tasks(draft, command)
        case AddMachine():
            return machines.add_machine(draft, command)
        case RemoveMachine():
            return machines.remove_machine(draft, command)
        case SetDraining():
            return machines.set_draining(draft, command)
        case MarkMachine():
            return machines.mark_machine(draft, command)
        case SetMachineFacts():
            return machines.set_machine_facts(draft, command)
        case _:
            assert_never(command)


def evolve(cell: CellState, event: Event, index: int, at_ms: int) -> list[Recorded]:
    """Record one fact; the lines it adds to the history. Assignments only, so that it cannot fail half-way."""
    subject, key, notes = "", "", tuple[Note, ...]()
    match event:
        case TaskChanged():
            cell.put_task(event.task)
            subject, key, notes = "task", str(event.task.key), event.notes
        case TaskForgotten():
            cell.drop_task(event.task)
        case JobChanged():
            cell.jobs[event.job.key] = event.job
            subject, key, notes = "job", str(event.job.key), _maybe(event.note)
        case JobForgotten():
            cell.drop_job(event.job)
        case MachineChanged():
            cell.put_machine(event.machine)
            subject, key, notes = "machine", event.machine.name, _maybe(event.note)
        case MachineForgotten():
            cell.drop_machine(event.name)
            subject, key, notes = "machine", event.name, _maybe(event.note)
        case RequestAnswered():
            cell.put_request(event.request_id, event.at_ms, event.outcome)
        case RequestsForgotten():
            cell.drop_requests(event.before_ms)
        case _:
            assert_never(event)
    return [cell.record(index, at_ms, subject, key, note) for note in notes]


def apply_entry(cell: CellState, index: int, entry: Entry) -> Applied:
    """Apply a committed entry. Time never goes back, whatever the proposers' clocks do."""
    if entry.version > ENTRY_VERSION:
        return _apply_unknown(cell, index, f"entry version {entry.version}", len(entry.proposals))
    cell.now_ms = max(cell.now_ms, entry.at_ms)
    cell.applied_index = index
    outcomes: list[Outcome] = []
    events: list[Event] = []
    recorded: list[Recorded] = []
    faults: list[str] = []
    for proposal in entry.proposals:
        known = cell.requests.get(proposal.request_id) if proposal.request_id else None
        if known is not None:
            outcomes.append(known[1])
            continue
        outcome, happened = _answer(cell, index, proposal, faults)
        for event in happened:
            recorded += evolve(cell, event, index, cell.now_ms)
        outcomes.append(outcome)
        events += happened
    return Applied(tuple(outcomes), tuple(events), tuple(recorded), tuple(faults))


def apply_bytes(cell: CellState, index: int, data: bytes) -> Applied:
    """Apply an entry as it stands in the log; bytes that this version cannot read change nothing but the index."""
    try:
        entry = decode_entry(data)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - the log retries what raises, for ever (STYLE §4.5)
        return _apply_unknown(cell, index, f"entry that is not one ({type(error).__name__})", 1)
    return apply_entry(cell, index, entry)


def _answer(
    cell: CellState, index: int, proposal: Proposal, faults: list[str]
) -> tuple[Outcome, list[Event]]:
    """Decide one proposal; a bug of ours becomes the same refusal on every replica, as nothing was written yet."""
    outcome: Outcome
    happened: list[Event] = []
    try:
        decided = decide(cell, proposal.command, cell.now_ms)
    except (MemoryError, RecursionError):  # these are not deterministic: die and come back
        raise
    except Exception as error:  # noqa: BLE001 - see above
        faults.append(traceback.format_exc())
        name = type(proposal.command).__name__
        # Only the type: a message could hold what differs between replicas.
        outcome = Rejected(Code.INTERNAL, f"{type(error).__name__} in {name}: this is a bug")
    else:
        if isinstance(decided, Rejected):
            outcome = decided
        else:
            outcome = replace(decided.accepted, index=index)
            happened.extend(decided.events)
    if proposal.request_id:
        happened.append(RequestAnswered(proposal.request_id, cell.now_ms, outcome))
    return outcome, happened


def _apply_unknown(cell: CellState, index: int, what: str, count: int) -> Applied:
    cell.applied_index = index
    refusal = Rejected(
        Code.UNIMPLEMENTED, f"this replica does not know {what}: it may be older than its leader"
    )
    return Applied((refusal,) * max(1, count))


def _maybe(note: Note | None) -> tuple[Note, ...]:
    return () if note is None else (note,)
