"""Owns the life of a Borglet process: everything made, joined, run, and let go of in order."""

import asyncio
import logging
import signal

from borglet import rpc
from borglet.agent import Agent
from borglet.clock import SystemClock
from borglet.config import Config, split_address
from borglet.facts import machine_facts
from borglet.join import advertised_address, join
from borglet.memory import StateDir
from borglet.metrics import Metrics
from borglet.runtimes import close_runtimes, make_runtimes
from borglet.substitution import Place
from borglet.values import Facts

log = logging.getLogger(__name__)

STOP_TASKS_TIMEOUT_S = 20.0
SERVER_GRACE_S = 0.5


async def run_borglet(config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises StateDirFailed, RuntimeUnusable, AddressTaken, Refused, OSError, ValueError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    state_dir = StateDir(config.state_dir)
    try:
        term = state_dir.load(config.cell, config.name).term  # before anything else: is it ours?
        log.info("state_dir_opened", extra={"path": str(state_dir.path), "term": term})
        runtimes = await asyncio.to_thread(make_runtimes, config)
        try:
            agent = Agent(
                place=Place(config.cell, config.name),
                facts=facts_of(config),
                runtimes=runtimes,
                state_dir=state_dir,
                clock=SystemClock(),
                metrics=(metrics := Metrics()),
                retention=config.retention,
            )
            if config.metrics:
                metrics.serve(*split_address(config.metrics))
            await _serve(config, agent, stop)
        finally:
            close_runtimes(runtimes.values())
    finally:
        state_dir.close()


def facts_of(config: Config) -> Facts:
    """The machine as the flags and the system describe it."""
    return machine_facts(
        disk_path=config.state_dir,
        ports=config.ports,
        cpu_milli=config.cpu_milli,
        ram_bytes=config.ram_bytes,
        disk_bytes=config.disk_bytes,
        attributes=config.attributes,
    )


async def _serve(config: Config, agent: Agent, stop: asyncio.Event) -> None:
    server, port = await rpc.serve(agent, config.listen)
    life = asyncio.create_task(agent.run())
    stopped = asyncio.create_task(stop.wait())
    joining = asyncio.create_task(_join(config, port))
    log.info("borglet_started", extra={"cell": config.cell, "machine": config.name, "port": port})
    try:
        await asyncio.wait({life, stopped, joining}, return_when=asyncio.FIRST_COMPLETED)
        if joining.done():
            joining.result()  # raises what the cell refused
            await asyncio.wait({life, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if life.done():
            life.result()
    finally:
        joining.cancel()
        stopped.cancel()
        await server.stop(SERVER_GRACE_S)
        if config.stop_tasks_on_exit and stop.is_set() and not life.done():
            gone = await agent.stop_tasks(STOP_TASKS_TIMEOUT_S)
            log.info("tasks_stopped", extra={"all": gone})
        life.cancel()
        await asyncio.gather(life, joining, stopped, return_exceptions=True)
        log.info("borglet_stopped", extra={"cell": config.cell, "machine": config.name})


async def _join(config: Config, port: int) -> None:
    if not config.masters:
        return
    address = config.address or advertised_address(config.listen, port, config.masters)
    await join(config.masters, cell=config.cell, name=config.name, address=address)
