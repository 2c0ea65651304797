# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster arp``: the relay of ARP and NDP at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api


@click.command()
@json_option
@click.pass_obj
def arp(invocation: Invocation) -> None:
    """Show open questions (ARP and NDP), and how many were answered from the table and from the wire."""
    from aa_cluster import api

    answer = invocation.ask("/v1/arp", api.Arp)
    invocation.show(answer, lambda: render(answer))


def render(answer: api.Arp) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from aa_cluster.cli.tables import duration, table

    counts = Text(
        f"answered from the table {answer.answered_from_cache}, from the wire {answer.answered_from_wire}; "
        f"relayed {answer.relayed}; refused {answer.refused}"
    )
    if not answer.open:
        return Group(counts, Text("no open question", style="dim"))
    made = table("INTERFACE", "TARGET", "ASKED BY", "AGE", right=("AGE",))
    for one in answer.open:
        asked_by = ", ".join(map(str, one.asked_by)) or "this node"
        made.add_row(one.interface, one.target, asked_by, duration(one.age))
    return Group(counts, made)
