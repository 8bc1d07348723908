"""Checkpoints: everything comes back, and damage is told from a newer format."""

import zlib

import pytest
from borgcell.types import JobKey
from msgspec import msgpack

from borgmaster.state import checkpoint, invariants
from borgmaster.state.cell import CellState
from borgmaster.state.checkpoint import capture, digest, restore
from borgmaster.state.commands import ForgetJobs, KillJob, SetDraining, SetMachineFacts, SubmitJob
from tests.helpers.builders import (
    ATTRIBUTES,
    World,
    a_batch_spec,
    a_limit,
    a_spec,
    a_task_spec,
)


@pytest.fixture
def world():
    """A cell with something of everything."""
    world = World()
    world.add_machine("m1")
    world.submit(
        a_spec(task_count=3, task=a_task_spec(ports=("http",)), overrides={1: a_task_spec()})
    )
    world.start("ann/web/0")
    world.submit(a_spec(task_count=3, task=a_task_spec(("/bin/other",))))
    world.submit(a_batch_spec())
    world.start("bob/count/0")
    world.end("bob/count/0", 1)
    world.submit(a_spec("ann/gone"))
    world.must(KillJob(JobKey("ann", "gone")))
    world.must(ForgetJobs((JobKey("ann", "gone"),)))
    world.run(SetDraining("m1", draining=True), request_id="r1")
    world.run(SubmitJob(a_spec(priority=999)), request_id="r2")
    world.must(SetMachineFacts("m1", a_limit(10), ATTRIBUTES, 20_000, 20_000))
    world.cell.retired_floor = 7  # as when a hundred thousand other jobs were forgotten since
    return world


def test_everything_comes_back(world):
    cell = restore(list(capture(world.cell)))
    assert digest(cell) == digest(world.cell)
    for name in ("jobs", "tasks", "machines", "requests", "history", "retired", "shrunk"):
        assert getattr(cell, name) == getattr(world.cell, name)
        assert getattr(cell, name), f"{name} was not part of the test"
    assert list(cell.requests) == list(world.cell.requests)
    for name in ("name", "applied_index", "now_ms", "sequence", "retired_floor"):
        assert getattr(cell, name) == getattr(world.cell, name)
    assert not invariants.check(cell)


def test_an_empty_cell_comes_back():
    cell = restore(capture(CellState("empty")))
    assert (cell.name, cell.applied_index, cell.tasks) == ("empty", 0, {})


def test_a_capture_shows_the_cell_as_it_was_at_the_call(world):
    before = digest(world.cell)
    chunks = capture(world.cell)
    world.must(KillJob(JobKey("ann", "web")))
    assert digest(restore(chunks)) == before
    assert digest(world.cell) != before


def test_no_chunk_holds_more_than_its_bound(world):
    world.submit(a_spec("ann/many", task_count=2_500))
    chunks = [msgpack.decode(chunk[4:]) for chunk in capture(world.cell)]
    sizes = [len(chunk["items"]) for chunk in chunks if chunk["type"] == "Tasks"]
    assert sizes == [1_000, 1_000, 504]


@pytest.mark.parametrize("position", [0, 1, 3, -1])
def test_a_flipped_bit_is_found(world, position):
    chunks = list(capture(world.cell))
    damaged = bytearray(chunks[position])
    damaged[len(damaged) // 2] ^= 1
    chunks[position] = bytes(damaged)
    number = position % len(chunks)
    with pytest.raises(ValueError, match=f"chunk {number} is damaged"):
        restore(chunks)


def test_a_missing_end_is_found(world):
    with pytest.raises(ValueError, match="cut off"):
        restore(list(capture(world.cell))[:-1])
    with pytest.raises(ValueError, match="cut off"):
        restore([])


def test_a_missing_or_exchanged_chunk_is_found(world):
    chunks = list(capture(world.cell))
    with pytest.raises(ValueError, match="are not the"):
        restore([*chunks[:2], *chunks[3:]])
    with pytest.raises(ValueError, match="are not the"):
        restore([chunks[0], chunks[2], chunks[1], *chunks[3:]])


def test_chunks_without_a_head_or_with_two_are_refused(world):
    chunks = list(capture(world.cell))
    with pytest.raises(ValueError, match="first chunk is not its head"):
        restore(chunks[1:])
    with pytest.raises(ValueError, match="second head"):
        restore([chunks[0], *chunks])


def framed(value):
    body = msgpack.encode(value)
    return zlib.crc32(body).to_bytes(4, "big") + body


def test_a_newer_format_is_named_even_when_it_looks_quite_different():
    newer = framed({"type": "SomethingElse", "format": checkpoint.FORMAT + 1})
    with pytest.raises(ValueError, match=r"format 2, this version reads up to 1: upgrade"):
        restore([newer])


def test_what_is_no_checkpoint_is_refused():
    with pytest.raises(ValueError, match="head cannot be read"):
        restore([framed([1, 2])])
    with pytest.raises(ValueError, match="is damaged"):
        restore([b"xy"])
    with pytest.raises(ValueError, match="is not one of format 1"):
        restore([framed({"type": "Nonsense"})])
