"""Owns the command line of borgcfg: the list of commands, and which failure ends with which exit code.

Commands are imported when they are run; ``--help`` and completion import click and nothing heavy.
"""

import importlib
from typing import Any, Final

import click

from borgcfg import exit_codes
from borgcfg.failures import CellError, CellRefused, CellUnreachable
from borgcfg.lang.diagnostics import SHOWN_MAX, BadConfig, Diagnostic
from borgcfg.render.output import say

# Name, module and short help of every command, in the order of --help.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "eval": ("eval", "Evaluate a config and print its jobs."),
    "check": ("check", "Check a config; send nothing."),
    "diff": ("diff", "Compare a config with what the cell runs."),
    "up": ("up", "Create or update the jobs of a config, and wait until they are up."),
    "status": ("status", "Show the cell, a job or a task."),
    "why": ("why", "Say why a task is where it is."),
    "events": ("events", "Show what happened to a task, a job or a machine."),
    "logs": ("logs", "Print the output of a task."),
    "kill": ("kill", "Kill a job or a task."),
    "machines": ("machines", "List the machines."),
    "drain": ("drain", "Take all tasks off a machine."),
    "undrain": ("drain", "Let a drained machine take tasks again."),
    "members": ("members", "List the replicas of the master."),
    "cell": ("cell", "Show the whole cell: replicas, machines, tasks, bands."),
    "completion": ("completion", "Print the completion script of a shell."),
}


class BorgcfgGroup(click.Group):
    """The commands, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"borgcfg.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; a usage error with the nearest name otherwise."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from borgcfg.lang.diagnostics import did_you_mean

            hint = did_you_mean(args[0], COMMANDS, {"run": "up", "apply": "up", "submit": "up"})
            hint = hint.replace("`", "'")
            ctx.fail(f"No such command '{args[0]}'." + (f" {hint.capitalize()}" if hint else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and short helps, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it can end with becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except BadConfig as error:
            _say_bad_config(error)
            ctx.exit(exit_codes.USAGE)
        except CellError as error:
            ctx.exit(_say_failure(error))
        except KeyboardInterrupt:
            say("interrupted")
            ctx.exit(exit_codes.DETACHED)


@click.group(
    cls=BorgcfgGroup,
    epilog=f"\b\n{exit_codes.HELP}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="borgcell", prog_name="borgcfg")
def borgcfg() -> None:
    """Run jobs in a cell.

    Jobs are named user/job, tasks user/job/index. A cell is named by --cell (a name in ~/.config/borgcfg/cells.yaml)
    or by --masters HOST:PORT,....
    """


def _say_bad_config(error: BadConfig) -> None:
    for diagnostic in error.diagnostics[:SHOWN_MAX]:
        say(str(diagnostic), style="bad")
        excerpt = _excerpt(diagnostic)
        if excerpt:
            say(excerpt)
    say("nothing was sent")


def _excerpt(diagnostic: Diagnostic) -> str:
    """The line of the file with a caret under the place; "" when there is none or it is unreadable."""
    place = diagnostic.place
    if not place.line or not place.column or place.column > 200:
        return ""
    try:
        with open(place.file, encoding="utf-8", errors="replace") as file:
            line = next((text for number, text in enumerate(file, 1) if number == place.line), "")
    except OSError:
        return ""
    from borgcfg.render.table import printable

    shown = printable(line.rstrip("\n").replace("\t", " "))[:200]
    return f"    {shown}\n    {' ' * (place.column - 1)}^" if shown.strip() else ""


def _say_failure(error: CellError) -> int:
    match error:
        case CellUnreachable():
            say(str(error), style="bad")
            return exit_codes.UNREACHABLE
        case CellRefused():
            code = error.code.lower().replace("_", " ")
            say(f"refused ({code}): {error}", style="bad")
            for violation in error.violations:
                if f"{violation.field}: {violation.description}" != str(error):
                    say(f"  {violation.field}: {violation.description}")
        case _:
            say(str(error), style="bad")
    return exit_codes.REFUSED


def main() -> None:
    """The entry point."""
    borgcfg(prog_name="borgcfg")


if __name__ == "__main__":
    main()
