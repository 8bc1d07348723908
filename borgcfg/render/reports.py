"""Owns what borgcfg says about one thing: a job, a task, a cell, a misfit, a plan. Pure."""

from collections.abc import Iterator

from borgcell import convert
from borgcell.v1 import cell_pb2, types_pb2

from borgcfg.render import tables, words
from borgcfg.render.table import Cell, Styled, fields_text, paint, printable, table_text

VICTIMS_SHOWN = 5
PLACEMENTS_SHOWN = 20


def job_fields(job: types_pb2.Job, now_ms: int) -> list[tuple[str, Cell]]:
    """A job in a few lines."""
    spec = convert.job_spec_from_wire(job.spec)
    return [
        ("Job", Styled(str(spec.key), "bold")),
        ("State", tables.job_state(job)),
        ("Kind", str(spec.kind)),
        ("Priority", words.priority(spec.priority)),
        ("Version", f"{job.version}, {words.ago(job.updated_at_ms, now_ms)} old"),
        ("Each task", str(spec.task.limit)),
        ("Runs", spec.task.image or _command(spec.task.argv)),
        ("Constraints", ", ".join(_constraint(one) for one in spec.constraints)),
        ("Labels", " ".join(f"{key}={value}" for key, value in sorted(spec.labels.items()))),
    ]


def task_fields(response: cell_pb2.GetTaskResponse, now_ms: int) -> list[tuple[str, Cell]]:
    """A task in a few lines."""
    task = response.task
    current = task.current
    return [
        ("Task", Styled(f"{task.user}/{task.job}/{task.index}", "bold")),
        ("State", words.task_state(task)),
        ("Detail", tables.task_detail(task, now_ms)),
        ("Machine", current.machine),
        ("Ports", words.ports(current)),
        ("Priority", words.priority(task.priority)),
        ("Limit", words.resources(task.limit)),
        ("Runs", response.spec.image or _command(tuple(response.spec.argv))),
        ("Incarnation", f"{current.number} (version {current.version})"),
        ("Failures in a row", str(task.failures) if task.failures else ""),
    ]


def cell_fields(status: cell_pb2.GetCellStatusResponse) -> list[tuple[str, Cell]]:
    """A cell in a few lines."""
    leader: Cell = status.leader or Styled("none: nothing can be changed now", "bad")
    machines = f"{status.machines_up} up"
    if status.machines_down:
        machines += f", {status.machines_down} down"
    if status.machines_draining:
        machines += f", {status.machines_draining} draining"
    connected = sum(replica.connected for replica in status.replicas)
    return [
        ("Cell", Styled(status.cell, "bold")),
        ("Leader", leader),
        ("Replicas", f"{connected} of {len(status.replicas)} connected, term {status.term}"),
        ("Machines", Styled(machines, "warn" if status.machines_down else "")),
        ("Capacity", words.resources(status.capacity)),
        ("Jobs", str(status.jobs)),
        ("Tasks", words.counts(status.tasks)),
        ("Log index", str(status.applied_index)),
    ]


def why_text(response: cell_pb2.ExplainTaskResponse, now_ms: int, *, colour: bool) -> str:
    """Why a task is where it is: the answer first, then counts, the nearest machine, and what would help."""
    task = response.task
    state = words.task_state(task)
    head = [
        paint(f"{task.user}/{task.job}/{task.index}", "bold", colour=colour),
        paint(state.text, state.style, colour=colour),
        words.ago(task.current.submitted_at_ms, now_ms),
        words.priority(task.priority),
        f"wants {words.resources(task.limit)}",
    ]
    lines = ["  ".join(part for part in head if part), printable(response.summary)]
    if response.HasField("misfit"):
        lines += misfit_lines(
            response.misfit, skip_summary=response.misfit.summary in response.summary
        )
    if response.feasible_machines:
        lines.append(f"fits on: {', '.join(map(printable, response.feasible_machines))}")
    return "\n".join(line for line in lines if line) + "\n"


