# SPDX-License-Identifier: GPL-2.0-or-later
"""A hundred thousand established flows: every node knows them, the primary dies, another node is primary with all their
conntrack entries, and the dead one gets them back when it returns."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from aa_cluster import api
from aa_cluster.dataplane import flow_fill
from aa_cluster.dataplane.flows import ESTABLISHED
from aa_cluster.netlink import ct_bulk
from aa_cluster.topology import rulesets
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import pulses, serving
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.pinned import flow_differences, primary_maps
from tests.failover.oracle import primary
from tools.bench import flowtable

pytestmark = [pytest.mark.lab, pytest.mark.slow]

MANY = 100_000
PROMOTED = 2.0
RETURNED = 5.0
STREAMS, LINES = 60, 20.0
LARGEST_MS = 2500
"""A gap may last as long as the promotion, and then until TCP tries again."""


@pytest.fixture
def filled(make_lab: Callable[..., Lab]) -> Lab:
    """A third of the flows with each node, which has their entries; the primary has all. Everybody knows all flows."""
    lab = make_lab(3, ruleset=rulesets.text("failover"), election=True)
    until("the election to be on", lambda: all(_votes(lab, node) for node in lab.plan.node_names), 15)
    source = int.from_bytes(bytes((10, 77, 2, 1)), "big")
    columns = flowtable.columns(np.arange(MANY, dtype=np.uint32), source)
    with primary_maps(lab) as maps:
        rows = np.concatenate(
            [flowtable.rows(columns, owner, ESTABLISHED)[owner - 1 :: 3] for owner in range(1, lab.plan.nodes + 1)]
        )
        placed = flow_fill.insert(maps, flowtable.hasher_of(maps), rows)
    assert placed.sum() > 0.999 * MANY
    for owner, node in enumerate(lab.plan.node_names, 1):
        known = rows[placed & ((rows["owner"] == owner) | (owner == 1))]
        assert _make(lab, node, known) == len(known)
    lab.client(1).post("/v1/sync/resync", api.ResyncRequest())
    until("all nodes to know all flows", lambda: not _differences(lab), 20)
    return lab


def _make(lab: Lab, node: str, rows: np.ndarray) -> int:
    return inside(lab.plan.path(node), lambda: ct_bulk.create(rows, {ESTABLISHED: 432_000})).done


def _votes(lab: Lab, node: str) -> bool:
    paths = lab.status(node).paths
    return bool(paths) and "unknown" not in paths.values()


def _differences(lab: Lab) -> list[str]:
    return flow_differences(lab, lab.plan.node_names)


def test_promotion_and_return(filled: Lab) -> None:
    lab = filled
    with (
        serving(lab, "server", "pulses", 7000),
        pulses(lab, "client", "10.77.2.100", 7000, STREAMS, LINES) as running,
    ):
        until("the streams to be known", lambda: not _differences(lab), 10)
        died = time.monotonic()
        lab.kill("node1")
        successor = primary(lab, timeout=10)
        took = time.monotonic() - died
        entries = int(lab.exec(successor, ["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]).stdout)
        until("the flows of the dead node to be the successor's", lambda: not _owned(lab, successor, "node1"), 10)
        report = running.stop()
    largest = max(report.gap_ms)
    print(f"primary {1000 * took:.0f} ms after the death, {entries} entries; largest gap {largest} ms")
    assert took <= PROMOTED
    assert entries >= 0.999 * MANY
    assert (report.broken, report.echoed) == (0, report.lines)
    assert largest <= LARGEST_MS

    start = time.monotonic()
    assert lab.revive("node1").role == "auxiliary"
    active = time.monotonic()
    until("the node that returned to know all flows", lambda: not _differences(lab), RETURNED)
    print(f"active {active - start:.1f} s after power on, all flows {time.monotonic() - active:.1f} s later")


def _owned(lab: Lab, successor: str, node: str) -> int:
    return sum(row.sessions for row in lab.status(successor).nodes if row.name == node)
