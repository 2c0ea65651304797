# SPDX-License-Identifier: GPL-2.0-or-later
"""A node's own maps, as its agent pinned them: to look into its flow table, or to fill it, beside the agent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aa_cluster.agent.host import CACHE
from aa_cluster.dataplane import kfuncs
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.maps import Map, open_all
from aa_cluster.topology.lab import Lab


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
