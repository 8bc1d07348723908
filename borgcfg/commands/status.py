"""``borgcfg status``: the cell, a job or a task."""

import sys

import click
from borgcell.types import JobKey, TaskKey

from borgcfg.params import ANY_KEY, TABLE_FORMS, CellCommand
from borgcfg.render.output import Output, say, show, show_data, show_text, wants_colour

TASKS_SHOWN_MAX = 1_000


@click.command("status", cls=CellCommand, forms=TABLE_FORMS)
@click.argument("key", required=False, type=ANY_KEY)
@click.option("-u", "--user", default="", help="Without KEY: only jobs of this user.")
@click.option("-a", "--all", "include_ended", is_flag=True, help="Without KEY: also ended jobs.")
@click.pass_context
def status_command(
    ctx: click.Context, key: JobKey | TaskKey | None, user: str, include_ended: bool, output: str
) -> None:
    """Show the cell, a job or a task.

    KEY is user/job or user/job/index; without it, the jobs of the cell are listed.
    """
    form = Output(output)
    match key:
        case TaskKey():
            _show_task(ctx, key, form)
        case JobKey():
            _show_job(ctx, key, form)
        case None:
            _show_jobs(ctx, form, user=user, include_ended=include_ended)


def _show_jobs(ctx: click.Context, form: Output, *, user: str, include_ended: bool) -> None:
    from borgcell.v1 import cell_pb2

    from borgcfg.render import reports, tables, words
    from borgcfg.render.plain import message_plain
    from borgcfg.render.table import fields_text
    from borgcfg.session import now_ms, open_cell

    with open_cell(ctx) as client:
        status = client.call(
            lambda stubs: stubs.cell.GetCellStatus, cell_pb2.GetCellStatusRequest()
        )
        jobs = client.jobs(user=user, include_ended=include_ended)
    if form in (Output.TABLE, Output.WIDE):
        colour = wants_colour(sys.stdout)
        show_text(fields_text(reports.cell_fields(status), colour=colour) + "\n")
        warning = words.freshness(status.freshness)
        if warning:
            say(warning, style="warn")
    show(form, plain=[message_plain(job) for job in jobs], table=tables.jobs(jobs, now_ms()))


def _show_job(ctx: click.Context, key: JobKey, form: Output) -> None:
    from borgcfg.failures import CellRefused
    from borgcfg.render import reports, tables, words
    from borgcfg.render.plain import message_plain
    from borgcfg.session import now_ms, open_cell

    with open_cell(ctx) as client:
        job = client.job(key)
        if job is None:
            raise CellRefused("NOT_FOUND", f"there is no job {key}")
        tasks = client.tasks(key, count_max=TASKS_SHOWN_MAX)
    plain = {"job": message_plain(job), "tasks": [message_plain(task) for task in tasks]}
    if form is Output.NAME:
        show(form, plain=plain, table=tables.tasks(tasks, now_ms()))
    elif not show_data(form, plain):
        colour, wide = wants_colour(sys.stdout), form is Output.WIDE
        show_text(reports.job_text(job, tasks, now_ms(), colour=colour, wide=wide))
        if job.spec.task_count > len(tasks) == TASKS_SHOWN_MAX:
            say(f"only the first {words.plural(TASKS_SHOWN_MAX, 'task')} are shown")


def _show_task(ctx: click.Context, key: TaskKey, form: Output) -> None:
    from borgcell import convert
    from borgcell.v1 import cell_pb2

    from borgcfg.render import reports
    from borgcfg.render.plain import message_plain
    from borgcfg.session import now_ms, open_cell

    request = cell_pb2.GetTaskRequest(task=convert.task_key_to_wire(key))
    with open_cell(ctx) as client:
        response = client.call(lambda stubs: stubs.cell.GetTask, request)
    if form is Output.NAME:
        show_text(f"{key}\n")
    elif not show_data(form, message_plain(response)):
        colour, wide = wants_colour(sys.stdout), form is Output.WIDE
        show_text(reports.task_text(response, now_ms(), colour=colour, wide=wide))
