"""Owns health checks: http, tcp and exec probes of the tasks that have one, one asyncio task each.

Until a task is healthy for the first time it is probed quickly (from 20 ms, growing to its interval), so that a
start is seen in milliseconds; the failures that count are those past the start grace, in a row.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from borgcell.specs import HealthCheck
from msgspec import Struct

from borglet.clock import Clock
from borglet.runtime.port import ContainerId

log = logging.getLogger(__name__)

FIRST_INTERVAL_MS: Final = 20
JITTER: Final = 0.1  # share of the interval by which probes of many tasks drift apart
HOST: Final = "127.0.0.1"  # tasks share the machine's network
_HEAD_BYTES_MAX: Final = 4096


class Target(Struct, frozen=True):
    """What to probe. ``started_at_ms`` is Unix time; ``ports`` by name."""

    check: HealthCheck
    ports: dict[str, int]
    started_at_ms: int


class Health(Struct, frozen=True):
    """What probes have shown. ``failed``: too many failures in a row, ``detail`` is the last one."""

    healthy: bool = False
    failures: int = 0
    failed: bool = False
    detail: str = ""


def after_probe(health: Health, failure: str, check: HealthCheck, *, in_grace: bool) -> Health:
    """Health after one more probe; ``failure`` is "" when it was good. Pure."""
    if not failure:
        return Health(healthy=True)
    failures = 0 if in_grace else health.failures + 1
    failed = failures >= check.failures_max
    times = f"{failures} time{'s' * (failures != 1)}"
    detail = f"health check failed {times} in a row: {failure}" if failed else failure
    return Health(healthy=False, failures=failures, failed=failed, detail=detail)


Execute = Callable[[ContainerId, tuple[str, ...], int], Awaitable[int]]
Changed = Callable[[ContainerId, Health], None]


class Prober:
    """Probes a changing set of tasks; tells ``changed`` when healthy or failed becomes another."""

    def __init__(
        self, clock: Clock, execute: Execute, changed: Changed, *, seed: int | None = None
    ) -> None:
        self._clock = clock
        self._execute = execute
        self._changed = changed
        self._dice = random.Random(seed)
        self._targets: dict[ContainerId, Target] = {}
        self._loops: dict[ContainerId, asyncio.Task[None]] = {}

    def sync(self, targets: Mapping[ContainerId, Target]) -> None:
        """Probe exactly these from now on; one whose target is as before goes on undisturbed."""
        for id in [id for id, known in self._targets.items() if targets.get(id) != known]:
            self._loops.pop(id).cancel()
            del self._targets[id]
        for id, target in targets.items():
            if id not in self._targets:
                self._targets[id] = target
                self._loops[id] = asyncio.create_task(self._probe_for_ever(id, target))

    async def close(self) -> None:
        """Stop all probes."""
        loops = list(self._loops.values())
        self.sync({})
        await asyncio.gather(*loops, return_exceptions=True)

    async def _probe_for_ever(self, id: ContainerId, target: Target) -> None:
        health, known, wait_ms = Health(), False, float(FIRST_INTERVAL_MS)
        check = target.check
        while True:
            await asyncio.sleep(wait_ms / 1000)
            failure = await self._probe(id, target)
            in_grace = self._clock.wall_ms() < target.started_at_ms + check.grace_ms
            before, health = health, after_probe(health, failure, check, in_grace=in_grace)
            if not known or (before.healthy, before.failed) != (health.healthy, health.failed):
                self._changed(
                    id, health
                )  # the first verdict always: an adopted task counted as healthy
                known = True
            quick = in_grace and not health.healthy
            wait_ms = min(wait_ms * 1.5, check.interval_ms) if quick else check.interval_ms
            wait_ms *= self._dice.uniform(1 - JITTER, 1 + JITTER)

    async def _probe(self, id: ContainerId, target: Target) -> str:
        """Why the task is not healthy now, or ""."""
        check, timeout_s = target.check, target.check.timeout_ms / 1000
        try:
            if check.exec:
                status = await self._execute(id, check.exec, check.timeout_ms)
                return "" if status == 0 else f"{check.exec[0]} exited with status {status}"
            port = target.ports[check.port]
            async with asyncio.timeout(timeout_s):
                return await (http_probe(port, check.http) if check.http else tcp_probe(port))
        except TimeoutError:
            return f"no answer within {check.timeout_ms} ms"
        except KeyError:
            return f"the task has no port {check.port!r}"
        except Exception as error:  # noqa: BLE001 - whatever a probe meets, the task is not healthy
            return str(error) or type(error).__name__


async def tcp_probe(port: int) -> str:
    """Whether somebody accepts; "" or why not."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError as error:
        return f"port {port}: {_os_text(error)}"
    await _shut(writer)
    return ""


async def http_probe(port: int, path: str) -> str:
    """Whether GET answers 200..399; "" or why not. No redirect is followed."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port, limit=_HEAD_BYTES_MAX)
    except OSError as error:
        return f"port {port}: {_os_text(error)}"
    try:
        request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nUser-Agent: borglet\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await writer.drain()
        line = (await reader.readline()).decode("latin-1").strip()
    except (OSError, ValueError) as error:
        return f"GET {path} on port {port}: {error}"
    finally:
        await _shut(writer)
    words = line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        return f"GET {path} on port {port}: no HTTP answer ({line[:60]!r})"
    if 200 <= int(words[1]) <= 399:
        return ""
    return f"GET {path} on port {port}: status {' '.join(words[1:])[:80]}"


def _os_text(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return error.strerror or str(error)


async def _shut(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()  # no lingering: the answer is known
    with contextlib.suppress(OSError):
        await writer.wait_closed()
