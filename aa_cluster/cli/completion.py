# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster completion``: code for the shell to load."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print completion code for SHELL.

    \b
    bash:  eval "$(aa-cluster completion bash)"
    zsh:   eval "$(aa-cluster completion zsh)"
    fish:  aa-cluster completion fish | source
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    root = ctx.find_root()
    click.echo(made(root.command, {}, "aa-cluster", "_AA_CLUSTER_COMPLETE").source())
