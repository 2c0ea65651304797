# SPDX-License-Identifier: GPL-2.0-or-later
"""Shares of new sessions are exact, over IPv4 and IPv6: round-robin, weights, weight 0, each kind of NAT, one node,
five."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.agreement import compare
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import held_sessions
from aa_cluster.topology.view import flows, flows_of, owners, sessions, set_weights
from tests.topology.hosts import CLIENT, FAMILIES, SERVER, fresh_ports

pytestmark = pytest.mark.lab


def share(lab: Lab, count: int, family: int = 4) -> Counter[str]:
    """Sessions per owner, out of ``count`` held open from client to server, every one of which completed, with the same
    entry on owner and primary."""
    server = SERVER[family]
    with held_sessions(lab, "client", server, 80, count) as report:
        assert report.completed == count, report.failed
        rows = flows_of(lab, CLIENT[family], report.ports, (server, 80))
        assert not compare(lab, rows).differences
        return owners(rows)


@FAMILIES
def test_equal_weights_are_round_robin(lab: Lab, family: int) -> None:
    assert share(lab, 300, family) == {"node1": 100, "node2": 100, "node3": 100}


@FAMILIES
def test_weights_are_exact(lab: Lab, family: int) -> None:
    set_weights(lab, {1: 1, 2: 2, 3: 3})
    assert share(lab, 300, family) == {"node1": 50, "node2": 100, "node3": 150}


@FAMILIES
def test_weight_zero_takes_the_primary_out(lab: Lab, family: int) -> None:
    set_weights(lab, {1: 0})
    assert share(lab, 300, family) == {"node2": 150, "node3": 150}


@FAMILIES
@pytest.mark.parametrize("ruleset", ["npt", "no-nat"])
def test_whatever_the_translation(lab: Lab, ruleset: str, family: int) -> None:
    """Masquerading is the tests' above."""
    lab.load_ruleset(rulesets.text(ruleset))
    fresh_ports(lab)
    assert share(lab, 300, family) == {"node1": 100, "node2": 100, "node3": 100}


def test_families_take_turns(lab: Lab) -> None:
    """One schedule for all: what IPv4 gets, IPv6 does not get again."""
    with (
        held_sessions(lab, "client", SERVER[4], 80, 100) as four,
        held_sessions(lab, "client", SERVER[6], 80, 50) as six,
    ):
        rows = flows_of(lab, CLIENT[4], four.ports, (SERVER[4], 80))
        rows += flows_of(lab, CLIENT[6], six.ports, (SERVER[6], 80))
    assert owners(rows) == {"node1": 50, "node2": 50, "node3": 50}


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
    for family in (4, 6):
        assert share(with_nodes, 300, family) == expected
    with_nodes.down()
