"""Owns the command ``borgmaster``: one replica (``run``), or a whole local cell (``dev``)."""

import asyncio
import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final, Literal

import click

from borgmaster.config import Config, check_config, parse_member

EXIT_USAGE: Final = 2
EXIT_DISK: Final = 74  # EX_IOERR: may be restarted when there is space again
EXIT_ADDRESS: Final = 75  # EX_TEMPFAIL: an address is taken

DURATION = click.IntRange(min=1)


@click.group()
@click.version_option(package_name="borgcell")
def main() -> None:
    """The Borgmaster: holds a cell's state, schedules its tasks, and tells its Borglets."""
    # gRPC's fork handlers are useless to us and cost a lock; we never fork with threads (DESIGN §3)
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


@main.command()
@click.option("--cell", required=True, help="Name of the cell.")
@click.option("--name", required=True, help="Name of this replica; one of the members.")
@click.option(
    "--member",
    "members",
    multiple=True,
    required=True,
    metavar="NAME=HOST:RAFT_PORT,HOST:API_PORT",
    help="A replica; give it for each of the 1, 3 or 5.",
)
@click.option(
    "--state-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of journal and snapshots; this replica's alone.",
)
@click.option(
    "--start",
    default="resume",
    type=click.Choice(["resume", "bootstrap", "join"]),
    show_default=True,
    help="What an empty --state-dir means: a mistake, a new cell, or a replica that the others seed.",
)
@click.option("--metrics", default="", metavar="HOST:PORT", help="Serve /metrics here.")
@click.option(
    "--unreachable-after-ms",
    default=10_000,
    type=DURATION,
    show_default=True,
    help="Silence after which a machine counts as down.",
)
@click.option(
    "--lost-after-ms",
    default=30_000,
    type=DURATION,
    show_default=True,
    help="Time a machine is down before its tasks run elsewhere.",
)
@click.option(
    "--allow-remote-plaintext",
    is_flag=True,
    help="Let replicas talk without TLS on addresses other than loopback.",
)
def run(
    cell: str,
    name: str,
    members: tuple[str, ...],
    state_dir: Path,
    start: Literal["resume", "bootstrap", "join"],
    metrics: str,
    unreachable_after_ms: int,
    lost_after_ms: int,
    *,
    allow_remote_plaintext: bool,
) -> None:
    """Run one replica in the foreground until SIGTERM.

    Exit codes: 0 stopped, 2 usage, 70 damaged state (look before restarting), 74 disk full or failing,
    75 an address is taken.
    """
    try:
        config = Config(
            cell=cell,
            name=name,
            members=tuple(parse_member(member) for member in members),
            state_dir=state_dir.resolve(),
            start=start,
            metrics_address=metrics,
            unreachable_after_ms=unreachable_after_ms,
            lost_after_ms=lost_after_ms,
            allow_remote_plaintext=allow_remote_plaintext,
        )
        check_config(config)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from borgcell.logs import configure_logging

    configure_logging()
    sys.setswitchinterval(0.0005)  # a busy thread must not hold commits up (raft.md §4)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code, message = runner.run(_serve(config))
    if message:
        click.echo(f"borgmaster: {message}", err=True)
    logging.shutdown()
    sys.exit(code)


async def _serve(config: Config) -> tuple[int, str]:
    """Run the server; the exit code and what to tell the operator."""
    from borgmaster.replication import LogFailed
    from borgmaster.server import AddressInUse, Server

    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        server = Server(config)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        failure = await server.run()
    except AddressInUse as error:
        return EXIT_ADDRESS, f"cannot listen on {error}: the address is taken or not this machine's"
    except LogFailed as error:
        return error.exit_code, str(error)
    except ValueError as error:
        return EXIT_USAGE, str(error)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return EXIT_ADDRESS, f"an address is taken: {error}"
        return EXIT_DISK, f"{error.filename or config.state_dir}: {error.strerror}"
    return (0, "") if failure is None else (failure.exit_code, str(failure))


def _add_dev() -> None:
    from borgmaster.dev import dev, stop_dev

    main.add_command(dev)
    main.add_command(stop_dev)


_add_dev()

if __name__ == "__main__":
    main()
