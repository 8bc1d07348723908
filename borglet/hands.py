"""Owns the threads in which the agent calls its runtimes: bounded, and stops never queue behind starts."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from borgcell.types import EndKind, RuntimeKind

from borglet.runtime.port import Container, ContainerId, Runtime
from borglet.sockets import taken_port
from borglet.substitution import Place, UnknownPort, container_spec
from borglet.values import Desired

STARTERS: Final = 4
OTHERS: Final = 4
PROBERS: Final = 8
WAIT_CHANGE_MS: Final = 500  # as long may the end of the agent take

P = ParamSpec("P")
R = TypeVar("R")


class StartRefused(Exception):
    """The start cannot succeed; ``kind`` is how the incarnation ended."""

    def __init__(self, kind: EndKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Hands:
    """Calls of runtimes, each in the pool of its kind."""

    def __init__(self, runtimes: Mapping[RuntimeKind, Runtime], place: Place) -> None:
        self.runtimes = runtimes
        self._place = place
        self._starters = ThreadPoolExecutor(STARTERS, "start")
        self._others = ThreadPoolExecutor(OTHERS, "act")
        self._probers = ThreadPoolExecutor(PROBERS, "probe")
        self._waiters = ThreadPoolExecutor(max(1, len(runtimes)), "wait")
        self._listers = ThreadPoolExecutor(max(1, len(runtimes)), "list")  # one hangs, others go on

    async def start(self, desired: Desired) -> Container:
        """Make the container. Raises StartRefused, RuntimeFailed."""
        return await _run(self._starters, self._start, desired)

    def _start(self, desired: Desired) -> Container:
        try:
            spec = container_spec(desired, self._place)
        except UnknownPort as error:
            raise StartRefused(EndKind.START_FAILED, str(error)) from error
        port = taken_port(desired.ports.values())
        if port is not None:
            raise StartRefused(EndKind.REFUSED, f"port {port} is in use by another process")
        return self.runtimes[desired.spec.chosen_runtime()].start(spec)

    async def listing(self, kind: RuntimeKind) -> list[Container]:
        """What the runtime has. Raises RuntimeFailed."""
        return await _run(self._listers, self.runtimes[kind].list)

    async def attributes(self, kind: RuntimeKind) -> dict[str, str]:
        """What the runtime says of itself."""
        return await _run(self._listers, self.runtimes[kind].attributes)

    async def act(self, method: Callable[[ContainerId], None], id: ContainerId) -> None:
        """Terminate, kill, release or forget."""
        await _run(self._others, method, id)

    async def execute(
        self, kind: RuntimeKind, id: ContainerId, argv: tuple[str, ...], timeout_ms: int
    ) -> int:
        """Run a probe inside a container. Raises RuntimeFailed, TimeoutError."""
        return await _run(self._probers, self.runtimes[kind].execute, id, argv, timeout_ms)

    async def wait_change(self, kind: RuntimeKind) -> bool:
        """Wait a while for a container of the runtime to end."""
        return await _run(self._waiters, self.runtimes[kind].wait_change, WAIT_CHANGE_MS)

    async def close(self) -> None:
        """Take no new work; what runs in a runtime goes on there. No thread waits in ``wait_change`` any more."""
        for pool in (self._starters, self._others, self._probers, self._listers):
            pool.shutdown(wait=False, cancel_futures=True)
        # a waiter left behind would eat the news meant for the next agent, or wait on what ``close`` of a runtime shut
        await asyncio.to_thread(self._waiters.shutdown, cancel_futures=True)


async def _run(
    pool: ThreadPoolExecutor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    assert not kwargs, "an executor takes positional arguments only"
    return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
