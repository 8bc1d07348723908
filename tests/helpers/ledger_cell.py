"""Cells of ledger replicas on loopback, in this process and as processes of their own, and waiting with a bound."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from borgmaster.ports import SystemClock
from borgmaster.replication import LogConfig, LogFailed, ReplicatedLog
from tests.helpers.ledger_machine import LedgerMachine, a_line

ROOT = Path(__file__).parents[2]


T = TypeVar("T")


def until(found: Callable[[], T], what: str, *, within_s: float = 10.0) -> T:
    """What ``found`` returns once it is truthy."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {within_s} s: {what}")


def free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{listening.getsockname()[1]}" for listening in sockets]
    for listening in sockets:
        listening.close()
    return addresses


class Cell:
    """Replicas in this process."""

    def __init__(self, directory: Path, count: int = 3, **settings: object) -> None:
        self.directory = directory
        self.members = dict(
            zip([f"r{i}" for i in range(1, count + 1)], free_addresses(count), strict=True)
        )
        self.settings: dict = {"start": "bootstrap"} | settings
        self.logs: dict[str, ReplicatedLog] = {}
        self.machines: dict[str, LedgerMachine] = {}
        self.leaderships: list[tuple[str, bool, int]] = []
        self.failures: list[LogFailed] = []

    def __enter__(self) -> "Cell":
        for name in self.members:
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.logs):
            self.stop(name)

    def start(self, name: str, **settings: object) -> ReplicatedLog:
        machine = LedgerMachine()
        config = LogConfig(
            name=name,
            listen=self.members[name],
            members=self.members,
            directory=self.directory / name,
            **self.settings | settings,
        )
        self.logs[name] = ReplicatedLog(
            config,
            machine,
            SystemClock(),
            lambda leading, term: self.leaderships.append((name, leading, term)),
            self.failures.append,
        )
        self.machines[name] = machine
        return self.logs[name]

    def stop(self, name: str) -> None:
        self.logs.pop(name).close()

    def leader(self, *, within_s: float = 10.0) -> str:
        def find() -> str:
            return next((name for name, log in self.logs.items() if log.leading()), "")

        return until(find, "a leader", within_s=within_s)

    def write(self, *lines: str) -> None:
        """Write each line, at whoever leads; retries with the same request ids."""
        for line in lines:
            until(lambda line=line: self._try(line), f"{line} written")

    def _try(self, line: str) -> bool:
        log = self.logs[self.leader()]
        return log.propose([a_line(line)]).exception(timeout=10) is None

    def agree(self) -> list[str]:
        """The lines, once all running replicas have the same as the leader."""

        def same() -> list[list[str]]:
            held = [self.machines[name].lines for name in self.logs]
            applied = {log.status().applied_index for log in self.logs.values()}
            return held if len(applied) == 1 and all(h == held[0] for h in held) else []

        return until(same, "all replicas hold the same")[0]


class ReplicaProcess:
    """A replica as a process; requests end with None when it dies."""

    def __init__(self, directory: Path, members: dict[str, str], name: str, **settings: object):
        self.name = name
        arguments = {"name": name, "members": members, "directory": str(directory / name)}
        self._errors = (directory / f"{name}.stderr").open("ab")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.helpers.ledger_replica",
                json.dumps(arguments | settings),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
        )
        self.events: list[dict] = []
        self.leading = False
        self._waiting: dict[int, Future] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._dead = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def send(self, do: str, **fields: object) -> "Future[dict | None]":
        future: Future[dict | None] = Future()
        with self._lock:
            if self._dead:
                future.set_result(None)
                return future
            self._number += 1
            self._waiting[self._number] = future
            request = {"id": self._number, "do": do} | fields
            with contextlib.suppress(OSError, ValueError):
                assert self.process.stdin is not None
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
        return future

    def ask(self, do: str, **fields: object) -> object:
        """The value of the answer; None when it failed or the process is dead."""
        answer = self.send(do, **fields).result(timeout=30)
        return answer.get("value") if answer else None

    def kill(self) -> None:
        """kill -9, if it still lives."""
        self.process.kill()
        self._end()

    def close(self) -> int:
        """Ask it to stop; its exit code."""
        with self._lock, contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        return self._end()

    def _end(self) -> int:
        try:
            code = self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(timeout=20)
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            with contextlib.suppress(OSError):
                stream.close()
        self.leading = False
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "id" not in message:
                self.leading = message.get("leading", self.leading)
                self.events.append(message)
                continue
            with self._lock:
                waiting = self._waiting.pop(message["id"])
            waiting.set_result(message)
        with self._lock:
            self._dead = True
            waiting_all, self._waiting = list(self._waiting.values()), {}
        for waiting in waiting_all:
            waiting.set_result(None)


class ProcessCell:
    """Replicas as processes."""

    def __init__(self, directory: Path, count: int = 3, **settings: object) -> None:
        self.directory = directory
        self.members = dict(
            zip([f"r{i}" for i in range(1, count + 1)], free_addresses(count), strict=True)
        )
        self.settings: dict = {"start": "bootstrap"} | settings
        self.replicas: dict[str, ReplicaProcess] = {}

    def __enter__(self) -> "ProcessCell":
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start_all()
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.replicas.values():
            replica.kill()

    def start(self, name: str, **settings: object) -> ReplicaProcess:
        replica = ReplicaProcess(self.directory, self.members, name, **self.settings | settings)
        self.replicas[name] = replica
        return replica

    def start_all(self) -> None:
        for name in self.members:
            self.start(name)

    def kill_all(self) -> None:
        for replica in self.replicas.values():
            replica.process.kill()
        for replica in self.replicas.values():
            replica.kill()

    def leader(self, *, within_s: float = 15.0) -> ReplicaProcess:
        def find() -> ReplicaProcess | None:
            return next((replica for replica in self.replicas.values() if replica.leading), None)

        return until(find, "a leader", within_s=within_s)

    def write(self, line: str, *, within_s: float = 15.0) -> int:
        """Where the line stands, once it is acknowledged; retried with its request id."""

        def attempt() -> object:
            return self.leader(within_s=within_s).ask("write", line=line)

        return int(until(attempt, f"{line} acknowledged", within_s=within_s))
