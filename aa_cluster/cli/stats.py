# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster stats``: packets by reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also reasons that never happened.")
@json_option
@click.pass_obj
def stats(invocation: Invocation, everything: bool) -> None:
    """Show why packets were passed, steered, handed off, adopted, relayed or dropped, and how many.

    JSON always has every reason.
    """
    from aa_cluster import api

    answer = invocation.ask("/v1/stats", api.Stats)
    invocation.show(answer, lambda: render(answer, everything))


def render(answer: api.Stats, everything: bool) -> RenderableType:
    from rich.text import Text

    from aa_cluster.cli.tables import table

    rows = [row for row in answer.reasons if everything or row.packets]
    if not rows:
        return Text("no packet counted yet (--all shows every reason)", style="dim")
    made = table("PROGRAM", "REASON", "VERDICT", "PACKETS", "MEANING", right=("PACKETS",))
    for row in rows:
        style = "red" if row.verdict == "drop" else ""
        made.add_row(row.program, row.name, row.verdict, str(row.packets), row.text, style=style)
    return made
