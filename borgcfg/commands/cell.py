"""``borgcfg cell``: the whole cell at a glance."""

import sys

import click

from borgcfg.params import REPORT_FORMS, CellCommand
from borgcfg.render.output import Output, say, show_data, show_text, wants_colour


@click.command("cell", cls=CellCommand, forms=REPORT_FORMS)
@click.pass_context
def cell_command(ctx: click.Context, output: str) -> None:
    """Show the whole cell: replicas, machines, tasks, bands. Works without a leader."""
    from borgcell.v1 import cell_pb2

    from borgcfg.render import reports, words
    from borgcfg.render.plain import message_plain
    from borgcfg.session import open_cell

    request = cell_pb2.GetCellStatusRequest()
    with open_cell(ctx) as client:
        status = client.call(lambda stubs: stubs.cell.GetCellStatus, request)
    form = Output(output)
    if not show_data(form, message_plain(status)):
        colour = wants_colour(sys.stdout)
        show_text(reports.cell_text(status, colour=colour, wide=form is Output.WIDE))
    warning = words.freshness(status.freshness)
    if warning:
        say(warning, style="warn")
