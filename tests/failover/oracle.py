# SPDX-License-Identifier: GPL-2.0-or-later
"""What the nodes themselves must agree on: roles, flow tables, connection tracking."""

from __future__ import annotations

from collections.abc import Sequence

from aa_cluster.api import Flows, NodeRow, Nodes, Sync
from aa_cluster.errors import AaError, TimeoutReached
from aa_cluster.topology import agreement
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.pinned import flow_differences
from aa_cluster.topology.view import ALL, ask

PATIENCE = 15.0
"""Seconds until a cluster must be whole again after a round."""


def agents(lab: Lab) -> list[str]:
    """The nodes that are on and whose agent runs."""
    return [node for node in lab.plan.node_names if lab.powered(node) and lab.site(node).condition() == "running"]


def primaries(lab: Lab) -> list[str]:
    """Every node that believes to be the primary."""
    return [node for node in agents(lab) if _is_primary(lab, node)]


def _is_primary(lab: Lab, node: str) -> bool:
    try:
        status = lab.status(node)
    except AaError:
        return False
    return status.role == "primary" and status.state != "joining"


def primary(lab: Lab, timeout: float = PATIENCE) -> str:
    """The one there is."""
    try:
        return until("exactly one primary", lambda: found[0] if len(found := primaries(lab)) == 1 else None, timeout)
    except TimeoutReached:
        for node in agents(lab):
            print(f"{node} said:\n{lab.site(node).tail(25)}")
        raise


def rows(lab: Lab) -> tuple[NodeRow, ...]:
    """The nodes, as the primary has them."""
    return ask(lab, primary(lab), "nodes", Nodes).nodes


def whole(lab: Lab, count: int | None = None) -> bool:
    """One primary, and ``count`` nodes (all, unless told) are active."""
    found = primaries(lab)
    if len(found) != 1:
        return False
    states = [row.state for row in ask(lab, found[0], "nodes", Nodes).nodes]
    return states.count("active") == (lab.plan.nodes if count is None else count)


def wait_whole(lab: Lab, count: int | None = None, timeout: float = PATIENCE) -> None:
    until("the cluster to be whole", lambda: whole(lab, count), timeout)


def restore(lab: Lab) -> None:
    """Whatever a round that failed has left: every node on, its agent running, its links whole, everybody active, and
    with the whole flow table: of two that die at once one may be the only other that has it."""
    for node in lab.plan.node_names:
        if not lab.powered(node):
            lab.revive(node)
        elif lab.site(node).pid() is None:
            lab.restart_agent(node)
        lab.heal(node)
    wait_whole(lab, timeout=30)
    until("everybody to have the flow table", lambda: synchronised(lab), PATIENCE)


def synchronised(lab: Lab) -> bool:
    rows = ask(lab, primary(lab), "sync", Sync).nodes
    return all(row.state in ("source", "equal", "differing", "behind") for row in rows)


def tables_differ(lab: Lab) -> list[str]:
    """The primary's flow table against those of the other nodes."""
    first = primary(lab)
    return flow_differences(lab, [first, *(node for node in agents(lab) if node != first)])


def entries_differ(lab: Lab) -> list[str]:
    """Connection tracking of each flow's owner against the primary's; how many differ, and one of them."""
    first = primary(lab)
    found = agreement.compare(lab, ask(lab, first, "flows", Flows, limit=ALL, state="established").flows, first)
    if found.whole:
        return []
    return [f"{found.compared - found.equal} of {found.compared} entries differ: {found.differences[0]}"]


def differences(lab: Lab) -> Sequence[str]:
    return [*tables_differ(lab), *entries_differ(lab)]
