# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster top``: what each node does, live."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster import api

REASONS = 3
"""Shown for each node, the most frequent first."""


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    help="Seconds a view is measured over.",
)
@click.option("--count", type=click.IntRange(1), help="So many views, then end; without, until interrupted.")
@json_option
@click.pass_obj
def top(invocation: Invocation, interval: float, count: int | None) -> None:
    """Show each node's sessions, new sessions, packets and bytes a second, and why packets went where they went.

    With [flows] accounting on at the primary, packets and bytes are those of the sessions the node owns, in both
    directions; else what arrived on its data interfaces, which on the primary is all traffic of the cluster.
    With -j one snapshot (or --count many, one a line).
    """
    try:
        if invocation.json or not sys.stdout.isatty():
            plain(invocation, interval, count or 1)
        else:
            live(invocation, interval, count)
    except KeyboardInterrupt:
        return


def plain(invocation: Invocation, interval: float, count: int) -> None:
    for _ in range(count):
        answer = measure(invocation, interval)
        invocation.show(answer, lambda answer=answer: render(answer))  # type: ignore[misc]


def live(invocation: Invocation, interval: float, count: int | None) -> None:
    from rich.live import Live

    from aa_cluster.cli.tables import console

    with Live(console=console(), screen=count is None, auto_refresh=False) as view:
        shown = 0
        while count is None or shown < count:
            view.update(render(measure(invocation, interval)), refresh=True)
            shown += 1


def measure(invocation: Invocation, interval: float) -> api.Top:
    from aa_cluster import api

    return invocation.order("/v1/top", api.TopRequest(interval=interval), api.Top)


def render(answer: api.Top) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from aa_cluster.cli.tables import state, table

    right = ("SESSIONS", "NEW/S", "PACKETS/S", "BYTES/S")
    made = table("NODE", "ROLE", "STATE", *right, "REASONS/S", right=right)
    for row in answer.nodes:
        reasons = list(row.reasons.items())[:REASONS]
        made.add_row(
            row.name,
            row.role,
            state(row.state),
            str(row.sessions),
            number(row.begun),
            number(row.packets),
            number(row.octets),
            ", ".join(f"{name} {number(rate)}" for name, rate in reasons) or "-",
        )
    head = f"{answer.flows} live sessions, room for {answer.flow_capacity} flows; measured over {answer.interval:g} s"
    if len(answer.kinds) > 1:
        head += f"; {', '.join(f'{count} {kind}' for kind, count in answer.kinds.items())}"
    head += "; packets and bytes of the sessions each node owns" if answer.accounted else ""
    return Group(Text(head), made)


def number(value: float | None) -> str:
    """``0.4``, ``17``, ``12.3k``, ``4.56M``; ``?`` for what is not known."""
    if value is None:
        return "?"
    if 0 < value < 10:
        return f"{value:.1f}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.0f}"
