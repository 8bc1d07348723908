"""``borgcfg logs``: the output of tasks."""

import click
from borgcell.types import JobKey, TaskKey

from borgcfg.params import ANY_KEY, CellCommand


@click.command("logs", cls=CellCommand)
@click.argument("key", type=ANY_KEY)
@click.option("-f", "--follow", is_flag=True, help="Go on as the task writes, until it ends.")
@click.option(
    "--tail",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Only the last N lines; 0 means all.",
)
@click.option(
    "--incarnation",
    type=click.IntRange(0),
    metavar="N",
    help="Of this attempt instead of the latest.",
)
@click.option("--stdout", "stream", flag_value="stdout", help="Only standard output.")
@click.option("--stderr", "stream", flag_value="stderr", help="Only standard error.")
@click.pass_context
def logs_command(
    ctx: click.Context,
    key: JobKey | TaskKey,
    follow: bool,
    tail: int,
    incarnation: int | None,
    stream: str | None,
) -> None:
    """Print the output of a task, or of all tasks of a job one after the other.

    The output goes to stdout as the task wrote it; whose it is goes to stderr. Output of ended tasks is kept.
    """
    from borgcell.v1 import cell_pb2

    from borgcfg.following import copy_logs, log_request
    from borgcfg.session import open_cell

    if isinstance(key, JobKey) and (follow or incarnation is not None):
        raise click.UsageError("--follow and --incarnation need one task: user/job/index", ctx)
    number = cell_pb2.LogStream.Value(f"LOG_STREAM_{(stream or 'unspecified').upper()}")
    with open_cell(ctx) as client:
        if isinstance(key, JobKey):
            keys = [TaskKey(task.user, task.job, task.index) for task in client.tasks(key)]
        else:
            keys = [key]
        for each in keys:
            request = log_request(
                each, incarnation=incarnation, follow=follow, tail_lines=tail, stream=number
            )
            copy_logs(client, request)
