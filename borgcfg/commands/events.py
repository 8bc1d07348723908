"""``borgcfg events``: what happened."""

import click
from borgcell.types import is_machine_name

from borgcfg.params import TABLE_FORMS, CellCommand, KeyParam
from borgcfg.render.output import Output

EVENTS_MAX = 10_000


def _subject(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    """A key of a task or a job, or the name of a machine."""
    if value is None or ("/" not in value and is_machine_name(value)):
        return value or ""
    return str(KeyParam().convert(value, param, ctx))


@click.command("events", cls=CellCommand, forms=TABLE_FORMS)
@click.argument("key", required=False, callback=_subject)
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen, until Ctrl-C.")
@click.option(
    "--limit",
    type=click.IntRange(1, EVENTS_MAX),
    default=100,
    show_default=True,
    help="The latest so many.",
)
@click.option("--absolute", is_flag=True, help="Show times instead of ages.")
@click.pass_context
def events_command(
    ctx: click.Context, key: str, follow: bool, limit: int, absolute: bool, output: str
) -> None:
    """Show what happened to a task, a job or a machine, oldest first.

    KEY is user/job/index, user/job or the name of a machine; without it, the whole cell.
    """
    from borgcfg.following import follow_events, show_past_events
    from borgcfg.session import open_cell

    with open_cell(ctx) as client:
        form = Output(output)
        last = show_past_events(client, key, limit, form, absolute=absolute or follow)
        if follow:
            follow_events(client, key, last, form)
