# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster undrain``: new sessions for a drained node again."""

from __future__ import annotations

import click

from aa_cluster.cli.context import Invocation, json_option
from aa_cluster.cli.drain import order


@click.command()
@click.argument("node")
@json_option
@click.pass_obj
def undrain(invocation: Invocation, node: str) -> None:
    """Give NODE (name or id) new sessions again, as its weight says."""
    order(invocation, "/v1/undrain", node)
