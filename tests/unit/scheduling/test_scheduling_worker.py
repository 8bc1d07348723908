"""Unit tests of ``borgmaster.scheduling.worker``: dry runs, and the stream of messages."""

import io

import pytest

from borgmaster.scheduling.messages import (
    FRAME_BYTES_MAX,
    AskDryRun,
    AskExplanation,
    AskPlan,
    Explained,
    Feed,
    Planned,
    Reset,
    body_length,
    decode_answer,
    encode,
)
from borgmaster.scheduling.worker import Worker, serve
from scheduler.model import Delta
from tests.helpers.scheduler_worlds import a_job, a_machine, a_pending, a_placed, room

PICTURE = Delta(5, machines=(a_machine(capacity=room(4, 4)),))


def answers_to(*messages) -> list:
    out = io.BytesIO()
    serve(io.BytesIO(b"".join(encode(one) for one in messages)), out)
    found, data = [], out.getvalue()
    while data:
        length = body_length(data[:4])
        found.append(decode_answer(data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def test_only_questions_are_answered_in_their_order():
    row = a_pending()
    answers = answers_to(
        Reset(PICTURE), AskPlan(1, 7, 0, 10), Feed(Delta(6, pending=(row,))), AskPlan(2, 7, 0, 10),
        AskExplanation(3, row, 0),
    )  # fmt: skip
    assert [type(one) for one in answers] == [Planned, Planned, Explained]
    assert [one.id for one in answers] == [1, 2, 3]
    assert answers[0].plan.placements == ()
    assert (answers[1].plan.index, answers[1].plan.placements[0].machine) == (6, "m1")
    assert answers[2].explanation.feasible_count == 1


def test_a_message_that_breaks_off_ends_the_stream_without_an_answer():
    out = io.BytesIO()
    serve(io.BytesIO(encode(Reset(PICTURE)) + encode(AskPlan(1, 7, 0, 10))[:-1]), out)
    assert out.getvalue() == b""


def test_a_frame_of_absurd_length_is_refused():
    with pytest.raises(ValueError, match="exceeds"):
        body_length((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


def test_a_reset_forgets_everything_even_when_its_index_is_lower():
    answers = answers_to(
        Reset(PICTURE), Feed(Delta(9, pending=(a_pending(),))), Reset(PICTURE), AskPlan(1, 7, 0, 10)
    )  # fmt: skip
    assert (answers[0].plan.index, answers[0].plan.placements) == (5, ())


def dry_run(worker: Worker, pending, removed=()):
    return worker.handle(AskDryRun(1, tuple(pending), tuple(removed), 7, 0, 100)).plan


def a_worker(*, placed=(), pending=()) -> Worker:
    worker = Worker()
    worker.handle(Reset(Delta(5, PICTURE.machines, tuple(placed), tuple(pending))))
    return worker


def test_a_dry_run_answers_about_its_own_tasks_only_but_lets_others_go_first():
    worker = a_worker(pending=a_job("bob/first", 3, priority=210))
    found = dry_run(worker, a_job("ann/web", 2, priority=200))
    assert [str(one.key) for one in found.placements] == ["ann/web/0"]
    assert [(str(group.job), group.indexes) for group in found.unplaced] == [("ann/web", (1,))]
    assert found.left == 0


def test_a_dry_run_changes_nothing():
    worker = a_worker(pending=a_job("bob/first", 3))
    before = worker.handle(AskPlan(1, 7, 0, 100))
    dry_run(worker, a_job("ann/web", 4, priority=400), [a_pending("bob/first/0").key])
    assert worker.handle(AskPlan(1, 7, 0, 100)) == before


def test_a_dry_run_may_use_the_room_of_tasks_that_would_be_gone():
    placed = a_placed("ann/web/0", held=room(4, 4), priority=200)
    worker = a_worker(placed=[placed])
    wanted = [a_pending("ann/web/1", room(4, 4))]
    assert dry_run(worker, wanted).placements == ()
    assert dry_run(worker, wanted, [placed.key]).placements[0].machine == "m1"


def test_a_dry_run_of_a_pending_job_in_a_new_shape_replaces_the_old_one():
    worker = a_worker(pending=a_job("ann/web", 2, limit=room(99, 1)))
    found = dry_run(worker, a_job("ann/web", 2, limit=room(1, 1)))
    assert (len(found.placements), found.unplaced) == (2, ())
