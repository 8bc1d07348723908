"""Owns what only the leader does: scheduling, controllers and links; all of it ends with the lease.

A ``Leadership`` lives from the moment its replica leads until it does not; a later one starts anew from
the cell state. Nothing in it is remembered across, besides the state itself.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from borgmaster.config import Config
from borgmaster.controllers.drain import reconcile_drains
from borgmaster.controllers.garbage import reconcile_garbage
from borgmaster.controllers.liveness import reconcile_liveness
from borgmaster.controllers.update import reconcile_updates
from borgmaster.errors import BorgmasterError, NotLeader
from borgmaster.links.link import LinkContext
from borgmaster.links.shard import Shard
from borgmaster.ports import Clock, CommandLog
from borgmaster.replica import Replica
from borgmaster.scheduling.client import SchedulerClient
from borgmaster.scheduling.loop import SchedulingLoop
from borgmaster.state.cell import CellState
from borgmaster.state.commands import Command, MarkMachine
from borgmaster.state.core import Applied
from borgmaster.state.entry import Proposal
from borgmaster.state.outcome import Outcome, Rejected

log = logging.getLogger(__name__)

CONTROL_PERIOD_S: Final = 0.5
RETRY_S: Final = 0.5


async def propose(command_log: CommandLog, commands: Sequence[Command]) -> tuple[Outcome, ...]:
    """Commit commands of the master itself; refusals are logged, as someone else was faster. Raises BorgmasterError."""
    outcomes = await asyncio.wrap_future(
        command_log.propose([Proposal(command) for command in commands])
    )
    for command, outcome in zip(commands, outcomes, strict=True):
        if isinstance(outcome, Rejected):
            log.info(
                "command_refused",
                extra={
                    "command": type(command).__name__,
                    "code": outcome.code,
                    "detail": outcome.detail,
                },
            )
    return outcomes


class Leadership:
    """Everything that runs because this replica leads."""

    def __init__(
        self,
        *,
        config: Config,
        replica: Replica,
        command_log: CommandLog,
        scheduler: SchedulerClient,
        clock: Clock,
        term: int,
    ) -> None:
        self.term = term
        self._config = config
        self._replica = replica
        self._log = command_log
        self._clock = clock
        self._since_ms = clock.mono_ms()
        self._heard_ms: dict[str, int] = {}
        self.scheduling = SchedulingLoop(
            replica=replica, client=scheduler, propose=self._propose, clock=clock
        )
        self._shard = Shard(
            LinkContext(
                cell=config.cell,
                leader=config.name,
                term=term,
                replica=replica,
                propose=self._propose,
                may_instruct=command_log.leading,
                heard=self._heard,
            )
        )
        self._control_task = asyncio.create_task(self._control(), name="controllers")

    def take(self, applied: Applied | None) -> None:
        """Follow an applied entry. Called in the event loop, in order."""
        self._shard.take(applied)
        self.scheduling.take(applied)

    async def close(self) -> None:
        """End everything; nothing is instructed afterwards."""
        self._control_task.cancel()
        await asyncio.gather(self._control_task, return_exceptions=True)
        await self._shard.close()
        await self.scheduling.close()

    async def _propose(self, commands: list[Command]) -> tuple[Outcome, ...]:
        return await propose(self._log, commands)

    def _heard(self, machine: str) -> None:
        self._heard_ms[machine] = self._clock.mono_ms()

    async def _control(self) -> None:
        """Let every controller compare what is with what should be, and propose what they ask for."""
        while True:
            try:
                commands = self._replica.read(self._commands)
                if commands:
                    await self._propose(commands)
            except NotLeader:
                pass  # the lease is gone: close() comes
            except BorgmasterError as error:
                log.warning("controllers_retry", extra={"detail": str(error)})
                await asyncio.sleep(RETRY_S)
            except Exception:  # the loop's top: one bad pass must not end control of the cell
                log.exception("controllers_bug")
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(CONTROL_PERIOD_S)

    def _commands(self, cell: CellState) -> list[Command]:
        now_ms = self._clock.wall_ms()
        troubles = self._shard.troubles()
        liveness = reconcile_liveness(
            cell,
            now_ms,
            heard_ms=self._heard_ms,
            mono_ms=self._clock.mono_ms(),
            leading_since_ms=self._since_ms,
            unreachable_after_ms=self._config.unreachable_after_ms,
            lost_after_ms=self._config.lost_after_ms,
        )
        explained = [
            replace(command, detail=troubles[command.name])
            if isinstance(command, MarkMachine) and not command.up and command.name in troubles
            else command
            for command in liveness
        ]
        return [
            *explained,
            *reconcile_drains(cell, now_ms),
            *reconcile_updates(cell, now_ms),
            *reconcile_garbage(cell, now_ms),
        ]
