"""Builders of cell values: everything that a test is not about has a sensible default.

``a_cell`` puts values together as they are; ``World`` lives a cell's life through commands, checking the
invariants after each.
"""

from collections.abc import Iterable, Sequence

from borgcell.resources import GIB, MIB, Resources
from borgcell.specs import JobSpec, TaskSpec, normalize
from borgcell.types import EndKind, EndReason, JobKey, JobKind, TaskKey, TaskPhase, TaskState
from msgspec.structs import replace

from borgmaster.state import invariants
from borgmaster.state.cell import CellState
from borgmaster.state.commands import (
    AddMachine,
    Command,
    Placed,
    PlaceTasks,
    Reported,
    ReportTasks,
    SetMachineFacts,
    SubmitJob,
)
from borgmaster.state.core import Applied, apply_bytes
from borgmaster.state.entry import Entry, Proposal, encode_entry
from borgmaster.state.model import Incarnation, Job, Machine, Task
from borgmaster.state.outcome import Accepted, Outcome

START_MS = 1_700_000_000_000
MACHINE_CAPACITY = Resources(cpu_milli=8_000, ram_bytes=16 * GIB, disk_bytes=100 * GIB)
ATTRIBUTES = {"runtime.native": "1", "runtime.docker": "1", "arch": "amd64"}


def a_limit(cpu_milli: int = 1_000, ram_bytes: int = 512 * MIB, disk_bytes: int = 0) -> Resources:
    return Resources(cpu_milli, ram_bytes, disk_bytes)


def a_task_spec(argv: Sequence[str] = ("/bin/server",), **fields) -> TaskSpec:
    return TaskSpec(argv=tuple(argv), **{"limit": a_limit(), **fields})


def a_spec(name: str = "ann/web", *, task: TaskSpec | None = None, **fields) -> JobSpec:
    """A valid job spec: a prod service of 1 task unless ``fields`` say otherwise."""
    key = JobKey.parse(name)
    given = {"priority": 200, **fields}
    return normalize(JobSpec(key.user, key.name, task or a_task_spec(), **given))


def a_batch_spec(name: str = "bob/count", **fields) -> JobSpec:
    return a_spec(name, **{"kind": JobKind.BATCH, "priority": 100, **fields})


def a_job(name: str = "ann/web", *, spec: JobSpec | None = None, version: int = 1, **fields) -> Job:
    """A job of ``spec``, or of ``a_spec`` with those of the fields that are a spec's."""
    own = {name: fields.pop(name) for name in ("older", "ended", "ended_at_ms") if name in fields}
    spec = spec or a_spec(name, **fields)
    return Job(spec, version, created_at_ms=START_MS, updated_at_ms=START_MS, **own)


def a_task(
    key: str | TaskKey = "ann/web/0",
    *,
    job: Job | None = None,
    state: TaskState | None = None,
    machine: str = "",
    incarnation: int = 1,
    **fields,
) -> Task:
    """A task of ``job``; PENDING, or RUNNING and healthy when it has a machine."""
    key = TaskKey.parse(key) if isinstance(key, str) else key
    job = job or a_job(str(key.job_key), task_count=key.index + 1)
    state = state or (TaskState.RUNNING if machine else TaskState.PENDING)
    spec = job.spec.task_spec(key.index)
    current = Incarnation(
        incarnation,
        job.version,
        START_MS,
        machine=machine,
        ports={name: 20_000 + offset for offset, name in enumerate(spec.ports)} if machine else {},
        scheduled_at_ms=START_MS if machine else 0,
        running_at_ms=START_MS if state is TaskState.RUNNING else 0,
        ended_at_ms=START_MS if state is TaskState.DEAD else 0,
        end_reason=EndReason.FINISHED if state is TaskState.DEAD else None,
    )
    given = {
        "priority": job.spec.priority,
        "limit": spec.limit,
        "healthy": state is TaskState.RUNNING,
        **fields,
    }
    return Task(key, state, current, **given)


def a_machine(name: str = "m1", *, capacity: Resources = MACHINE_CAPACITY, **fields) -> Machine:
    """A machine that is up and ready, with 100 ports from 20000."""
    first = fields.pop("port_first", 20_000)
    last = fields.pop("port_last", 20_099)
    given = {
        "address": f"{name}:9100",
        "added_at_ms": START_MS,
        "since_ms": START_MS,
        "up": True,
        "attributes": {**ATTRIBUTES, **fields.pop("attributes", {})},
        "port_first": first,
        "port_last": last,
        **fields,
    }
    return Machine(name, capacity=replace(capacity, ports=max(0, last - first + 1)), **given)


