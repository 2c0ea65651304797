# SPDX-License-Identifier: GPL-2.0-or-later
"""What the netns tests share: the three-node lab in a known state, and the end of a test's traffic."""

from __future__ import annotations

import pytest

from aa_cluster.api import Nodes
from aa_cluster.topology import rulesets
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import write_sysctls
from aa_cluster.topology.view import ask, set_weights


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    """The shared three nodes: all active, weights 1:1:1, the default ruleset, whatever the test before left."""
    for node in shared_lab.plan.node_names:
        if shared_lab.site(node).pid() is None:
            shared_lab.restart_agent(node)
    shared_lab.load_ruleset(rulesets.text("default"))
    set_weights(shared_lab, {1: 1, 2: 1, 3: 1})
    for host in shared_lab.plan.host_networks:
        write_sysctls(shared_lab.plan.path(host), {"net/ipv4/ip_local_port_range": "32768 60999"})
    until("all nodes to be active", lambda: all_active(shared_lab, 3), 5)
    return shared_lab


def all_active(lab: Lab, count: int) -> bool:
    rows = ask(lab, 1, "nodes", Nodes).nodes
    return len(rows) == count and all(row.state == "active" for row in rows)
