"""Owns the link shard: one link per machine of its share, opened and closed as machines come and go.

For now the leader's shard takes all machines; the leader hands out shares in a later issue.
"""

import asyncio
import logging

from borgmaster.links.link import Link, LinkContext
from borgmaster.state.cell import CellState
from borgmaster.state.core import Applied
from borgmaster.state.events import (
    Event,
    MachineChanged,
    MachineForgotten,
    TaskChanged,
    TaskForgotten,
)

log = logging.getLogger(__name__)


class Shard:
    """The links of one leadership; ``close`` ends them all."""

    def __init__(self, context: LinkContext) -> None:
        self._context = context
        self._links: dict[str, tuple[Link, asyncio.Task[None]]] = {}
        self._addresses = context.replica.read(_addresses)
        for name in self._addresses:
            self._open(name)

    def troubles(self) -> dict[str, str]:
        """Why machines cannot be reached, by name; reachable ones are absent."""
        return {name: link.trouble for name, (link, _) in self._links.items() if link.trouble}

    def take(self, applied: Applied | None) -> None:
        """Follow an applied entry: open, close and wake links. None: the whole state was replaced."""
        if applied is None:
            self._follow_machines()
            for link, _ in self._links.values():
                link.wake()
            return
        if any(isinstance(event, MachineChanged | MachineForgotten) for event in applied.events):
            self._follow_machines()
        for name in {name for event in applied.events for name in _machines_of(event)}:
            if name in self._links:
                self._links[name][0].wake()

    def _follow_machines(self) -> None:
        wanted = self._context.replica.read(_addresses)
        for name in [*self._links]:
            if wanted.get(name) != self._addresses.get(name):
                self._links.pop(name)[1].cancel()
        self._addresses = wanted
        for name in wanted:
            if name not in self._links:
                self._open(name)

    def _open(self, name: str) -> None:
        link = Link(self._context, name, self._addresses[name])
        task = asyncio.create_task(link.run(), name=f"link {name}")
        task.add_done_callback(_report_death)
        self._links[name] = (link, task)

    async def close(self) -> None:
        """Cancel every link and wait until they are gone."""
        tasks = [task for _, task in self._links.values()]
        self._links.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _addresses(cell: CellState) -> dict[str, str]:
    return {name: machine.address for name, machine in sorted(cell.machines.items())}


def _machines_of(event: Event) -> tuple[str, ...]:
    """Machines whose desired state the event may have changed."""
    match event:
        case TaskChanged(task=task):
            last = task.finished[-1].machine if task.finished else ""
            return tuple(name for name in (task.machine, task.current.machine, last) if name)
        case TaskForgotten():
            return ()  # it was dead: its machine was woken when it died
        case _:
            return ()


def _report_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("link_died", extra={"link": task.get_name()}, exc_info=error)
