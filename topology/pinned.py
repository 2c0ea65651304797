# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's own maps, as its agent pinned them: to look into its flow table, or to fill it, beside the agent."""

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
    """By name. The agent of node1 has made them: its sizes are in force."""
    compiled = objects.load(("steer", "handoff"), kfuncs.offsets(), CACHE)
    declarations = {name: item for each in compiled.values() for name, item in each.maps.items()}
    maps = open_all(declarations, lab.site("node1").pins / "maps", 1)
    try:
        yield maps
    finally:
        for item in maps.values():
            item.close()
