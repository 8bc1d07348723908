"""Owns what a plan may ask the agent to do: one frozen value per action, a closed union."""

from typing import TypeAlias

from borgcell.types import EndKind
from msgspec import Struct

from borglet.runtime.port import ContainerId
from borglet.values import Desired, Ended


class Terminate(Struct, frozen=True):
    """Send SIGTERM and remember the deadline."""

    id: ContainerId
    kind: EndKind
    detail: str
    grace_ms: int


class Kill(Struct, frozen=True):
    """Send SIGKILL: the grace is over. Again after ``KILL_RETRY_MS`` while it lives."""

    id: ContainerId


class Conclude(Struct, frozen=True):
    """Record how an incarnation ended, and report it."""

    id: ContainerId
    ended: Ended


class Start(Struct, frozen=True):
    """Make the container."""

    desired: Desired


class Wait(Struct, frozen=True):
    """Not yet: what it needs is still held by something that leaves."""

    id: ContainerId
    reason: str


class Release(Struct, frozen=True):
    """Give back what an ended container holds, except its log."""

    id: ContainerId


class Forget(Struct, frozen=True):
    """Remove an ended container and its log."""

    id: ContainerId


class Drop(Struct, frozen=True):
    """Remove the memory of an incarnation that nobody asks for any more."""

    id: ContainerId


Action: TypeAlias = Terminate | Kill | Conclude | Start | Wait | Release | Forget | Drop


class Plan(Struct, frozen=True):
    """What to do now, in order, and when to look again at the latest (monotonic ms; None: no deadline)."""

    actions: tuple[Action, ...]
    wake_at_ms: int | None
