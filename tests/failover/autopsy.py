# SPDX-License-Identifier: GPL-2.0-or-later
"""What every node still knows of a session that was lost: its flow, its conntrack entries, what the agents said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.pinned import maps_of
from tests.failover.oracle import agents

LINES = 15


def autopsy(lab: Lab, port: int) -> Iterator[str]:
    """``port``: of the host that opened the session. One line a trace."""
    for node in agents(lab):
        yield from (f"{node} flow: {row}" for row in _flows(lab, node, port))
        yield from (f"{node} entry: {line}" for line in _entries(lab, node, port))
        yield f"{node} said:\n{lab.site(node).tail(LINES)}"


def _flows(lab: Lab, node: str, port: int) -> list[str]:
    with maps_of(lab, node) as maps:
        rows = maps["records"].view()
        found = np.flatnonzero(rows["original_sport"].view(">u2") == port)
        return [f"record {number}: {rows[number]}" for number in found]


def _entries(lab: Lab, node: str, port: int) -> list[str]:
    def read() -> list[str]:
        with open("/proc/thread-self/net/nf_conntrack", encoding="ascii") as table:
            return [line.strip() for line in table if f"port={port} " in line]

    return inside(lab.plan.path(node), read)
