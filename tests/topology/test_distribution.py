# SPDX-License-Identifier: GPL-2.0-or-later
"""Shares of new sessions are exact: round-robin, weights, weight 0, one node, five."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import held_sessions
from aa_cluster.topology.view import flows, flows_of, owners, sessions, set_weights

pytestmark = pytest.mark.lab


def share(lab: Lab, count: int) -> Counter[str]:
    """Sessions per owner, out of ``count`` held open from client to server, every one of which completed."""
    with held_sessions(lab, "client", "10.77.2.100", 80, count) as report:
        assert report.completed == count, report.failed
        return owners(flows_of(lab, "10.77.1.100", report.ports, ("10.77.2.100", 80)))


def test_equal_weights_are_round_robin(lab: Lab) -> None:
    assert share(lab, 300) == {"node1": 100, "node2": 100, "node3": 100}


def test_weights_are_exact(lab: Lab) -> None:
    set_weights(lab, {1: 1, 2: 2, 3: 3})
    assert share(lab, 300) == {"node1": 50, "node2": 100, "node3": 150}


def test_weight_zero_takes_the_primary_out(lab: Lab) -> None:
    set_weights(lab, {1: 0})
    assert share(lab, 300) == {"node2": 150, "node3": 150}


def test_nodes_says_who_has_how_many_sessions(lab: Lab) -> None:
    with held_sessions(lab, "client", "10.77.2.100", 80, 30) as report:
        assert report.completed == 30, report.failed
        live = owners(flow for flow in flows(lab) if not flow.state.startswith("clos"))
        assert min(live.values()) >= 10
        until("nodes to say the same as flows", lambda: sessions(lab) == live, 5)


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_other_sizes(make_lab: Callable[..., Lab], nodes: int) -> None:
    with_nodes = make_lab(nodes)
    expected = {f"node{index}": 300 // nodes for index in range(1, nodes + 1)}
    assert share(with_nodes, 300) == expected
    with_nodes.down()
