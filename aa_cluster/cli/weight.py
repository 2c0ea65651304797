# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster weight``: a node's share of new sessions."""

from __future__ import annotations

import click

from aa_cluster.cli.context import Invocation, json_option


@click.command()
@click.argument("node")
@click.argument("weight", metavar="N", type=click.IntRange(0, 100))
@json_option
@click.pass_obj
def weight(invocation: Invocation, node: str, weight: int) -> None:
    """Give NODE (name or id) the weight N: 0 for no new sessions, the primary too.

    Sessions that run stay where they are. Works on every node of the cluster.
    """
    from aa_cluster import api
    from aa_cluster.cli.nodes import rows

    answer = invocation.order("/v1/weight", api.WeightRequest(node=node, weight=weight), api.WeightSet)
    invocation.show(answer, lambda: rows(answer.nodes))
