"""``reelhaul completion``: the script with which a shell completes commands, options and their words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_REELHAUL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes reelhaul in a shell.

    \b
    bash: reelhaul completion bash > ~/.local/share/bash-completion/completions/reelhaul
    zsh:  reelhaul completion zsh > ~/.zfunc/_reelhaul   (a folder of fpath)
    fish: reelhaul completion fish > ~/.config/fish/completions/reelhaul.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "reelhaul", _VARIABLE).source())
