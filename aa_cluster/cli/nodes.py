# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster nodes``: who is in the cluster and what each one carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from aa_cluster import api


@click.command()
@json_option
@click.pass_obj
def nodes(invocation: Invocation) -> None:
    """Show the nodes: state, weight, share of new sessions, sessions they own."""
    from aa_cluster import api

    answer = invocation.ask("/v1/nodes", api.Nodes)
    invocation.show(answer, lambda: rows(answer.nodes))


def rows(of: Sequence[api.NodeRow]) -> Table:
    from aa_cluster.cli.tables import duration, percent, state, table

    right = ("ID", "WEIGHT", "SHARE", "SESSIONS", "HEARD")
    made = table("ID", "NODE", "ROLE", "STATE", *right[1:], "LINKS", "HA ADDRESS", "KERNEL", right=right)
    for node in of:
        made.add_row(
            str(node.id),
            node.name,
            node.role,
            state(node.state),
            str(node.weight),
            percent(node.share),
            str(node.sessions),
            duration(node.last_heard) if node.last_heard else "-",
            ", ".join(map(_link, node.links)) or "-",
            node.ha_address,
            node.kernel or "-",
        )
    return made


def _link(link: api.LinkRow) -> str:
    """``int 12 ms``: since it was heard there last."""
    return f"{link.link} {f'{link.heard:.0f} ms' if link.heard is not None else '-'}"
