# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agents and kernels of a lab say, in the shape that tests and the demo want it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from aa_cluster.api import (
    Answer,
    Arp,
    DrainRequest,
    FlowRow,
    Flows,
    Nodes,
    ReasonRow,
    ScheduleRequest,
    Stats,
    WeightRequest,
)
from aa_cluster.errors import LabError
from aa_cluster.topology.lab import Lab

A = TypeVar("A", bound=Answer)
ALL = "1000000"


def ask(lab: Lab, node: int | str, noun: str, kind: type[A], **params: str) -> A:
    """``GET /v1/<noun>`` of a node's agent; ``LabError`` when it answers with something else."""
    answer = lab.client(node).get(f"/v1/{noun}", params)
    if not isinstance(answer, kind):
        raise LabError(f"{node} answered {noun} with {type(answer).__name__}, expected {kind.__name__}")
    return answer


def flows(lab: Lab, **filters: str) -> tuple[FlowRow, ...]:
    """Of the primary (node1), all that match the filters of ``GET /v1/flows``."""
    return ask(lab, 1, "flows", Flows, limit=ALL, **filters).flows


def flows_of(lab: Lab, source: str, ports: Collection[int], destination: tuple[str, int]) -> list[FlowRow]:
    """The primary's flows from ``source`` and one of these ports to ``destination``."""
    wanted = {(source, port, *destination) for port in ports}
    found = flows(lab, address=source)
    return [row for row in found if (row.source, row.source_port, row.destination, row.destination_port) in wanted]


def owners(rows: Iterable[FlowRow]) -> Counter[str]:
    """Owner's name → how many of these flows it has."""
    return Counter(row.owner_name for row in rows)


def reasons(lab: Lab, node: int | str) -> tuple[ReasonRow, ...]:
    return ask(lab, node, "stats", Stats).reasons


def counters(lab: Lab, node: int | str) -> Counter[str]:
    """Reason name → packets; 0 for what did not happen."""
    return Counter({row.name: row.packets for row in reasons(lab, node)})


def sessions(lab: Lab) -> dict[str, int]:
    """Node name → live flows it owns, as ``nodes`` of the primary says."""
    return {row.name: row.sessions for row in ask(lab, 1, "nodes", Nodes).nodes}


def questions(lab: Lab, node: int | str) -> Arp:
    return ask(lab, node, "arp", Arp)


def set_weights(lab: Lab, weights: Mapping[int, int]) -> None:
    """Node number → weight, through the primary."""
    for index, weight in weights.items():
        lab.client(1).post("/v1/weight", WeightRequest(node=lab.node_name(index), weight=weight))


def only(lab: Lab, index: int) -> None:
    """All new sessions go to this node."""
    set_weights(lab, {index: 1} | {node: 0 for node in range(1, lab.plan.nodes + 1) if node != index})


def drain(lab: Lab, index: int, by: int = 1) -> None:
    """No new sessions for this node, asked of node ``by``."""
    lab.client(by).post("/v1/drain", DrainRequest(node=lab.node_name(index)))


def undrain(lab: Lab, index: int, by: int = 1) -> None:
    lab.client(by).post("/v1/undrain", DrainRequest(node=lab.node_name(index)))


def set_schedule(lab: Lab, kind: str, by: int = 1) -> None:
    lab.client(by).post("/v1/schedule", ScheduleRequest(schedule=kind))


def forwarded(lab: Lab, node: int | str, family: int = 4) -> int:
    """Packets of that family which the node's stack has forwarded."""
    if family == 6:
        counted = dict(line.split() for line in _told(lab, node, "snmp6").splitlines())
        return int(counted["Ip6OutForwDatagrams"])
    names, values = (line.split() for line in _told(lab, node, "snmp").splitlines() if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


def _told(lab: Lab, node: int | str, table: str) -> str:
    return lab.exec(lab.node_name(node), ["cat", f"/proc/net/{table}"]).stdout


def received(lab: Lab, node: int | str, interface: str) -> int:
    """Packets that came in at the node's interface, those XDP sent on included."""
    links = json.loads(lab.exec(lab.node_name(node), ["ip", "-j", "-s", "link", "show", interface]).stdout)
    return int(links[0]["stats64"]["rx"]["packets"])
