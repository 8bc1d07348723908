"""The replicated log on loopback: what ``CommandLog`` promises to its callers."""

import shutil
import socket
import threading
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

from borgmaster.errors import NotLeader, OutcomeUnknown, QueueFull, TooLarge
from borgmaster.ports import SystemClock
from borgmaster.replication import LogFailed, ReplicatedLog
from borgmaster.replication.batch import Proposals
from borgmaster.replication.config import LogConfig
from borgmaster.state.entry import ENTRY_BYTES_MAX, decode_entry
from tests.helpers.ledger_cell import Cell, until
from tests.helpers.ledger_machine import LedgerMachine, a_line

FREQUENT = {"compact_entries": 20, "trailing_entries": 5}


def a_follower(cell: Cell) -> str:
    leader = cell.leader()
    return next(name for name in cell.logs if name != leader)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_what_is_proposed_is_applied_on_every_replica_in_one_order(tmp_path: Path, count: int):
    with Cell(tmp_path, count) as cell:
        log = cell.logs[cell.leader()]
        futures = [log.propose([a_line(f"line {n}"), a_line(f"and {n}")]) for n in range(100)]
        outcomes = [future.result(timeout=10) for future in futures]
        assert [[o.version for o in pair] for pair in outcomes] == [
            [2 * n + 1, 2 * n + 2] for n in range(100)
        ]
        assert len(cell.agree()) == 200


def test_a_replica_alone_leads_at_once(tmp_path: Path):
    started = time.monotonic()
    with Cell(tmp_path, 1) as cell:
        assert cell.leader() == "r1"
        assert time.monotonic() - started < 1.0


def test_what_waits_is_grouped_into_few_entries(tmp_path: Path):
    with Cell(tmp_path, 1) as cell:
        log = cell.logs[cell.leader()]
        futures = [log.propose([a_line(f"line {n}")]) for n in range(2000)]
        assert wait(futures, timeout=20).not_done == set()
        assert len(cell.machines["r1"].applied) < 1000
        assert cell.agree() == [f"line {n}" for n in range(2000)]


def test_a_retry_with_the_same_request_id_gets_the_first_answer(tmp_path: Path):
    with Cell(tmp_path) as cell:
        cell.write("before")
        first = cell.logs[cell.leader()].propose([a_line("once", request_id="id")]).result(10)
        cell.stop(cell.leader())
        again = cell.logs[cell.leader()].propose([a_line("once", request_id="id")]).result(10)
        assert (again[0].version, again[0].changed) == (first[0].version, False)
        assert cell.agree() == ["before", "once"]


def test_a_follower_refuses_and_names_the_leader(tmp_path: Path):
    with Cell(tmp_path) as cell:
        leader, follower = cell.leader(), a_follower(cell)
        until(lambda: cell.logs[follower].status().leader == leader, "the follower knows")
        for future in (cell.logs[follower].propose([a_line("x")]), cell.logs[follower].barrier()):
            with pytest.raises(NotLeader) as refused:
                future.result(timeout=5)
            assert refused.value.leader == leader


def test_too_large_and_too_many_never_enter_the_log(tmp_path: Path):
    with Cell(tmp_path, 1, waiting_max=10) as cell:
        log = cell.logs[cell.leader()]
        with pytest.raises(TooLarge):
            log.propose([a_line("x" * ENTRY_BYTES_MAX)]).result(timeout=5)
        with pytest.raises(QueueFull):
            log.propose([a_line(f"{n}") for n in range(11)]).result(timeout=5)
        assert log.propose([]).result(timeout=5) == ()
        almost = "y" * (ENTRY_BYTES_MAX - 4096)
        assert log.propose([a_line(almost, request_id="large")]).result(timeout=10)
        assert cell.agree() == [almost]


def test_the_next_leader_has_every_acknowledged_entry(tmp_path: Path):
    with Cell(tmp_path) as cell:
        for number in range(3):
            cell.write(*[f"{number}-{n}" for n in range(20)])
            name = cell.leader()
            cell.stop(name)
            assert cell.leader() != name
            cell.start(name)
        assert cell.agree() == [f"{number}-{n}" for number in range(3) for n in range(20)]
        assert cell.failures == []


def test_a_closing_leader_hands_over_without_an_election_timeout(tmp_path: Path):
    with Cell(tmp_path, election_min_ms=3000, election_max_ms=6000, silence_max_ms=6000) as cell:
        cell.write("one")
        cell.agree()
        started = time.monotonic()
        cell.stop(cell.leader())
        cell.leader()
        assert time.monotonic() - started < 2.0
        cell.write("two")


