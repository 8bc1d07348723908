"""``borgcfg why``: the answer to why a task is where it is."""

import sys

import click
from borgcell.types import JobKey, TaskKey

from borgcfg.params import ANY_KEY, CellCommand
from borgcfg.render.output import Output, say, show_data, show_text, wants_colour

TASKS_EXPLAINED_MAX = 5


@click.command("why", cls=CellCommand, forms=(Output.TABLE, Output.JSON, Output.YAML))
@click.argument("key", type=ANY_KEY)
@click.pass_context
def why_command(ctx: click.Context, key: JobKey | TaskKey, output: str) -> None:
    """Say why a task is where it is.

    For a pending task: what rules out how many machines, the one that comes closest, and what would help.
    For a job: its tasks that are not running, at most five.
    """
    from borgcfg.render.plain import message_plain
    from borgcfg.render.reports import why_text
    from borgcfg.render.words import freshness
    from borgcfg.session import now_ms, open_cell
    from borgcfg.waiting import unready_keys

    with open_cell(ctx) as client:
        keys = unready_keys(client, key, TASKS_EXPLAINED_MAX) if isinstance(key, JobKey) else [key]
        answers = [client.explain(each) for each in keys]
    if not answers:
        say(f"all tasks of {key} are running or done")
    plain = [message_plain(answer) for answer in answers]
    if not show_data(Output(output), plain if isinstance(key, JobKey) else plain[0]):
        colour = wants_colour(sys.stdout)
        texts = [why_text(answer, now_ms(), colour=colour) for answer in answers]
        show_text("\n".join(texts))
    for warning in {freshness(answer.freshness) for answer in answers} - {""}:
        say(warning, style="warn")