def misfit_lines(misfit: cell_pb2.Misfit, *, skip_summary: bool = False) -> list[str]:
    """Counts by reason, the nearest machine, what would help."""
    lines = [] if skip_summary or not misfit.summary else [printable(misfit.summary)]
    width = max((len(str(count.machines)) for count in misfit.counts), default=0)
    for count in misfit.counts:
        reason = count.reason.replace("_", " ")
        what = f"{reason}: {count.detail}" if count.detail and count.detail != reason else reason
        noun = "machine " if count.machines == 1 else "machines"
        lines.append(f"  {count.machines:>{width}} {noun}  {printable(what)}")
    if misfit.nearest_machine:
        lines.append(
            f"nearest: {printable(misfit.nearest_machine)}, {printable(misfit.nearest_detail)}"
        )
    if misfit.hints:
        lines.append(f"would fit if you: {printable(' | '.join(misfit.hints))}")
    return lines


def submitted(response: cell_pb2.SubmitJobResponse, *, before: int, dry_run: bool = False) -> str:
    """What a submission did (or would do) to the job, in one line; ``before`` is the version that was there, or 0."""
    effects = [
        words.plural(count, "task") + f" {verb}"
        for count, verb in (
            (response.tasks_added, "added"),
            (response.tasks_removed, "removed"),
            (response.tasks_restarted, "to restart"),
        )
        if count
    ]
    if not response.created and response.version == before:
        verb = "unchanged"
    else:
        verb = "created" if response.created else "updated"
        verb = f"would be {verb}" if dry_run else verb
    return f"{verb} (version {response.version})" + (f": {', '.join(effects)}" if effects else "")


def plan_lines(plan: cell_pb2.Plan) -> Iterator[str]:
    """What a scheduling pass would do now: placements, evictions, and what stays pending with its reason."""
    if plan.placements:
        yield f"would place {words.plural(len(plan.placements), 'task')}:"
    for placement in plan.placements[:PLACEMENTS_SHOWN]:
        line = f"  {words.task_key(placement.task)} on {placement.machine}"
        if placement.victims:
            shown = ", ".join(words.task_key(key) for key in placement.victims[:VICTIMS_SHOWN])
            more = len(placement.victims) - VICTIMS_SHOWN
            line += f", evicting {shown}" + (f" and {more} more" if more > 0 else "")
        yield printable(line)
    if len(plan.placements) > PLACEMENTS_SHOWN:
        yield f"  and {len(plan.placements) - PLACEMENTS_SHOWN} more"
    if plan.unplaced_count:
        yield f"would leave {words.plural(plan.unplaced_count, 'task')} pending:"
    for unplaced in plan.unplaced:
        yield f"  {words.task_key(unplaced.task)}:"
        for line in misfit_lines(unplaced.misfit):
            yield f"    {line.strip()}"


def job_text(
    job: types_pb2.Job, shown: list[types_pb2.Task], now_ms: int, *, colour: bool, wide: bool
) -> str:
    """A job with its tasks."""
    head = fields_text(job_fields(job, now_ms), colour=colour)
    return f"{head}\n{table_text(tables.tasks(shown, now_ms), colour=colour, wide=wide)}"


def task_text(response: cell_pb2.GetTaskResponse, now_ms: int, *, colour: bool, wide: bool) -> str:
    """A task with its incarnations."""
    head = fields_text(task_fields(response, now_ms), colour=colour)
    rest = table_text(tables.incarnations(response.task, now_ms), colour=colour, wide=wide)
    return f"{head}\n{rest}"


def cell_text(status: cell_pb2.GetCellStatusResponse, *, colour: bool, wide: bool) -> str:
    """A cell with its replicas and bands."""
    return "\n".join(
        [
            fields_text(cell_fields(status), colour=colour),
            table_text(
                tables.replicas(status.replicas, dict(status.versions)), colour=colour, wide=wide
            ),
            table_text(tables.bands(status), colour=colour, wide=wide),
        ]
    )


def _command(argv: tuple[str, ...]) -> str:
    text = " ".join(" ".join(argv).split())
    return text if len(text) <= 100 else text[:97] + "..."


def _constraint(constraint: object) -> str:
    soft = " (preferred)" if getattr(constraint, "soft", False) else ""
    return f"{constraint}{soft}"