def test_leadership_is_told_in_turn_and_at_most_one_replica_leads(tmp_path: Path):
    with Cell(tmp_path) as cell:
        cell.write("one")
        first = cell.leader()
        cell.stop(first)
        second = cell.leader()
        told = list(cell.leaderships)
        assert [(name, leading) for name, leading, _ in told] == [
            (first, True),
            (first, False),
            (second, True),
        ]
        assert told[2][2] > told[1][2] == told[0][2], "the term grows"
        assert [log.leading() for log in cell.logs.values()].count(True) == 1


def test_a_leader_without_a_majority_knows_it_within_its_lease_and_every_future_ends(
    tmp_path: Path,
):
    with Cell(tmp_path, propose_timeout_ms=1500) as cell:
        cell.write("one")
        leader = cell.leader()
        log = cell.logs[leader]
        for name in [name for name in cell.logs if name != leader]:
            cell.stop(name)
        started = time.monotonic()
        proposed, read = log.propose([a_line("nobody hears")]), log.barrier()
        until(lambda: not log.leading(), "the lease runs out", within_s=0.5)
        assert isinstance(read.exception(timeout=5), NotLeader | OutcomeUnknown)
        assert isinstance(proposed.exception(timeout=5), OutcomeUnknown)
        assert time.monotonic() - started < 2.5
        assert cell.leaderships[-1][:2] == (leader, False)
        assert isinstance(log.propose([a_line("later")]).exception(timeout=5), NotLeader)


def test_closing_ends_every_future(tmp_path: Path):
    with Cell(tmp_path) as cell:
        leader = cell.leader()
        log = cell.logs[leader]
        futures = [log.propose([a_line(f"{n}" * 200)]) for n in range(500)]
        futures += [log.barrier() for _ in range(50)]
        cell.stop(leader)
        assert wait(futures, timeout=5).not_done == set()
        assert isinstance(log.propose([a_line("x")]).exception(timeout=1), NotLeader)
        assert isinstance(log.barrier().exception(timeout=1), NotLeader)
        log.close()


def test_a_barrier_ends_when_all_earlier_writes_are_applied(tmp_path: Path):
    with Cell(tmp_path) as cell:
        leader = cell.leader()
        log, machine = cell.logs[leader], cell.machines[leader]
        for number in range(50):
            log.propose([a_line(f"{number}")]).result(timeout=5)
            index = log.barrier().result(timeout=5)
            assert machine.lines[-1] == f"{number}"
            assert index == machine.applied[-1]


def test_everything_is_there_after_a_restart_of_all(tmp_path: Path):
    with Cell(tmp_path) as cell:
        cell.write(*[f"{n}" for n in range(50)])
        for name in list(cell.logs):
            cell.stop(name)
        for name in cell.members:
            cell.start(name, start="resume")
        cell.leader()
        assert cell.agree() == [f"{n}" for n in range(50)]


def test_a_compacted_log_restarts_from_its_snapshot(tmp_path: Path):
    with Cell(tmp_path, **FREQUENT) as cell:
        cell.write(*[f"{n}" for n in range(200)])
        cell.agree()
        until(
            lambda: all((tmp_path / name / "snapshot").exists() for name in cell.members),
            "snapshots",
        )
        for name in list(cell.logs):
            cell.stop(name)
        for name in cell.members:
            cell.start(name)
            assert cell.machines[name].restored == 1
        cell.leader()
        assert cell.agree() == [f"{n}" for n in range(200)]
        assert all(len(machine.applied) < 150 for machine in cell.machines.values())


def test_a_wiped_replica_joins_and_catches_up_from_a_snapshot(tmp_path: Path):
    with Cell(tmp_path, **FREQUENT) as cell:
        cell.write(*[f"{n}" for n in range(100)])
        name = a_follower(cell)
        cell.stop(name)
        shutil.rmtree(tmp_path / name)
        with pytest.raises(LogFailed, match="join"):
            cell.start(name, start="resume")
        cell.start(name, start="join")
        assert cell.agree() == [f"{n}" for n in range(100)]
        assert cell.machines[name].restored == 1
        until(lambda: not (tmp_path / name / "newcomer").exists(), "it is a full replica again")
        until(lambda: 0 <= cell.logs[name].status().current_age_ms < 500, "and says it is current")


@pytest.mark.parametrize("policy", ["join", "bootstrap"])
def test_a_wiped_replica_does_not_help_a_stale_one_to_lose_writes(tmp_path: Path, policy: str):
    with Cell(tmp_path) as cell:
        cell.write("old")
        cell.agree()
        stale = a_follower(cell)
        cell.stop(stale)
        cell.write("acknowledged by two")
        wiped = a_follower(cell)
        holder = cell.leader()
        cell.stop(wiped)
        cell.stop(holder)
        shutil.rmtree(tmp_path / wiped)
        cell.start(stale)
        cell.start(wiped, start=policy)
        time.sleep(2.5)
        assert not any(log.leading() for log in cell.logs.values())
        cell.start(holder)
        cell.leader()
        assert cell.agree() == ["old", "acknowledged by two"]


