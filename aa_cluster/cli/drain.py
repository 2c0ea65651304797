# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster drain``: no new sessions for a node."""

from __future__ import annotations

import click

from aa_cluster.cli.context import Invocation, json_option


@click.command()
@click.argument("node")
@json_option
@click.pass_obj
def drain(invocation: Invocation, node: str) -> None:
    """Give NODE (name or id) no new sessions, the primary too, until `aa-cluster undrain`.

    Sessions that run stay where they are; the table shows how many are left. The node stays drained when it leaves,
    restarts and joins again. Works on every node of the cluster.
    """
    order(invocation, "/v1/drain", node)


def order(invocation: Invocation, path: str, node: str) -> None:
    from aa_cluster import api
    from aa_cluster.cli.nodes import rows

    answer = invocation.order(path, api.DrainRequest(node=node), api.Drained)
    invocation.show(answer, lambda: rows(answer.nodes))
