# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster drain``: no new sessions for a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from aa_cluster import api


@click.command()
@click.argument("node")
@click.option("--now", is_flag=True, help="The primary takes over the sessions that run there.")
@json_option
@click.pass_obj
def drain(invocation: Invocation, node: str, now: bool) -> None:
    """Give NODE (name or id) no new sessions, the primary too, until `aa-cluster undrain`.

    Sessions that run stay where they are; the table shows how many are left. With --now they go on at the primary, at
    once and without losing a packet; those that NODE began itself end. The node stays drained when it leaves, restarts
    and joins again. Works on every node of the cluster.
    """
    order(invocation, "/v1/drain", node, now)


def order(invocation: Invocation, path: str, node: str, now: bool = False) -> None:
    from aa_cluster import api
    from aa_cluster.cli.nodes import rows

    answer = invocation.order(path, api.DrainRequest(node=node, now=now), api.Drained)
    invocation.show(answer, lambda: rows(answer.nodes))
    if answer.taken is not None and not invocation.json:
        click.echo(told(answer.taken))


def told(taken: api.TakenRow) -> str:
    """What a take-over came to, as a line."""
    lost = f", {taken.lost} cannot (no conntrack entry)" if taken.lost else ""
    ended = f", {taken.ended} of its own ended" if taken.ended else ""
    return f"{taken.flows} sessions go on at the primary{lost}{ended}; {1000 * taken.seconds:.0f} ms"
