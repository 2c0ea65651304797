# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster promote``: another node becomes primary, both being alive."""

from __future__ import annotations

import click

from aa_cluster import api
from aa_cluster.cli.context import Invocation, json_option


@click.command()
@click.argument("node")
@json_option
@click.pass_obj
def promote(invocation: Invocation, node: str) -> None:
    """Let NODE (name or id) be the primary from now on. Running sessions stay where they are and lose nothing.

    The node that is primary now goes on as an auxiliary. A session that begins at that very moment may need a second
    SYN.
    """
    answer = invocation.order("/v1/promote", api.PromoteRequest(node=node), api.Promoted)
    invocation.show(answer, lambda: f"{answer.primary} is the primary, generation {answer.generation}")
