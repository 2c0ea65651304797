# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster schedule``: how new sessions are given out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api


@click.command()
@click.argument("kind", required=False, metavar="[KIND]")
@json_option
@click.pass_obj
def schedule(invocation: Invocation, kind: str | None) -> None:
    """Show how new sessions are given out, or give them out by KIND from now on.

    KIND is one of those that [schedule] kind of the configuration takes. It stays in force over restarts, until the
    next `aa-cluster schedule`. Sessions that run stay where they are. Works on every node of the cluster.
    """
    from aa_cluster import api

    if kind is None:
        answer = invocation.ask("/v1/schedule", api.Schedule)
    else:
        answer = invocation.order("/v1/schedule", api.ScheduleRequest(schedule=kind), api.Schedule)
    invocation.show(answer, lambda: render(answer))


def render(answer: api.Schedule) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from aa_cluster.cli.tables import percent, state, table

    said = f"schedule: {answer.schedule}"
    if answer.configured != answer.schedule:
        said += f" (the configuration says {answer.configured})"
    right = ("ID", "WEIGHT", "SHARE", "SESSIONS")
    made = table("ID", "NODE", "STATE", *right[1:], right=right)
    for row in answer.nodes:
        made.add_row(str(row.id), row.name, state(row.state), str(row.weight), percent(row.share), str(row.sessions))
    return Group(Text(said), made)
