"""``borgcfg machines``: what the cell runs on."""

import click

from borgcfg.params import TABLE_FORMS, CellCommand
from borgcfg.render.output import Output, show


@click.command("machines", cls=CellCommand, forms=TABLE_FORMS)
@click.argument("name", required=False)
@click.pass_context
def machines_command(ctx: click.Context, name: str | None, output: str) -> None:
    """List the machines; with NAME, the tasks on one of them."""
    from borgcfg.render import tables
    from borgcfg.render.plain import message_plain
    from borgcfg.session import now_ms, open_cell

    with open_cell(ctx) as client:
        if name is None:
            machines = client.machines()
            plain = [message_plain(machine) for machine in machines]
            table = tables.machines(machines, now_ms())
        else:
            client.machine(name)  # a wrong name is an error, not an empty list
            tasks = client.tasks(machine=name)
            plain = [message_plain(task) for task in tasks]
            table = tables.tasks(tasks, now_ms())
    show(Output(output), plain=plain, table=table)
