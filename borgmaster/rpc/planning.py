"""Owns the calls that ask the scheduler: dry runs and explanations; and how replicas are listed."""

from importlib.metadata import version
from typing import Final

import grpc
from borgcell import convert
from borgcell.types import TaskKey, TaskState
from borgcell.v1 import cell_pb2

from borgmaster.replica import Replica
from borgmaster.rpc import reads, render
from borgmaster.rpc.calls import Calls
from borgmaster.rpc.status import Refused, from_rejected
from borgmaster.scheduling import feed
from borgmaster.scheduling.client import SchedulerUnavailable
from borgmaster.scheduling.loop import SchedulingLoop
from borgmaster.state import core
from borgmaster.state.cell import CellState
from borgmaster.state.commands import SubmitJob
from borgmaster.state.events import JobChanged, TaskChanged, TaskForgotten
from borgmaster.state.model import Job, Task
from borgmaster.state.outcome import Accepted, Rejected
from scheduler import plan
from scheduler.model import PendingRow

VERSION: Final = version("borgcell")


async def dry_run(
    replica: Replica, scheduling: SchedulingLoop | None, command: SubmitJob, now_ms: int
) -> cell_pb2.SubmitJobResponse:
    """What the submission would do and where its tasks would go; nothing changes. Raises Refused."""
    accepted, pending, removed = replica.read(lambda cell: _preview(cell, command, now_ms))
    if scheduling is None:
        raise _unavailable("this replica has just begun to lead")
    try:
        planned = await scheduling.dry_run(pending, removed, now_ms)
    except SchedulerUnavailable as error:
        raise _unavailable(str(error)) from error
    return cell_pb2.SubmitJobResponse(
        version=accepted.version,
        created=accepted.created,
        tasks_added=accepted.tasks_added,
        tasks_removed=accepted.tasks_removed,
        tasks_restarted=accepted.tasks_restarted,
        plan=plan_message(planned),
    )


def _unavailable(why: str) -> Refused:
    return Refused(
        grpc.StatusCode.UNAVAILABLE, f"the scheduler cannot plan now: {why}", retry_after_ms=500
    )


def _preview(
    cell: CellState, command: SubmitJob, now_ms: int
) -> tuple[Accepted, tuple[PendingRow, ...], tuple[TaskKey, ...]]:
    """The answer to the submission, the pending tasks it would make, and the tasks it would take away."""
    decided = core.decide(cell, command, now_ms)
    if isinstance(decided, Rejected):
        raise from_rejected(decided)
    job: Job | None = cell.jobs.get(command.spec.key)
    changed: dict[TaskKey, Task | None] = {}
    for event in decided.events:
        match event:
            case JobChanged():
                job = event.job
            case TaskChanged():
                changed[event.task.key] = event.task
            case TaskForgotten():
                changed[event.task] = None
            case _:
                pass
    assert job is not None, "an accepted submission has a job"
    pending = tuple(
        feed.pending_row(job, task)
        for task in changed.values()
        if task is not None and task.state is TaskState.PENDING
    )
    removed = tuple(
        key
        for key, task in changed.items()
        if task is None or task.state in (TaskState.DEAD, TaskState.STOPPING)
    )
    return decided.accepted, pending, removed


async def explain(
    calls: Calls, key: TaskKey, scheduling: SchedulingLoop | None
) -> cell_pb2.ExplainTaskResponse:
    """Why a task is where it is: from the state, and for a pending one from the scheduler. Raises Refused."""
    now_ms = calls.clock.wall_ms()
    task, job, index = calls.replica.read(lambda cell: _situation(cell, key))
    summary = reads.summarize(task, job, now_ms)
    response = cell_pb2.ExplainTaskResponse(
        task=render.task(task), summary=summary, freshness=calls.freshness(index)
    )
    if task.state is not TaskState.PENDING:
        return response
    if scheduling is None:
        response.summary += "; the cell has no leader now, so nothing is scheduled"
        return response
    try:
        explanation = await scheduling.explain(feed.pending_row(job, task), now_ms)
    except SchedulerUnavailable as error:
        response.summary += f"; the scheduler cannot say more now ({error})"
        return response
    response.feasible_machines.extend(one.machine for one in explanation.feasible)
    if explanation.misfit is not None:
        response.misfit.CopyFrom(misfit_message(explanation.misfit))
        response.task.pending_reason = explanation.misfit.summary
        response.summary = (
            explanation.misfit.summary
            if not explanation.wait_ms
            else f"{summary}; and it {explanation.misfit.summary}"
        )
    elif not explanation.wait_ms:
        response.summary = f"fits on {explanation.feasible_count} machines; the next pass places it"
    return response


def _situation(cell: CellState, key: TaskKey) -> tuple[Task, Job, int]:
    task = reads.find_task(cell, key)
    return task, cell.jobs[key.job_key], cell.applied_index


def plan_message(value: plan.Plan) -> cell_pb2.Plan:
    """A plan on the wire; equivalent unplaced tasks are told once, by the first of them."""
    return cell_pb2.Plan(
        placements=[
            cell_pb2.PlannedPlacement(
                task=convert.task_key_to_wire(one.key),
                machine=one.machine,
                victims=[convert.task_key_to_wire(victim.key) for victim in one.victims],
            )
            for one in value.placements
        ],
        unplaced=[
            cell_pb2.PlannedMisfit(
                task=cell_pb2.TaskKey(
                    user=group.job.user, job=group.job.name, index=group.indexes[0]
                ),
                misfit=misfit_message(group.misfit),
            )
            for group in value.unplaced
        ],
        unplaced_count=value.unplaced_count,
    )


def misfit_message(value: plan.Misfit) -> cell_pb2.Misfit:
    """Why a task finds no machine, on the wire."""
    return cell_pb2.Misfit(
        counts=[
            cell_pb2.MisfitCount(reason=one.reason, detail=one.detail, machines=one.machines)
            for one in value.counts
        ],
        nearest_machine=value.nearest_machine,
        nearest_detail=value.nearest_detail,
        hints=value.hints,
        summary=value.summary,
    )


def replicas(calls: Calls) -> list[cell_pb2.Replica]:
    """All replicas as this one sees them, by name."""
    addresses = {member.name: member.api_address for member in calls.config.members}
    return [
        cell_pb2.Replica(
            name=member.name,
            address=addresses.get(member.name, ""),
            connected=member.connected,
            leader=member.leader,
            match_index=member.match_index,
        )
        for member in calls.log.status().members
    ]
