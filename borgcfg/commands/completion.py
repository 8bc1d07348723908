"""``borgcfg completion``: what a shell needs to complete our commands."""

import click
from click.shell_completion import get_completion_class

from borgcfg.render.output import show_text


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: borgcfg completion bash > ~/.local/share/bash-completion/completions/borgcfg
    zsh:  borgcfg completion zsh > "${fpath[1]}/_borgcfg"
    fish: borgcfg completion fish > ~/.config/fish/completions/borgcfg.fish
    """
    completer = get_completion_class(shell)
    assert completer is not None, f"click knows no {shell}"
    root = ctx.find_root().command
    show_text(completer(root, {}, "borgcfg", "_BORGCFG_COMPLETE").source() + "\n")
