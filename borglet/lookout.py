"""Owns what the agent believes about its containers, from listings and from its own actions.

A listing that ran while an action on a container was under way says nothing certain about that container:
it is ignored there, and the runtime is asked again when the action is done.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from borgcell.types import RuntimeKind

from borglet.hands import Hands
from borglet.runtime.port import Container, ContainerId, RuntimeFailed

log = logging.getLogger(__name__)

LIST_PERIOD_S: Final = 10.0  # runtimes are asked anew even when they tell of no change
LOOK_AGAIN_S: Final = (
    0.05,
    0.2,
    1.0,
)  # after news: an engine may tell of an end before it lists it
BLIND_PERIOD_S: Final = 2.0  # likewise while one does not answer
NOT_ASKED: Final = "not asked yet"


class Lookout:
    """The containers of all runtimes. ``blind`` gives the reason per runtime that does not answer."""

    def __init__(self, hands: Hands, changed: Callable[[], None]) -> None:
        self.containers: dict[ContainerId, Container] = {}
        self.busy: set[ContainerId] = set()
        self.blind: dict[RuntimeKind, str] = dict.fromkeys(hands.runtimes, NOT_ASKED)
        self.attributes: dict[RuntimeKind, dict[str, str]] = {}
        self._hands = hands
        self._changed = changed
        self._pokes = {kind: asyncio.Event() for kind in hands.runtimes}
        self._looking = {kind: asyncio.Lock() for kind in hands.runtimes}
        self._touched: dict[RuntimeKind, set[ContainerId]] = {}
        self._unsure: set[ContainerId] = set()

    def asked_all(self) -> bool:
        """Whether every runtime was asked at least once."""
        return NOT_ASKED not in self.blind.values()

    def begin(self, id: ContainerId) -> None:
        """An action on the container starts."""
        assert id not in self.busy, f"two actions at once on {id}"
        self.busy.add(id)
        for touched in self._touched.values():
            touched.add(id)

    def end(self, id: ContainerId) -> None:
        """The action is over."""
        self.busy.discard(id)
        if id in self._unsure:
            self._unsure.discard(id)
            for poke in self._pokes.values():
                poke.set()
        self._changed()

    def put(self, container: Container) -> None:
        """A container as an action left it."""
        self.containers[container.id] = container

    def drop(self, id: ContainerId) -> None:
        """A container is gone by our own action."""
        self.containers.pop(id, None)

    async def watch_for_ever(self, kind: RuntimeKind) -> None:
        """Look whenever the runtime tells of a change."""
        while True:
            try:
                if await self._hands.wait_change(kind):
                    self._pokes[kind].set()
            except Exception:
                log.exception("wait_change_failed", extra={"runtime": kind.value})
                await asyncio.sleep(BLIND_PERIOD_S)

    async def look_for_ever(self, kind: RuntimeKind) -> None:
        """Ask the runtime when poked, and now and then."""
        poke = self._pokes[kind]
        again_s: tuple[float, ...] = ()
        while True:
            poke.clear()
            await self.look(kind)
            period_s = BLIND_PERIOD_S if kind in self.blind else LIST_PERIOD_S
            if again_s:
                period_s, *later = again_s
                again_s = tuple(later)
            # not wait_for: that of Python 3.11 forgets a cancellation that comes together with the event
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await poke.wait()
                again_s = LOOK_AGAIN_S

    async def look(self, kind: RuntimeKind) -> None:
        """Ask the runtime what it has, now."""
        async with self._looking[kind]:
            touched = self._touched[kind] = set(self.busy)
            try:
                found = await self._hands.listing(kind)
                self.attributes[kind] = await self._hands.attributes(kind)
            except Exception as error:  # noqa: BLE001 - whatever it is, this runtime cannot be believed now
                self._lose_sight(kind, error)
                return
            finally:
                del self._touched[kind]
        if self.blind.pop(kind, NOT_ASKED) != NOT_ASKED:
            log.info("runtime_answers", extra={"runtime": kind.value})
        self._believe(kind, {container.id: container for container in found}, touched)
        self._changed()

    def _lose_sight(self, kind: RuntimeKind, error: Exception) -> None:
        if self.blind.get(kind) != str(error):
            log.warning(
                "runtime_does_not_answer",
                extra={"runtime": kind.value, "detail": str(error)},
                exc_info=None if isinstance(error, RuntimeFailed) else error,
            )
        self.blind[kind] = str(error)
        self._changed()

    def _believe(
        self,
        kind: RuntimeKind,
        found: dict[ContainerId, Container],
        touched: set[ContainerId],
    ) -> None:
        for id in [id for id, known in self.containers.items() if known.runtime is kind]:
            if id not in found and id not in touched:
                del self.containers[id]
        for id, container in found.items():
            if id not in touched:
                self.containers[id] = container
        self._unsure |= touched & self.busy
        if touched - self.busy:  # done while we listed: look once more
            self._pokes[kind].set()
