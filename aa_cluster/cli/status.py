# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster status``: health first, then this node, its interfaces and the nodes."""

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
def status(invocation: Invocation) -> None:
    """Show this node and its cluster, health first."""
    from aa_cluster import api

    answer = invocation.ask("/v1/status", api.Status)
    invocation.show(answer, lambda: render(answer))


def render(answer: api.Status) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_health(answer)]
    parts += [Text(f"  ! {problem}", style="yellow") for problem in answer.problems]
    parts += [Text(line) for line in _facts(answer)]
    if answer.interfaces:
        parts += [Text(), _interfaces(answer)]
    if answer.nodes:
        from aa_cluster.cli.nodes import rows

        parts += [Text(), rows(answer.nodes)]
    return Group(*parts)


def _health(answer: api.Status) -> RenderableType:
    from aa_cluster.cli.tables import state

    said = {
        "ok": "every node works",
        "degraded": "works, with problems",
        "down": "does not work",
        "idle": "not in a cluster (aa-cluster join)",
    }
    return state(answer.health).append(f"  {said[answer.health]}", style="default not bold")


def _facts(answer: api.Status) -> list[str]:
    from aa_cluster.cli.tables import duration

    number = f", id {answer.node_id}" if answer.node_id else ""
    lines = [f"node {answer.name}{number}: {answer.role}, {answer.state}, agent up {duration(answer.uptime)}"]
    if answer.role != "none":
        lines.append(
            f"cluster {answer.cluster_id}: generation {answer.generation}, epoch {answer.epoch}, "
            f"schedule {answer.schedule}, election {_election(answer)}"
        )
    if answer.role == "primary":
        lines.append(f"flows: {answer.flows} of {answer.flow_capacity}")
    for node in answer.nodes:
        if node.drained:
            lines.append(f"{node.name} is drained: {node.sessions} sessions left (aa-cluster undrain {node.name})")
    return lines


def _election(answer: api.Status) -> str:
    if answer.election == "static":
        return "static: a primary that dies is not replaced"
    return f"{answer.election} ({', '.join(f'{path} {state}' for path, state in answer.paths.items())})"


def _interfaces(answer: api.Status) -> RenderableType:
    from aa_cluster.cli.tables import table

    made = table("INTERFACE", "SLOT", "MAC", "PHYSICAL MAC", "VIRTUAL MAC", "ADDRESSES", "XDP", right=("SLOT",))
    for one in answer.interfaces:
        made.add_row(
            one.name, str(one.slot), one.mac, one.physical_mac, one.virtual_mac, ", ".join(one.addresses), one.xdp
        )
    return made
