"""Frames: what a stream of bytes may ask of us."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from borgmaster.replication.wire import (
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    Ack,
    Append,
    BadFrame,
    Frame,
    FrameReader,
    Hello,
    Part,
    Ping,
    PreVote,
    PreVoteRequest,
    SnapshotPart,
    TimeoutNow,
    Vote,
    VoteRequest,
    encode_frame,
)

FRAMES: list[Frame] = [
    Hello(1, "cell", "r1", "r2"),
    Ping(),
    Append(3, 7, 99, 6, 2, [(b"\x00command", 7, 3), (b"", 8, 3)]),
    SnapshotPart(3, 7, 99, Part(7, 2, 0, b"data", last=True)),
    SnapshotPart(3, 7, 99, None),
    Ack(3, 99, 8, success=True, reset=False),
    VoteRequest(4, 7, 3, forced=False),
    Vote(4),
    PreVoteRequest(4, 7, 3),
    PreVote(3, 4, granted=True),
    TimeoutNow(3),
]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_frames_arrive_whole_however_the_stream_is_cut(sizes: list[int]):
    stream = b"".join(encode_frame(frame) for frame in FRAMES)
    reader = FrameReader()
    arrived: list[Frame] = []
    position = 0
    for size in [*sizes, len(stream)]:
        arrived += reader.feed(stream[position : position + size])
        position += size
    assert arrived == FRAMES


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        pickle.dumps(["append_entries"]),
        b"\x92\x02\x03",  # an Append of one field
        b"\x95\x05\xff\x07\x03\xc2",  # a vote request in term -1
        b"\x92\x63\x01",  # a tag of the future
        b"\x91" * 3000,
    ],
)
def test_what_is_no_frame_of_ours_is_refused(body: bytes):
    with pytest.raises(BadFrame):
        list(FrameReader().feed(len(body).to_bytes(4, "little") + body))


def test_a_stranger_cannot_make_us_hold_much():
    with pytest.raises(BadFrame, match="at most"):
        list(FrameReader().feed((HELLO_BYTES_MAX + 1).to_bytes(4, "little")))
    with pytest.raises(BadFrame, match="at most"):
        list(FrameReader(FRAME_BYTES_MAX).feed(b"\xff\xff\xff\xff"))
