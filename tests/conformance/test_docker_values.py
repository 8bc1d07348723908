"""The parts of the Docker runtime that need no engine: names, labels, log frames, times, memory kills of v2."""

import struct

import pytest
from borgcell.resources import Resources
from borgcell.types import TaskKey
from hypothesis import given
from hypothesis import strategies as st

from borglet.runtime.cgroups import CgroupV2
from borglet.runtime.docker_labels import (
    container_name,
    id_in,
    labels_of,
    limit_in,
    ports_in,
    spec_hash,
)
from borglet.runtime.docker_log import LogFrames
from borglet.runtime.docker_oom import OomWatch
from borglet.runtime.docker_stream import format_time, parse_time_ns
from borglet.runtime.port import ContainerId, ContainerSpec, LogPiece

# Few and alike, so that two of them joined often read the same.
NAME = st.sampled_from(["a", "a-a", "a_a", "1", "a-1"])
MACHINE = st.sampled_from(["a", "a-a", "a.a", "a.a.a", "1.1", "a-a.1"])
ID = st.builds(ContainerId, st.builds(TaskKey, NAME, NAME, st.integers(0, 1)), st.integers(1, 2))
PLACE = st.tuples(NAME, MACHINE, ID)


def a_spec(id: ContainerId) -> ContainerSpec:
    limit = Resources(cpu_milli=100, ram_bytes=5, disk_bytes=6, ports=1)
    return ContainerSpec(id=id, argv=("run",), env={}, limit=limit, pids_max=3, ports={"http": 2})


@given(st.lists(PLACE, min_size=50, max_size=200, unique=True))
def test_no_two_places_have_one_name(places):
    assert len({container_name(*place) for place in places}) == len(places)


@given(PLACE)
def test_labels_read_back_as_what_was_written(place):
    cell, machine, id = place
    spec = a_spec(id)
    labels, name = labels_of(cell, machine, spec), "/" + container_name(*place)
    assert id_in(labels, cell=cell, machine=machine, name=name) == id
    assert (limit_in(labels), ports_in(labels)) == (spec.limit, spec.ports)
    assert id_in(labels, cell=cell, machine=machine + "x", name=name) is None
    assert id_in(labels, cell=cell, machine=machine, name=name + "x") is None


def test_damaged_labels_are_nobodys_and_hold_nothing():
    assert id_in({"borg.index": "x"}, cell="cc", machine="m1", name="/x") is None
    assert limit_in({"borg.limit": "{"}) == Resources()
    assert ports_in({"borg.ports": "[]"}) == {}


def test_the_hash_of_a_spec_ignores_the_order_of_its_environment():
    spec = a_spec(ContainerId(TaskKey("ann", "web", 0), 1))
    ordered, turned, other = (
        ContainerSpec(spec.id, ("run",), env, spec.limit, 3)
        for env in ({"A": "1", "B": "2"}, {"B": "2", "A": "1"}, {"A": "1", "B": "3"})
    )
    assert spec_hash(ordered) == spec_hash(turned) != spec_hash(other)


def frame(kind: int, text: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(text)) + text


@given(st.lists(st.integers(1, 60), max_size=5))
def test_log_frames_come_out_whole_however_they_are_cut(cuts):
    whole = frame(1, b"2026-01-31T12:00:00.000000001Z one\n") + frame(
        2, b"2026-01-31T12:00:01.500000000Z two words"
    )
    frames, pieces = LogFrames(), []
    for size in (*cuts, len(whole)):
        pieces += frames.feed(whole[:size])
        whole = whole[size:]
    at_ms = 1_769_860_800_000
    assert pieces == [
        LogPiece("stdout", at_ms, b"one\n"),
        LogPiece("stderr", at_ms + 1500, b"two words"),
    ]
    assert frames.last_ns == (at_ms + 1500) * 1_000_000


@pytest.mark.parametrize("data", [frame(7, b"x"), b"HTTP/1.1 500 Internal Server Error"])
def test_what_is_no_log_stream_is_refused(data):
    with pytest.raises(OSError, match="no log frames"):
        LogFrames().feed(data)


def test_times_of_the_engine_keep_their_nanoseconds():
    ns = parse_time_ns("2026-01-31T12:00:00.123456789Z")
    assert format_time(ns) == "1769860800.123456789"
    assert parse_time_ns("2026-01-31T12:00:00Z") == ns - 123456789
    assert parse_time_ns("2026-01-31T12:00:00.5Z") == ns + 376543211
    assert parse_time_ns("0001-01-01T00:00:00Z") == 0
    assert parse_time_ns("nonsense") == 0


def test_on_v2_a_memory_kill_sampled_while_the_group_lived_is_known_after_it_went(tmp_path):
    events = tmp_path / "memory.events"
    events.write_text("oom 0\noom_kill 0\n")
    ooms = OomWatch()
    for name in ("sampled", "not sampled"):
        ooms.add(name, CgroupV2({"unified": str(tmp_path)}))
    assert not ooms.settle("not sampled")
    events.write_text("oom 1\noom_kill 1\n")
    ooms.sample()
    events.unlink()
    assert ooms.settle("sampled")
    ooms.forget("sampled")
    assert not ooms.settle("sampled")
