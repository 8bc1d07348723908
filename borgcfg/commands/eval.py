"""``borgcfg eval``: a config as the cell would get it."""

import click

from borgcfg.params import output_option
from borgcfg.render.output import Output, show_data


@click.command("eval", params=[output_option(Output.YAML, Output.YAML, Output.JSON)])
@click.argument("file")
def eval_command(file: str, output: str) -> None:
    """Evaluate a config and print its jobs.

    Shows the complete specs, with every default; borgcfg accepts them back as YAML or JSON.
    """
    from borgcfg.configs import load_jobs
    from borgcfg.render.specs import spec_plain

    show_data(Output(output), {"jobs": [spec_plain(spec) for spec in load_jobs(file)]})
