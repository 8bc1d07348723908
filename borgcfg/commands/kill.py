"""``borgcfg kill``: end a job or a task."""

import sys

import click
from borgcell.types import JobKey, TaskKey

from borgcfg.params import ANY_KEY, CellCommand
from borgcfg.render.output import show_text


@click.command("kill", cls=CellCommand)
@click.argument("key", type=ANY_KEY)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def kill_command(ctx: click.Context, key: JobKey | TaskKey, yes: bool) -> None:
    """Kill a job or a task.

    Tasks get SIGTERM, and SIGKILL after their grace. A killed job is kept for a while: `borgcfg status KEY` shows it.
    """
    from borgcfg.render.words import plural
    from borgcfg.session import open_cell

    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: say --yes", ctx)
        click.confirm(f"Kill {key}?", abort=True, err=True)
    job = key if isinstance(key, JobKey) else key.job_key
    indexes = () if isinstance(key, JobKey) else (key.index,)
    with open_cell(ctx) as client:
        response = client.kill(job, indexes)
    show_text(f"{key}: {plural(response.tasks_killed, 'task')} killed\n")
