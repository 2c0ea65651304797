# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster join``: into the cluster, as its primary or under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from aa_cluster import api


@click.command()
@click.option("--primary", is_flag=True, help="Become the primary (of a cluster that has none).")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=15.0, show_default=True, help="Seconds to wait.")
@json_option
@click.pass_obj
def join(invocation: Invocation, primary: bool, timeout: float) -> None:
    """Join the cluster on the HA link.

    Returns when this node carries traffic. A refusal names each difference to the primary and its remedy, and leaves
    both nodes as they were.
    """
    from aa_cluster import api

    answer = invocation.order("/v1/join", api.JoinRequest(primary=primary, timeout=timeout), api.Joined)
    invocation.show(answer, lambda: render(answer))


def render(answer: api.Joined) -> str:
    if answer.role == "primary":
        return f"joined as primary, id {answer.node_id}, generation {answer.generation}"
    return f"joined as auxiliary of {answer.primary}, id {answer.node_id}, generation {answer.generation}"
