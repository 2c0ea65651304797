# SPDX-License-Identifier: GPL-2.0-or-later
"""Do owner and primary have the same decision for a flow? Compares their conntrack tables, flow by flow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aa_cluster.api import FlowRow
from aa_cluster.netlink.conntrack import ConntrackEntry, Tuple, dump
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside

TCP = 6


@dataclass(frozen=True, slots=True)
class Agreement:
    """``compared`` flows of auxiliaries, of which ``equal``; ``differences``: one sentence each for the others."""

    compared: int
    equal: int
    differences: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return self.compared == self.equal


def tables(lab: Lab) -> dict[str, dict[Tuple, ConntrackEntry]]:
    """Node name → its IPv4 TCP conntrack entries by original tuple, for nodes that are on."""
    return {node: table(lab, node) for node in lab.plan.node_names if lab.plan.path(node).exists()}


def table(lab: Lab, node: str) -> dict[Tuple, ConntrackEntry]:
    entries = inside(lab.plan.path(node), lambda: dump(family=4))
    return {entry.original: entry for entry in entries if entry.original.protocol == TCP}


def original(flow: FlowRow) -> Tuple:
    return Tuple(4, TCP, flow.source, flow.source_port, flow.destination, flow.destination_port)


def compare(lab: Lab, flows: Iterable[FlowRow], primary: str = "node1") -> Agreement:
    """Those of the flows that an auxiliary owns: tuples, NAT and mark of its entry against the primary's."""
    known, owned = tables(lab), [flow for flow in flows if flow.owner_name != primary]
    verdicts = [_difference(flow, known[flow.owner_name], known[primary]) for flow in owned]
    differences = tuple(verdict for verdict in verdicts if verdict)
    return Agreement(len(owned), len(owned) - len(differences), differences)


def _difference(flow: FlowRow, owners: dict[Tuple, ConntrackEntry], primarys: dict[Tuple, ConntrackEntry]) -> str:
    key = original(flow)
    mine, theirs = owners.get(key), primarys.get(key)
    if mine is None or theirs is None:
        where = flow.owner_name if mine is None else "the primary"
        return f"{key}: {where} has no entry"
    if mine.decision != theirs.decision:
        return f"{key}: {flow.owner_name} has {mine.decision}, the primary {theirs.decision}"
    return ""