def a_cell(*parts: Job | Task | Machine, name: str = "test") -> CellState:
    """A cell of these values; jobs that only their tasks mention are made up."""
    cell = CellState(name)
    cell.now_ms = START_MS
    for part in parts:
        match part:
            case Machine():
                cell.put_machine(part)
            case Job():
                cell.jobs[part.key] = part
    tasks = [part for part in parts if isinstance(part, Task)]
    for task in tasks:
        key = task.key.job_key
        if key not in cell.jobs:
            count = 1 + max(other.key.index for other in tasks if other.key.job_key == key)
            spec = a_spec(
                str(key),
                task_count=count,
                priority=task.priority,
                task=a_task_spec(limit=replace(task.limit, ports=0)),
            )
            cell.jobs[key] = a_job(spec=spec)
        cell.put_task(task)
    return cell


class World:
    """A cell that lives by commands, at a time that the test sets."""

    def __init__(self, cell: CellState | None = None) -> None:
        self.cell = cell or CellState("test")
        self.now_ms = START_MS
        self.last = Applied(())

    def run(self, *commands: Command, request_id: str = "") -> Outcome:
        """Apply commands as one entry; the outcome of the last. Fails when the cell is not sound after it."""
        entry = Entry(self.now_ms, tuple(Proposal(command, request_id) for command in commands))
        self.last = apply_bytes(self.cell, self.cell.applied_index + 1, encode_entry(entry))
        assert not self.last.faults, self.last.faults[0]
        assert not (faults := invariants.check(self.cell)), faults
        return self.last.outcomes[-1]

    def must(self, *commands: Command) -> Accepted:
        """Apply commands that are all accepted; the last outcome."""
        self.run(*commands)
        for outcome in self.last.outcomes:
            assert isinstance(outcome, Accepted), outcome
        return self.last.outcomes[-1]

    def wait(self, ms: int) -> None:
        self.now_ms += ms

    def add_machine(self, name: str = "m1", **fields) -> Machine:
        machine = a_machine(name, **fields)
        facts = SetMachineFacts(
            name,
            machine.capacity,
            machine.attributes,
            machine.port_first,
            machine.port_last,
            machine.detail,
        )
        self.must(AddMachine(name, machine.address), facts)
        return self.cell.machines[name]

    def submit(self, spec: JobSpec) -> Job:
        self.must(SubmitJob(spec))
        return self.cell.jobs[spec.key]

    def task(self, key: str) -> Task:
        return self.cell.tasks[TaskKey.parse(key)]

    def place(self, key: str, machine: str = "m1", *, victims: Iterable[str] = ()) -> Task:
        """Try to place a task; what it is afterwards."""
        task = self.task(key)
        chosen = tuple((TaskKey.parse(v), self.task(v).current.number) for v in victims)
        self.must(PlaceTasks((Placed(task.key, task.current.number, machine, chosen),)))
        return self.cell.tasks[task.key]

    def report(self, key: str, phase: TaskPhase, *, healthy: bool = True, **fields) -> Task | None:
        """Let the task's machine report; what it is afterwards."""
        task = self.task(key)
        report = Reported(task.key, task.current.number, phase, healthy=healthy, **fields)
        self.must(ReportTasks(task.machine, (report,)))
        return self.cell.tasks.get(task.key)

    def start(self, key: str, machine: str = "m1") -> Task:
        """Place a task and let it become healthy."""
        assert self.place(key, machine).machine == machine, f"{key} does not fit on {machine}"
        task = self.report(key, TaskPhase.RUNNING)
        assert task is not None
        return task

    def end(self, key: str, exit_code: int = 0, end: EndKind = EndKind.EXITED) -> Task | None:
        """Let a task end on its machine."""
        return self.report(key, TaskPhase.ENDED, end=end, exit_code=exit_code)

    def kinds(self, key: str = "") -> list[str]:
        """Kinds of the notes that the last entry left, of one subject if ``key`` is given."""
        return [str(line.note.kind) for line in self.last.recorded if key in ("", line.key)]
