"""borglet.memory: the state directory of a Borglet."""

import logging
import os

import pytest
from borgcell.types import EndKind

from borglet.memory import FILE, Memory, StateDir, StateDirFailed, revived
from tests.helpers.borglet_values import NOW_MS, a_desired, a_record, a_stop, an_end, an_id


def test_what_was_saved_is_loaded(tmp_path):
    records = (
        a_record(an_id(1), a_desired(an_id(1), ports={"http": 8080}), ran=True, stop=a_stop()),
        a_record(an_id(2), ended=an_end(EndKind.OUT_OF_MEMORY, 137, acknowledged=True)),
    )
    memory = Memory("paris", "m1", term=7, records=records)
    state_dir = StateDir(tmp_path)
    state_dir.save(memory)
    assert state_dir.load("paris", "m1") == memory
    assert sorted(os.listdir(tmp_path)) == ["borglet.json", "borglet.lock"]


def test_two_borglets_never_share_a_directory(tmp_path):
    first = StateDir(tmp_path)
    with pytest.raises(StateDirFailed, match=rf"in use by another Borglet \(pid {os.getpid()}\)"):
        StateDir(tmp_path)
    first.close()
    StateDir(tmp_path).close()


def test_another_machines_directory_is_refused(tmp_path):
    state_dir = StateDir(tmp_path)
    state_dir.save(Memory("paris", "m1"))
    with pytest.raises(StateDirFailed, match="belongs to machine m1 of cell paris, not to m2 of"):
        state_dir.load("paris", "m2")


@pytest.mark.parametrize(
    "data",
    [b"", b'{"cell": "par', b"\xff\xfe", b'{"cell":"paris","machine":"m1","version":99}', b"[]"],
)
def test_a_damaged_file_is_reported_kept_aside_and_begun_anew(tmp_path, caplog, data):
    (tmp_path / FILE).write_bytes(data)
    state_dir = StateDir(tmp_path)
    with caplog.at_level(logging.ERROR):
        assert state_dir.load("paris", "m1") == Memory("paris", "m1")
    (record,) = caplog.records
    assert (record.message, record.path) == ("memory_damaged", str(tmp_path / FILE))
    assert (tmp_path / "borglet.damaged").read_bytes() == data


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirFailed, match=r"file/state: Not a directory"):
        StateDir(tmp_path / "file" / "state")


def test_deadlines_of_another_boot_are_cut_to_the_grace_and_signals_are_sent_again():
    stop = a_stop(kill_at_ms=NOW_MS + 10**9, grace_ms=2_000, signalled=True)
    again = revived(a_record(stop=stop, released=True), NOW_MS)
    assert (again.stop.kill_at_ms, again.stop.signalled) == (NOW_MS + 2_000, False)
    assert not again.released
