"""Owns loading the config that a command names. Needs no cell, so it imports no gRPC."""

from collections.abc import Sequence

import click
from borgcell.specs import JobSpec
from borgcell.types import JobKey

from borgcfg.lang.load import load_config
from borgcfg.render.output import say


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
