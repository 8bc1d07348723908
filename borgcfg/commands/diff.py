"""``borgcfg diff``: a config against what the cell runs."""

import sys

import click
from borgcell.types import JobKey

from borgcfg import exit_codes
from borgcfg.params import JOB_KEY, CellCommand
from borgcfg.render.output import Output, show_data, show_text, wants_colour


@click.command("diff", cls=CellCommand, forms=(Output.TABLE, Output.JSON, Output.YAML))
@click.argument("file")
@click.option("--job", "only", multiple=True, type=JOB_KEY, help="Only this job; may be repeated.")
@click.pass_context
def diff_command(ctx: click.Context, file: str, only: tuple[JobKey, ...], output: str) -> None:
    """Compare a config with what the cell runs.

    Ends with 0 when nothing differs and 1 when something does.
    """
    from borgcell import convert

    from borgcfg.configs import load_jobs
    from borgcfg.diff import changes, changes_plain, diff_text
    from borgcfg.render.reports import submitted
    from borgcfg.session import open_cell

    found = {}
    consequences = {}
    specs = load_jobs(file, only)
    with open_cell(ctx) as client:
        for spec in specs:
            job = client.job(spec.key)
            old = convert.job_spec_from_wire(job.spec) if job and not job.ended else None
            found[spec.key] = changes(old, spec)
            if found[spec.key]:
                response = client.submit(spec, dry_run=True)
                before = job.version if job else 0
                consequences[spec.key] = submitted(response, before=before, dry_run=True)
    if not show_data(
        Output(output), {str(key): changes_plain(each) for key, each in found.items()}
    ):
        colour = wants_colour(sys.stdout)
        for key, each in found.items():
            show_text(diff_text(key, each, consequences.get(key, ""), colour=colour))
    ctx.exit(exit_codes.REFUSED if any(found.values()) else exit_codes.DONE)
