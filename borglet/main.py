"""Owns the command ``borglet``: run this machine's agent, or check whether it could run."""

import asyncio
import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from borglet.config import Config, check_config, parse_runtimes
from borglet.facts import parse_attribute, parse_bytes, parse_cpu, parse_ports
from borglet.plan import Retention

EXIT_REFUSED: Final = 1
EXIT_FATAL: Final = 70  # EX_SOFTWARE: look before restarting
EXIT_DISK: Final = 74  # EX_IOERR: may be restarted when there is space again
EXIT_ADDRESS: Final = 75  # EX_TEMPFAIL: the address is taken

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Parsed(click.ParamType[Any]):
    """A click type made of a parser that raises ValueError."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """The parsed value; a usage error with the parser's message."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            return self.fail(str(error), param, ctx)


@click.group()
@click.version_option(package_name="borgcell")
def main() -> None:
    """The Borglet: runs the cell's tasks on this machine."""
    # gRPC's fork handlers are useless to us; processes are started by the runtimes' own helpers
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


# What says which machine this is and what it offers, for every command alike.
_MACHINE_OPTIONS: Final = (
    click.option("--cell", required=True, help="Name of the cell."),
    click.option("--name", required=True, help="Name of this machine in the cell."),
    click.option(
        "--state-dir",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="This Borglet's own directory: its memory, logs of native tasks.",
    ),
    click.option("--runtime", default="native", show_default=True, help="Runtimes: native,docker."),
    click.option("--docker-url", default=None, help="Docker Engine, DOCKER_HOST by default."),
    click.option(
        "--visible",
        multiple=True,
        type=click.Path(path_type=Path, exists=True),
        help="Path in /tmp or the state directory that native tasks may see all the same.",
    ),
    click.option(
        "--ports",
        default="20000-29999",
        show_default=True,
        type=Parsed("range", parse_ports),
        help="Ports for tasks.",
    ),
    click.option(
        "--cpu",
        type=Parsed("cpus", parse_cpu),
        help="CPUs for tasks; measured if absent.",
    ),
    click.option(
        "--ram",
        type=Parsed("bytes", parse_bytes),
        help="Memory for tasks, such as 8GiB; measured if absent.",
    ),
    click.option(
        "--disk",
        type=Parsed("bytes", parse_bytes),
        help="Disk for tasks, such as 20GiB; measured if absent.",
    ),
    click.option("--rack", default="", help="Rack of this machine: the attribute rack."),
    click.option(
        "--attribute",
        "attributes",
        multiple=True,
        metavar="KEY=VALUE",
        type=Parsed("attribute", parse_attribute),
        help="An attribute that constraints may name.",
    ),
)


def machine_options(command: F) -> F:
    """Give a command ``_MACHINE_OPTIONS``."""
    for option in reversed(_MACHINE_OPTIONS):
        command = option(command)
    return command


@main.command()
@machine_options
@click.option(
    "--listen", required=True, metavar="HOST:PORT", help="Where masters reach this Borglet."
)
@click.option("--address", default="", metavar="HOST:PORT", help="What masters are told instead.")
@click.option("--masters", default="", metavar="HOST:PORT,…", help="API addresses of the masters.")
@click.option("--metrics", default="", metavar="HOST:PORT", help="Serve /metrics here.")
@click.option(
    "--keep-ended",
    default=10,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Ended runs per task whose logs stay.",
)
@click.option(
    "--keep-hours",
    default=24,
    show_default=True,
    type=click.IntRange(0, 8760),
    help="Hours that logs of ended runs stay.",
)
@click.option(
    "--stop-tasks-on-exit",
    is_flag=True,
    help="Stop all tasks on SIGTERM (local cells); otherwise they go on.",
)
def run(**options: Any) -> None:
    """Run the Borglet in the foreground until SIGTERM; its tasks go on without it.

    Exit codes: 0 stopped, 1 refused (by the cell, or the state directory is another's), 2 usage, 70 internal error,
    74 disk full or failing, 75 the address is taken.
    """
    from borgcell.logs import configure_logging

    config = _usage(lambda: _config(options))
    configure_logging()
    code, message = _run(config)
    if message:
        click.echo(f"borglet: {message}", err=True)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # a thread may still wait for an engine that does not answer; nothing here is left to be lost
    os._exit(code)


def _run(config: Config) -> tuple[int, str]:
    from borglet.join import Refused
    from borglet.memory import StateDirFailed
    from borglet.rpc import AddressTaken
    from borglet.runtimes import RuntimeUnusable
    from borglet.service import run_borglet

    try:
        asyncio.run(run_borglet(config))
    except (Refused, StateDirFailed, RuntimeUnusable, ValueError) as error:
        return EXIT_REFUSED, str(error)
    except AddressTaken as error:
        return EXIT_ADDRESS, str(error)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return EXIT_ADDRESS, str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            return EXIT_DISK, f"{error.filename or config.state_dir}: {error.strerror}"
        return EXIT_FATAL, str(error)
    return 0, ""


@main.command()
@machine_options
def check(**options: Any) -> None:
    """Say what this machine would offer, and whether a Borglet could run here. Exit 1 if not."""
    from borglet.memory import StateDir, StateDirFailed
    from borglet.runtimes import RuntimeUnusable, close_runtimes, make_runtimes
    from borglet.service import facts_of

    config = _usage(lambda: _config(options))
    problems: list[str] = []
    try:
        state_dir = StateDir(config.state_dir)
    except StateDirFailed as error:
        raise click.ClickException(str(error)) from error
    try:
        state_dir.load(config.cell, config.name)
        problems += filter(None, [state_dir.problem()])
        facts = facts_of(config)
        runtimes = make_runtimes(config)
        attributes = dict(facts.attributes)
        for kind, runtime in runtimes.items():
            found = runtime.attributes()
            attributes |= found
            if f"runtime.{kind}" not in found:
                problems.append(f"{kind} runtime: it does not answer")
        close_runtimes(runtimes.values())
    except (StateDirFailed, RuntimeUnusable) as error:
        raise click.ClickException(str(error)) from error
    finally:
        state_dir.close()
    click.echo(f"capacity: {facts.capacity}")
    click.echo(f"ports: {facts.port_first}-{facts.port_last}")
    for key, value in sorted(attributes.items()):
        click.echo(f"{key}: {value}")
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    sys.exit(1 if problems else 0)


def _usage(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _config(options: dict[str, Any]) -> Config:
    attributes = dict(options["attributes"])
    if options["rack"]:
        attributes["rack"] = options["rack"]
    url = options["docker_url"] or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    config = Config(
        cell=options["cell"],
        name=options["name"],
        listen=options.get("listen", "127.0.0.1:0"),
        masters=tuple(filter(None, options.get("masters", "").split(","))),
        state_dir=options["state_dir"].resolve(),
        runtimes=parse_runtimes(options["runtime"]),
        address=options.get("address", ""),
        ports=options["ports"],
        cpu_milli=options["cpu"],
        ram_bytes=options["ram"],
        disk_bytes=options["disk"],
        attributes=attributes,
        docker_url=url,
        visible=tuple(options["visible"]),
        metrics=options.get("metrics", ""),
        retention=Retention(
            options.get("keep_ended", 10), options.get("keep_hours", 24) * 3_600_000
        ),
        stop_tasks_on_exit=options.get("stop_tasks_on_exit", False),
    )
    check_config(config)
    return config


if __name__ == "__main__":
    main()
