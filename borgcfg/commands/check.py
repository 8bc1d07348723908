"""``borgcfg check``: whether a config is good."""

import click

from borgcfg.render.output import show_text


@click.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def check_command(files: tuple[str, ...]) -> None:
    """Check a config; send nothing."""
    from borgcfg.configs import load_jobs

    for file in files:
        for spec in load_jobs(file):
            tasks = "1 task" if spec.task_count == 1 else f"{spec.task_count} tasks"
            show_text(f"{file}: {spec.key} is good: {tasks}\n")
