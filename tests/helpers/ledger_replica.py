"""One replica of a ledger as a process, driven by lines of JSON: what the tests kill.

``python -m tests.helpers.ledger_replica '{"name": ..., "members": {...}, "directory": ...}'``; ends when stdin does.
"""

import json
import logging
import os
import resource
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from borgmaster.ports import SystemClock
from borgmaster.replication import LogConfig, LogFailed, ReplicatedLog
from tests.helpers.ledger_machine import LedgerMachine, a_line


class Program:
    def __init__(self, settings: dict) -> None:
        limit = settings.pop("file_bytes_max", 0)
        if limit:  # in place of a small disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        self.out_lock = threading.Lock()
        self.machine = LedgerMachine()
        config = LogConfig(
            **settings | {"directory": Path(settings["directory"])},
            listen=settings["members"][settings["name"]],
        )
        self.log = ReplicatedLog(
            config, self.machine, SystemClock(), self.on_leadership, self.on_fatal
        )

    def on_leadership(self, leading: bool, term: int) -> None:
        self.say({"leading": leading, "term": term})

    def on_fatal(self, failure: LogFailed) -> None:
        self.say({"fatal": str(failure)})
        os._exit(failure.exit_code)

    def say(self, message: dict) -> None:
        with self.out_lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    def answer(self, number: int, future: Future) -> None:
        error = future.exception()
        if error is None:
            result = future.result()
            value = result[0].version if isinstance(result, tuple) else result
            self.say({"id": number, "value": value})
        else:
            self.say({"id": number, "error": type(error).__name__})

    def handle(self, request: dict) -> None:
        number = request["id"]
        match request["do"]:
            case "write":
                line = a_line(request["line"], request_id=request.get("request_id", ""))
                future = self.log.propose([line])
                future.add_done_callback(lambda done: self.answer(number, done))
            case "barrier":
                self.log.barrier().add_done_callback(lambda done: self.answer(number, done))
            case "lines":
                self.say({"id": number, "value": list(self.machine.lines)})
            case "status":
                status = self.log.status()
                value = {
                    "leading": status.leading,
                    "leader": status.leader,
                    "term": status.term,
                    "applied": status.applied_index,
                    "restored": self.machine.restored,
                }
                self.say({"id": number, "value": value})
            case "measure":
                self.say({"id": number, "value": self.measure(**request["with"])})

    def measure(self, *, count: int, window: int, size: int) -> dict:
        """Latencies in ms and the rate, of ``count`` writes with ``window`` under way."""
        slots = threading.Semaphore(window)
        took: list[float] = []
        begun = time.perf_counter()
        for number in range(count):
            slots.acquire()
            started = time.perf_counter()

            def done(future: Future, started: float = started) -> None:
                future.result()
                took.append((time.perf_counter() - started) * 1000)
                slots.release()

            line = f"{begun}-{number}-".ljust(size, "x")
            self.log.propose([a_line(line)]).add_done_callback(done)
        for _ in range(window):
            slots.acquire()
        seconds = time.perf_counter() - begun
        took.sort()
        return {
            "p50_ms": round(took[count // 2], 2),
            "p99_ms": round(took[count * 99 // 100], 2),
            "max_ms": round(took[-1], 2),
            "per_s": round(count / seconds),
        }


def main() -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    sys.setswitchinterval(0.0005)
    try:
        program = Program(json.loads(sys.argv[1]))
    except LogFailed as failure:
        print(json.dumps({"fatal": str(failure)}), flush=True)
        return failure.exit_code
    program.say({"started": True})
    for line in sys.stdin:
        program.handle(json.loads(line))
    program.log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