def test_a_returning_replica_does_not_disturb_the_leader(tmp_path: Path):
    with Cell(tmp_path) as cell:
        cell.write("one")
        name, leader = a_follower(cell), cell.leader()
        term = cell.logs[leader].status().term
        for _ in range(2):
            cell.stop(name)
            time.sleep(1.0)
            cell.start(name)
            cell.agree()
        assert cell.logs[leader].leading()
        assert cell.logs[leader].status().term == term


def test_status_tells_how_far_each_replica_is(tmp_path: Path):
    with Cell(tmp_path) as cell:
        cell.write(*[f"{n}" for n in range(10)])
        cell.agree()
        leader, follower = cell.leader(), a_follower(cell)
        seen = cell.logs[leader].status()
        assert (seen.leader, seen.leading, seen.current_age_ms) == (leader, True, 0)
        assert [member.name for member in seen.members] == ["r1", "r2", "r3"]
        until(
            lambda: (
                {m.match_index for m in cell.logs[leader].status().members} == {seen.applied_index}
            ),
            "all match",
        )
        far = cell.logs[follower].status()
        assert (far.leader, far.leading) == (leader, False)
        assert 0 <= far.current_age_ms < 500
        assert {m.match_index for m in far.members if m.name != follower} == {-1}


def test_an_apply_that_raises_stops_nothing(tmp_path: Path):
    """A machine that breaks its contract; PySyncObj alone would retry for ever on all replicas."""

    class Touchy(LedgerMachine):
        def apply(self, index: int, data: bytes) -> tuple:
            if b"poison" in data:
                raise RuntimeError("I did not expect that")
            return super().apply(index, data)

    told: list[bool] = []
    address = "127.0.0.1:" + str(free_port())
    config = LogConfig(
        name="r1", listen=address, members={"r1": address}, directory=tmp_path, start="bootstrap"
    )
    machine = Touchy()
    log = ReplicatedLog(
        config, machine, SystemClock(), lambda leading, _: told.append(leading), told.append
    )
    try:
        until(log.leading, "it leads")
        assert isinstance(log.propose([a_line("poison")]).exception(timeout=5), OutcomeUnknown)
        assert log.propose([a_line("fine")]).result(timeout=5)
        assert machine.lines == ["fine"]
    finally:
        log.close()
    assert told == [True, False]


def test_strangers_on_the_port_are_sent_away_and_harm_nothing(tmp_path: Path):
    with Cell(tmp_path) as cell:
        cell.write("one")
        term = cell.logs[cell.leader()].status().term
        for name in cell.members:
            host, port = cell.members[name].rsplit(":", 1)
            for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"\x02\0\0\0\x92\x01"):
                with socket.create_connection((host, int(port)), timeout=5) as stream:
                    stream.sendall(greeting)
                    stream.settimeout(5)
                    assert drained(stream) == b""
        cell.write("two")
        assert cell.logs[cell.leader()].status().term == term


def test_many_threads_may_propose_at_once(tmp_path: Path):
    with Cell(tmp_path) as cell:
        log = cell.logs[cell.leader()]

        def write(tag: int) -> None:
            for number in range(50):
                log.propose([a_line(f"{tag}-{number}")]).result(timeout=10)

        threads = [threading.Thread(target=write, args=(tag,)) for tag in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = cell.agree()
        assert len(lines) == 400
        for tag in range(8):
            own = [line for line in lines if line.startswith(f"{tag}-")]
            assert own == [f"{tag}-{number}" for number in range(50)]


def test_a_group_has_the_bytes_of_an_entry(tmp_path: Path):
    address = "127.0.0.1:7001"
    config = LogConfig(name="r1", listen=address, members={"r1": address}, directory=tmp_path)
    proposals = Proposals(config, SystemClock())
    proposals.submit([a_line("a"), a_line("b")])
    proposals.submit([a_line("c")])
    taken = proposals.take(1)
    assert taken is not None
    entry = decode_entry(taken[0])
    assert [proposal.command.name for proposal in entry.proposals] == ["a", "b", "c"]
    assert abs(entry.at_ms - time.time() * 1000) < 10_000
    proposals.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def drained(stream: socket.socket) -> bytes:
    """What the other side said before it closed."""
    try:
        return stream.recv(100)
    except ConnectionResetError:
        return b""
