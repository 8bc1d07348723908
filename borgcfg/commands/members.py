"""``borgcfg members``: the replicas of the master."""

import click

from borgcfg.params import TABLE_FORMS, CellCommand
from borgcfg.render.output import Output, say, show


@click.command("members", cls=CellCommand, forms=TABLE_FORMS)
@click.pass_context
def members_command(ctx: click.Context, output: str) -> None:
    """List the replicas of the master, and say how many may still fail."""
    from borgcell.v1 import operator_pb2

    from borgcfg.render import tables, words
    from borgcfg.render.plain import message_plain
    from borgcfg.session import open_cell

    request = operator_pb2.ListMembersRequest()
    with open_cell(ctx) as client:
        response = client.call(lambda stubs: stubs.operator.ListMembers, request)
    show(
        Output(output), plain=message_plain(response), table=tables.replicas(response.replicas, {})
    )
    if response.fault_tolerance < 0:
        say("there is no quorum: nothing can be changed until more replicas are back", style="bad")
    else:
        say(f"{words.plural(response.fault_tolerance, 'replica')} may still fail")
