# SPDX-License-Identifier: GPL-2.0-or-later
"""The dataplane outlives its agent: SIGKILL in the middle of a transfer loses no packet, and a restart picks all up."""

from __future__ import annotations

import pytest

from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import run_sessions, serving, stream
from aa_cluster.topology.view import counters, flows, only, set_weights

pytestmark = pytest.mark.lab

NEEDED = {1: ("STEER_TX", "STEER_SYN", "HANDOFF_SENT"), 2: ("GUARD_PASS", "ADOPT_NEW")}


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("victim", [1, 2])
def test_sigkill_in_the_middle_of_a_stream(lab: Lab, victim: int, way: str) -> None:
    only(lab, 2)
    with serving(lab, "server", "stream", 7017), stream(lab, "client", way, "10.77.2.100", 7017, rate=2000) as running:
        before, counted = lab.status(victim), counters(lab, victim)
        lab.site(f"node{victim}").kill()
        meanwhile = run_sessions(lab, "client", "10.77.2.100", 80, 4)
        after = lab.restart_agent(victim)
        continued = counters(lab, victim)
        then = run_sessions(lab, "client", "10.77.2.100", 80, 4)
        risen = counters(lab, victim)
        report = running.stop()
    assert meanwhile.completed == then.completed == 4
    assert (after.role, after.node_id, after.generation) == (before.role, before.node_id, before.generation)
    assert [(row.id, row.name, row.weight) for row in after.nodes] == [
        (row.id, row.name, row.weight) for row in before.nodes
    ]
    assert all(risen[name] > continued[name] >= counted[name] > 0 for name in NEEDED[victim])
    assert report.lines == report.sent > 0
    assert (report.wrong, report.retransmits) == (0, 0)
    found = [flow for flow in flows(lab, port="7017") if flow.destination_port == 7017]
    assert {flow.owner_name for flow in found} == {"node2"}


def test_the_schedule_goes_on_where_it_was(lab: Lab) -> None:
    """Six sessions with weights 1:2:3, the agent killed after each: still the whole cycle, each share exact."""
    set_weights(lab, {1: 1, 2: 2, 3: 3})
    before = {flow.source_port: flow for flow in flows(lab, address="10.77.1.100")}
    for _ in range(6):
        assert run_sessions(lab, "client", "10.77.2.100", 80, 1).completed == 1
        lab.site("node1").kill()
        lab.restart_agent(1)
    new = [flow.owner_name for flow in flows(lab, address="10.77.1.100") if flow.source_port not in before]
    assert sorted(new) == ["node1", "node2", "node2", "node3", "node3", "node3"]
