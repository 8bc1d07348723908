"""Owns the scheduler's process: a copy of the cell, fed on stdin, asked on stdin, answering on stdout.

Ends when stdin closes or the parent dies. A bug ends it with a traceback on stderr: the client starts it anew
and the copy is made again from the truth.
"""

import ctypes
import os
import signal
import sys
from typing import BinaryIO, Final, assert_never

from borgcell.types import TaskKey
from msgspec.structs import replace

from borgmaster.scheduling.messages import (
    HEADER_BYTES,
    Answer,
    AskDryRun,
    AskExplanation,
    AskPlan,
    Explained,
    Feed,
    Planned,
    Request,
    Reset,
    body_length,
    decode_request,
    encode,
)
from scheduler.cell import SchedulerCell
from scheduler.engine import plan_pass
from scheduler.explain import explain
from scheduler.model import Delta
from scheduler.plan import Plan

PR_SET_PDEATHSIG: Final = 1


class Worker:
    """The copy of the cell, and the answers to requests about it."""

    def __init__(self) -> None:
        self._cell = SchedulerCell()

    def handle(self, request: Request) -> Answer | None:
        """Do what is asked; None when there is nothing to answer."""
        match request:
            case Reset(delta=delta):
                self._cell = SchedulerCell()
                self._cell.apply(delta)
                return None
            case Feed(delta=delta):
                self._cell.apply(delta)
                return None
            case AskPlan():
                plan = plan_pass(
                    self._cell,
                    seed=request.seed,
                    now_ms=request.now_ms,
                    tasks_max=request.tasks_max,
                )
                return Planned(request.id, plan)
            case AskDryRun():
                return Planned(request.id, dry_run(self._cell, request))
            case AskExplanation():
                explanation = explain(self._cell, request.pending, request.now_ms)
                return Explained(request.id, explanation)
            case _:
                assert_never(request)


def dry_run(cell: SchedulerCell, request: AskDryRun) -> Plan:
    """What a pass would do with hypothetical tasks, among all that is pending. The cell stays as it is."""
    imagined = cell.clone()
    imagined.apply(
        Delta(cell.index, pending=request.pending, removed_tasks=request.removed),
    )
    plan = plan_pass(
        imagined, seed=request.seed, now_ms=request.now_ms, tasks_max=request.tasks_max
    )
    return restrict(plan, {row.key for row in request.pending})


def restrict(plan: Plan, tasks: set[TaskKey]) -> Plan:
    """The part of a plan that is about some tasks. ``left`` counts those of them it did not come to."""
    placements = tuple(one for one in plan.placements if one.key in tasks)
    unplaced = []
    for group in plan.unplaced:
        indexes = tuple(
            index
            for index in group.indexes
            if TaskKey(group.job.user, group.job.name, index) in tasks
        )
        if indexes:
            unplaced.append(replace(group, indexes=indexes))
    decided = len(placements) + sum(len(group.indexes) for group in unplaced)
    return replace(
        plan,
        placements=placements,
        unplaced=tuple(unplaced),
        left=len(tasks) - decided if plan.left else 0,
        waiting=0 if plan.left else len(tasks) - decided,
    )


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Handle requests in their order until the stream ends."""
    worker = Worker()
    while len(header := requests.read(HEADER_BYTES)) == HEADER_BYTES:
        length = body_length(header)
        body = requests.read(length)
        if len(body) < length:
            return  # the master ended in the middle of a message
        answer = worker.handle(decode_request(body))
        if answer is not None:
            answers.write(encode(answer))
            answers.flush()


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent ends; end at once if that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(1)


def main() -> None:
    """Run as ``python -m borgmaster.scheduling.worker PARENT_PID``."""
    die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the master, which closes our stdin
    # Whatever prints goes to stderr: stdout carries answers only.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(0)  # the master is gone; nobody is left to answer, or to read a traceback


if __name__ == "__main__":
    main()
