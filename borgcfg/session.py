"""Owns opening the cell that a command means, and loading its config: the first lines of most commands."""

import os
import time
from collections.abc import Sequence

import click
from borgcell.specs import JobSpec
from borgcell.types import JobKey

from borgcfg.client import CellClient
from borgcfg.lang.load import load_config
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


def load_jobs(file: str, only: Sequence[JobKey] = ()) -> list[JobSpec]:
    """The jobs of a config file, or those asked for. Raises BadConfig; a key it has not is a usage error."""
    config = load_config(file)
    for text in config.prints:
        say(f"{file}: {text}")
    by_key = {spec.key: spec for spec in config.jobs}
    absent = [key for key in only if key not in by_key]
    if absent:
        known = ", ".join(str(key) for key in list(by_key)[:20])
        raise click.UsageError(f"{file} has no job {absent[0]} (it has: {known})")
    return [by_key[key] for key in only] if only else list(config.jobs)


def now_ms() -> int:
    """The present, for people."""
    return time.time_ns() // 1_000_000


def _notice(message: str) -> None:
    say(message, style="warn")
