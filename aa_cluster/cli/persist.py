# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster persist show|set|delete|flush``: which client keeps which node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api


@click.group()
def persist() -> None:
    """Clients that keep their node ([persistence] of the configuration): show and change."""


@persist.command()
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@json_option
@click.pass_obj
def show(invocation: Invocation, limit: int) -> None:
    """Show the clients with their nodes, those seen last first, and how often a node was found for one."""
    from aa_cluster import api

    order(invocation, api.PersistRequest(action="show", limit=limit))


@persist.command(name="set")
@click.argument("address")
@click.argument("node")
@json_option
@click.pass_obj
def bind(invocation: Invocation, address: str, node: str) -> None:
    """Bind the client ADDRESS (its prefix, as configured) to NODE: its new sessions go there."""
    from aa_cluster import api

    order(invocation, api.PersistRequest(action="set", address=address, node=node))


@persist.command()
@click.argument("address")
@json_option
@click.pass_obj
def delete(invocation: Invocation, address: str) -> None:
    """Forget the node of the client ADDRESS."""
    from aa_cluster import api

    order(invocation, api.PersistRequest(action="delete", address=address))


@persist.command()
@json_option
@click.pass_obj
def flush(invocation: Invocation) -> None:
    """Forget the nodes of all clients."""
    from aa_cluster import api

    order(invocation, api.PersistRequest(action="flush"))


def order(invocation: Invocation, request: api.PersistRequest) -> None:
    from aa_cluster import api

    answer = invocation.order("/v1/persist", request, api.Persist)
    invocation.show(answer, lambda: render(answer, request.action))


def render(answer: api.Persist, action: str) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from aa_cluster.cli.tables import duration, table

    said = f"{answer.total} clients of {answer.size} at most; hits {answer.hits}, misses {answer.misses}"
    if not answer.enabled:
        return Text("persistence is off ([persistence] enabled)", style="dim")
    if action in ("delete", "flush"):
        said = f"removed: {answer.removed}\n{said}"
    if not answer.entries:
        return Text(said)
    made = table("CLIENT", "NODE", "IDLE", right=("IDLE",))
    for row in answer.entries:
        made.add_row(row.address, f"{row.node_name or '?'} ({row.node})", duration(row.idle))
    left = answer.total - len(answer.entries)
    rest = [Text(f"and {left} more (--limit)", style="dim")] if left > 0 else []
    return Group(Text(said), made, *rest)
