"""``borgcfg check``: whether a config is good."""

import click

from borgcfg.render.output import show_text


@click.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def check_command(files: tuple[str, ...]) -> None:
    """Check a config; send nothing."""
    from borgcfg.render.words import plural
    from borgcfg.session import load_jobs

    for file in files:
        for spec in load_jobs(file):
            show_text(f"{file}: {spec.key} is good: {plural(spec.task_count, 'task')}\n")
