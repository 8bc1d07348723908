"""The replicated log as processes that are killed: an outside ledger of acknowledged writes is the judge."""

import random
import threading
import time
from pathlib import Path

import pytest

from borgmaster.replication import EXIT_DAMAGED, EXIT_DISK
from tests.helpers.ledger_cell import ProcessCell, until

FREQUENT = {"compact_entries": 30, "trailing_entries": 10}


class Writers:
    """Threads that write to a cell and remember what was acknowledged, outside of the cell."""

    def __init__(self, cell: ProcessCell, tag: str, count: int = 4) -> None:
        self.acknowledged: list[str] = []
        self._cell = cell
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(f"{tag}-{number}",))
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, tag: str) -> None:
        number = 0
        dice = random.Random(tag)
        while not self._stop.is_set():
            leader = next((r for r in self._cell.replicas.values() if r.leading), None)
            if leader is None:
                time.sleep(0.002)
                continue
            line = f"{tag}-{number}-".ljust(dice.choice((20, 300, 3000)), "x")
            number += 1
            answer = leader.send("write", line=line).result(timeout=30)
            if answer is not None and "value" in answer:
                self.acknowledged.append(line)

    def stop(self) -> list[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.acknowledged


def agreed_lines(cell: ProcessCell) -> list[str]:
    """What all replicas hold alike after one more write."""
    cell.write(f"closing line {time.monotonic_ns()}")

    def same() -> list[list[str]]:
        held = [replica.ask("lines") for replica in cell.replicas.values()]
        return held if all(lines == held[0] for lines in held) else []

    return until(same, "all replicas hold the same")[0]


@pytest.mark.timeout(120)
def test_no_acknowledged_write_is_lost_when_all_replicas_are_killed_again_and_again(tmp_path: Path):
    acknowledged: list[str] = []
    with ProcessCell(tmp_path, **FREQUENT) as cell:
        for round in range(4):
            cell.leader()
            writers = Writers(cell, f"round{round}")
            time.sleep(1.0 + 0.3 * round)
            cell.kill_all()
            acknowledged += writers.stop()
            cell.start_all()
        lines = agreed_lines(cell)
        assert len(acknowledged) > 200, "the cell was writing when it was killed"
        assert set(acknowledged) - set(lines) == set()
        assert len(lines) == len(set(lines)), "a line was written twice"
        restored = [replica.ask("status")["restored"] for replica in cell.replicas.values()]
        assert all(count >= 1 for count in restored), "snapshots were taken between the kills"


@pytest.mark.timeout(120)
def test_no_acknowledged_write_is_lost_when_one_leader_after_another_is_killed(tmp_path: Path):
    with ProcessCell(tmp_path, **FREQUENT) as cell:
        cell.leader()
        writers = Writers(cell, "w")
        for _ in range(4):
            time.sleep(0.7)
            leader = cell.leader()
            leader.kill()
            cell.leader()
            cell.start(leader.name)
        acknowledged = writers.stop()
        lines = agreed_lines(cell)
        assert len(acknowledged) > 200
        assert set(acknowledged) - set(lines) == set()
        assert len(lines) == len(set(lines))


@pytest.mark.timeout(60)
def test_a_full_disk_stops_the_replica_with_the_file_named_and_it_returns_with_space(
    tmp_path: Path,
):
    with ProcessCell(tmp_path, 1, file_bytes_max=200_000) as cell:
        replica = cell.leader()
        written = 0
        while replica.ask("write", line=f"{written}-".ljust(4000, "x")) is not None:
            written += 1
        assert replica.close() == EXIT_DISK
        fatal = replica.events[-1]["fatal"]
        assert str(tmp_path / "r1" / "journal") in fatal
        cell.start("r1", file_bytes_max=0)
        lines = agreed_lines(cell)
        assert [line.split("-")[0] for line in lines[:written]] == [str(n) for n in range(written)]
        assert cell.replicas["r1"].close() == 0


@pytest.mark.timeout(60)
def test_a_damaged_journal_keeps_its_replica_down_and_the_others_go_on(tmp_path: Path):
    with ProcessCell(tmp_path) as cell:
        for number in range(20):
            cell.write(f"line {number}")
        agreed_lines(cell)
        follower = next(replica for replica in cell.replicas.values() if not replica.leading)
        assert follower.close() == 0
        journal = tmp_path / follower.name / "journal"
        data = bytearray(journal.read_bytes())
        data[len(data) // 2] ^= 1
        journal.write_bytes(data)
        damaged = cell.start(follower.name)
        assert damaged.process.wait(timeout=20) == EXIT_DAMAGED
        assert damaged.close() == EXIT_DAMAGED
        assert f"{journal}: damaged at offset" in damaged.events[-1]["fatal"]
        assert cell.write("the others go on") > 0


@pytest.mark.timeout(60)
def test_two_processes_cannot_use_one_directory(tmp_path: Path):
    with ProcessCell(tmp_path, 1) as cell:
        first = cell.leader()
        second = ProcessCell(tmp_path, 1)
        second.members = cell.members
        with second:
            assert second.replicas["r1"].process.wait(timeout=20) == EXIT_DISK
        assert first.ask("write", line="unharmed") == 1
