"""Owns opening the cell that a command means: the first lines of most commands."""

import os
import time

import click

from borgcfg.client import CellClient
from borgcfg.profiles import BadProfile, cell_addresses
from borgcfg.render.output import say


def open_cell(ctx: click.Context) -> CellClient:
    """A client of the cell that flags, environment and profile name. Exits with a usage error when none is named."""
    try:
        addresses = cell_addresses(
            masters=ctx.meta.get("borgcfg.masters"),
            cell=ctx.meta.get("borgcfg.cell"),
            environ=os.environ,
        )
    except BadProfile as error:
        raise click.UsageError(str(error), ctx) from error
    return CellClient(addresses, timeout_s=ctx.meta["borgcfg.call_timeout"], notice=_notice)


def now_ms() -> int:
    """The present, for people."""
    return time.time_ns() // 1_000_000


def _notice(message: str) -> None:
    say(message, style="warn")
