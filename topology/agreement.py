# SPDX-License-Identifier: GPL-2.0-or-later
"""Do owner and primary have the same decision for a flow? Compares their conntrack tables, flow by flow."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from aa_cluster.api import FlowRow
from aa_cluster.netlink.conntrack import ConntrackEntry, Tuple, dump
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
PROTOCOLS = {"tcp": TCP, "udp": UDP}
"""Of sessions that are shared, as flows name them."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """``compared`` flows of auxiliaries, of which ``equal``; ``differences``: one sentence each for the others."""

    compared: int
    equal: int
    differences: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return self.compared == self.equal


def tables(lab: Lab, protocols: Collection[int] = (TCP,)) -> dict[str, dict[Tuple, ConntrackEntry]]:
    """Node name → its conntrack entries by original tuple, for nodes that are on."""
    return {node: table(lab, node, protocols) for node in lab.plan.node_names if lab.plan.path(node).exists()}


def table(lab: Lab, node: str, protocols: Collection[int] = (TCP,)) -> dict[Tuple, ConntrackEntry]:
    """Those of both families. UDP has the nodes' own beside the hosts': they talk by it over the HA link."""
    entries = inside(lab.plan.path(node), dump)
    return {entry.original: entry for entry in entries if entry.original.protocol in protocols}


def original(flow: FlowRow) -> Tuple:
    family, protocol = 6 if flow.family == "ipv6" else 4, PROTOCOLS[flow.protocol]
    return Tuple(family, protocol, flow.source, flow.source_port, flow.destination, flow.destination_port)


def compare(lab: Lab, flows: Iterable[FlowRow], primary: str = "node1") -> Agreement:
    """Those of the flows that an auxiliary owns: tuples, NAT and mark of its entry against the primary's."""
    known = tables(lab, PROTOCOLS.values())
    owned = [flow for flow in flows if flow.owner_name != primary]
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
