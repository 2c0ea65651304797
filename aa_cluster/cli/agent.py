# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster agent``: the daemon, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from aa_cluster.cli.context import Invocation


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file, as before the verb.",
)
@click.pass_context
def agent(ctx: click.Context, config_path: Path | None) -> None:
    """Run this node's agent in the foreground, for systemd (Type=notify) or a terminal.

    The dataplane outlives the agent: ending it loses no packet, `aa-cluster leave` takes the node out.
    """
    invocation = ctx.find_object(Invocation) or Invocation(None, False)
    if config_path is not None:
        invocation = Invocation(config_path, invocation.json)
    config = invocation.config()
    from aa_cluster.agent.service import run

    ctx.exit(run(config, invocation.config_path))
