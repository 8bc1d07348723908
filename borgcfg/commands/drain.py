"""``borgcfg drain`` and ``undrain``: empty a machine for maintenance, and take it back."""

import click

from borgcfg.params import CellCommand
from borgcfg.render.output import show_text


@click.command("drain", cls=CellCommand)
@click.argument("machine")
@click.pass_context
def drain_command(ctx: click.Context, machine: str) -> None:
    """Take all tasks off a machine, and place no new ones on it.

    The tasks are evicted and run elsewhere; `borgcfg machines MACHINE` shows what is left.
    """
    from borgcell.v1 import operator_pb2

    from borgcfg.render.words import plural
    from borgcfg.session import open_cell

    request = operator_pb2.DrainMachineRequest(name=machine)
    with open_cell(ctx) as client:
        response = client.call(lambda stubs: stubs.operator.DrainMachine, request)
    show_text(f"{machine} is draining: {plural(response.tasks, 'task')} to leave\n")


@click.command("undrain", cls=CellCommand)
@click.argument("machine")
@click.pass_context
def undrain_command(ctx: click.Context, machine: str) -> None:
    """Let a drained machine take tasks again."""
    from borgcell.v1 import operator_pb2

    from borgcfg.session import open_cell

    request = operator_pb2.UndrainMachineRequest(name=machine)
    with open_cell(ctx) as client:
        client.call(lambda stubs: stubs.operator.UndrainMachine, request)
    show_text(f"{machine} takes tasks again\n")
