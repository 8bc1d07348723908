"""``borgcfg up``: make the cell run what a config says."""

import click
from borgcell.types import JobKey

from borgcfg.params import DURATION, JOB_KEY, CellCommand


@click.command("up", cls=CellCommand)
@click.argument("file")
@click.option("--job", "only", multiple=True, type=JOB_KEY, help="Only this job; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing.")
@click.option("--no-wait", is_flag=True, help="End when the cell has taken the jobs.")
@click.option("--wait-done", is_flag=True, help="Wait until the tasks of batch jobs have finished.")
@click.option(
    "--timeout",
    type=DURATION,
    default="5m",
    show_default=True,
    help="Longest wait for the jobs to be up.",
)
@click.option(
    "--if-version",
    type=click.IntRange(0),
    default=None,
    help="Update only if the job has this version; 0: only create it.",
)
@click.pass_context
def up_command(
    ctx: click.Context,
    file: str,
    only: tuple[JobKey, ...],
    dry_run: bool,
    no_wait: bool,
    wait_done: bool,
    timeout: float,
    if_version: int | None,
) -> None:
    """Create or update the jobs of a config, and wait until they are up.

    A service is up when all its tasks are RUNNING at the new version; a batch job when all are RUNNING or have
    finished. Ends early, with 1, when a task fits nowhere for 15 s or fails three times in a row. Ctrl-C stops
    the waiting and nothing else (130).
    """
    from borgcfg.configs import load_jobs
    from borgcfg.session import open_cell
    from borgcfg.submitting import Submission, show_plans, submit_jobs, wait_for

    specs = load_jobs(file, only)
    if if_version is not None and len(specs) > 1:
        raise click.UsageError("--if-version needs one job: choose it with --job", ctx)
    submission = Submission(-1 if if_version is None else if_version, until_done=wait_done)
    with open_cell(ctx) as client:
        if dry_run:
            ctx.exit(show_plans(client, specs, submission))
        targets = submit_jobs(client, specs, submission)
        if not no_wait:
            ctx.exit(wait_for(client, targets, timeout))
