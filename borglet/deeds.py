"""Owns how planned actions are carried out on the runtimes, and what each outcome means to the records."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, TypeAlias

from borgcell.types import EndKind
from msgspec.structs import replace

from borglet.actions import Action, Forget, Kill, Release, Start, Terminate
from borglet.clock import Clock
from borglet.hands import Hands, StartRefused
from borglet.ledger import Ledger
from borglet.lookout import Lookout
from borglet.metrics import Metrics
from borglet.runtime.port import ContainerId, RuntimeFailed
from borglet.values import Desired

log = logging.getLogger(__name__)

ATTEMPTS_MAX: Final = 3  # of a start that fails for a passing reason
RETRY_MS: Final = 1_000  # doubles with every attempt
PAUSE_S: Final = 1.0  # before a container whose action failed is looked at again; doubles
PAUSE_S_MAX: Final = 30.0

Deed: TypeAlias = Terminate | Kill | Start | Release | Forget


class Deeds:
    """Actions under way, at most one per container."""

    def __init__(
        self, hands: Hands, lookout: Lookout, ledger: Ledger, clock: Clock, metrics: Metrics
    ) -> None:
        self._hands = hands
        self._lookout = lookout
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()
        self._failures: dict[ContainerId, int] = {}

    def claim(self, actions: Iterable[Action]) -> list[Deed]:
        """Those that need a runtime, each container marked as busy."""
        deeds = [
            action
            for action in actions
            if isinstance(action, Terminate | Kill | Start | Release | Forget)
        ]
        for deed in deeds:
            self._lookout.begin(_id_of(deed))
        return deeds

    def do(self, deed: Deed) -> None:
        """Carry out a claimed one in the background; its container is free again when it is done."""
        task = asyncio.create_task(self._do(deed))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Give what is under way a moment; the runtimes finish it in any case."""
        if self._running:
            await asyncio.wait(self._running, timeout=PAUSE_S)
        for task in self._running:
            task.cancel()

    async def _do(self, deed: Deed) -> None:
        id = _id_of(deed)
        try:
            await (self._start(deed.desired) if isinstance(deed, Start) else self._touch(deed))
            self._failures.pop(id, None)
        except Exception as error:
            failures = self._failures[id] = self._failures.get(id, 0) + 1
            log.warning(
                "action_failed",
                extra={
                    "action": type(deed).__name__.lower(),
                    "task": str(id.task),
                    "incarnation": id.incarnation,
                    "detail": str(error),
                },
                exc_info=None if isinstance(error, RuntimeFailed) else error,
            )
            await asyncio.sleep(min(PAUSE_S * 2 ** (failures - 1), PAUSE_S_MAX))
        finally:
            self._lookout.end(id)

    async def _touch(self, deed: Terminate | Kill | Release | Forget) -> None:
        id = deed.id
        container = self._lookout.containers.get(id)
        if container is None:
            return
        runtime = self._hands.runtimes[container.runtime]
        match deed:
            case Terminate():
                log.info("task_stopping", extra=_names(id) | {"detail": deed.detail})
                self._ledger.signalled(id)  # even when it fails: then SIGKILL does it
                await self._hands.act(runtime.terminate, id)
            case Kill():
                log.info("task_killed", extra=_names(id))
                await self._hands.act(runtime.kill, id)
            case Release():
                await self._hands.act(runtime.release, id)
                self._ledger.put(replace(self._ledger.of(id), released=True))
            case Forget():
                await self._hands.act(runtime.forget, id)
                self._lookout.drop(id)

    async def _start(self, desired: Desired) -> None:
        id = desired.id
        begun_ms = self._clock.mono_ms()
        try:
            container = await self._hands.start(desired)
        except StartRefused as refused:
            self._fail(id, refused.kind, str(refused))
        except RuntimeFailed as failed:
            await self._after_failed_start(desired, failed)
        except Exception as error:
            log.exception("start_bug", extra=_names(id))
            detail = f"internal error of the Borglet: {error}"
            await self._after_failed_start(desired, RuntimeFailed(detail))
        else:
            seconds = (self._clock.mono_ms() - begun_ms) / 1000
            self._metrics.start_seconds.observe(seconds)
            self._metrics.starts.labels("started").inc()
            self._lookout.put(container)
            log.info("task_started", extra=_names(id) | {"runtime": container.runtime.value})

    async def _after_failed_start(self, desired: Desired, failed: RuntimeFailed) -> None:
        """The container may exist all the same: the runtime's list tells."""
        id, kind = desired.id, desired.spec.chosen_runtime()
        container = await self._found(desired)
        if container:
            return
        attempts = self._ledger.of(id).attempts + 1
        if failed.permanent or attempts >= ATTEMPTS_MAX:
            times = f" (tried {attempts} times)" if attempts > 1 else ""
            self._fail(id, EndKind.START_FAILED, f"{failed}{times}")
            return
        log.warning("start_failed", extra=_names(id) | {"detail": str(failed), "runtime": kind})
        retry_at_ms = self._clock.mono_ms() + RETRY_MS * 2 ** (attempts - 1)
        self._ledger.put(
            replace(
                self._ledger.of(id),
                attempts=attempts,
                retry_at_ms=retry_at_ms,
                retry_reason=f"{failed}; trying again",
            )
        )

    async def _found(self, desired: Desired) -> bool:
        kind = desired.spec.chosen_runtime()
        try:
            listing = await self._hands.listing(kind)
        except Exception:  # noqa: BLE001 - then it counts as not made; the next listing corrects that
            return False
        for container in listing:
            if container.id == desired.id:
                self._lookout.put(container)
                return True
        return False

    def _fail(self, id: ContainerId, kind: EndKind, detail: str) -> None:
        self._metrics.starts.labels(kind.value).inc()
        self._metrics.ends.labels(kind.value).inc()
        self._ledger.start_failed(id, kind, detail, self._clock.wall_ms())


def _id_of(deed: Deed) -> ContainerId:
    return deed.desired.id if isinstance(deed, Start) else deed.id


def _names(id: ContainerId) -> dict[str, object]:
    return {"task": str(id.task), "incarnation": id.incarnation}
