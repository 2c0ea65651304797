# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes' own maps, as their agents pinned them: to look into flow tables, or to fill one, beside the agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from aa_cluster.agent.host import CACHE
from aa_cluster.dataplane import kfuncs
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.maps import Map, open_all
from aa_cluster.errors import LabError
from aa_cluster.topology.lab import Lab

TUPLE = ("saddr", "daddr", "sport", "dport", "protocol", "family")
RECORD = (
    *(f"original_{part}" for part in TUPLE),
    *(f"reply_{part}" for part in TUPLE),
    "mark",
    "owner",
    "state",
    "slot",
)
"""Of a record, what is the same on every node; the original tuple first."""
FIRST_STATE, LAST_STATE = 1, 5
"""Of flows that are in the table: SYN_SENT to CLOSED (enum flow_state)."""


def flow_table(lab: Lab, node: int | str) -> dict[bytes, bytes]:
    """Original tuple → the fields of ``RECORD``, side by side, of each flow the node's kernel holds.

    ``LabError`` when it has no table.
    """
    name = lab.node_name(node)
    pin = lab.site(name).pins / "maps" / "records"
    if not pin.exists():
        raise LabError(f"{name} has no flow table", "only nodes that have joined, and replicate, have one")
    compiled = objects.load(("steer",), kfuncs.offsets(), CACHE)
    declaration = {"records": compiled["steer"].maps["records"]}
    records = open_all(declaration, pin.parent, 1)["records"]
    try:
        rows = records.view()
        live = rows[(rows["state"] >= FIRST_STATE) & (rows["state"] <= LAST_STATE)]
    finally:
        records.close()
    if not len(live):
        return {}
    parts = [np.ascontiguousarray(live[field]).view("u1").reshape(len(live), -1) for field in RECORD]
    key = sum(part.shape[1] for part in parts[: len(TUPLE)])
    return {row[:key]: row for row in map(bytes, np.concatenate(parts, axis=1))}


def flow_differences(lab: Lab, nodes: Sequence[int | str]) -> list[str]:
    """One sentence a node that does not hold what the first of ``nodes`` holds; they should all be quiet."""
    first, *others = nodes
    leading = flow_table(lab, first)
    found = []
    for node in others:
        table = flow_table(lab, node)
        missing, more = leading.keys() - table.keys(), table.keys() - leading.keys()
        other = [key for key in leading.keys() & table.keys() if leading[key] != table[key]]
        if missing or more or other:
            told = f"{len(missing)} missing, {len(more)} too many, {len(other)} different"
            found.append(f"{lab.node_name(node)} against {lab.node_name(first)}, {len(leading)} flows: {told}")
    return found


@contextmanager
def primary_maps(lab: Lab) -> Iterator[dict[str, Map]]:
    """Those of node1."""
    with maps_of(lab, "node1") as maps:
        yield maps


@contextmanager
def maps_of(lab: Lab, node: str) -> Iterator[dict[str, Map]]:
    """By name. The node's agent has made them: its sizes are in force."""
    compiled = objects.load(("steer", "handoff"), kfuncs.offsets(), CACHE)
    declarations = {name: item for each in compiled.values() for name, item in each.maps.items()}
    maps = open_all(declarations, lab.site(node).pins / "maps", 1)
    try:
        yield maps
    finally:
        for item in maps.values():
            item.close()
