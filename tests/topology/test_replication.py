# SPDX-License-Identifier: GPL-2.0-or-later
"""Every node holds the flow table: by the kernel's own path, by asking again, and by comparing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from aa_cluster.api import JoinRequest, LeaveRequest, Persist, PersistRequest, Resynced, ResyncRequest, Sync
from aa_cluster.dataplane.events import address_text
from aa_cluster.topology.deadline import until
from aa_cluster.topology.equality import differences, table
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import run_sessions
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.pinned import maps_of
from aa_cluster.topology.view import ask, counters

pytestmark = pytest.mark.lab

NODES = ("node1", "node2", "node3")
EXTRA = "[replication]\nverify_s = 2\n"


@pytest.fixture(scope="module")
def lab(root: None) -> Iterator[Lab]:
    with Lab("repl", 3, extra=EXTRA) as built:
        yield built


def sync(lab: Lab, node: int = 1) -> Sync:
    return ask(lab, node, "sync", Sync)


def settled(lab: Lab) -> bool:
    said = sync(lab)
    equal = all(row.state in ("source", "equal") and not row.lag for row in said.nodes)
    return len(said.nodes) == 3 and equal and not said.pending


def equal(lab: Lab, within: float = 2.0) -> None:
    """All nodes' tables are, field by field; a lab at rest."""
    found: list[str] = []

    def done() -> bool:
        found[:] = differences(lab, NODES)
        return not found

    try:
        until("all nodes' tables to be equal", done, within)
    finally:
        assert found[:10] == []


def test_sessions_are_on_all_nodes(lab: Lab) -> None:
    assert run_sessions(lab, "client", "10.77.2.100", 80, 300).completed == 300
    equal(lab)
    rows = table(lab, "node3")
    assert np.count_nonzero(rows["state"]) >= 300
    assert set(rows["owner"][rows["state"] != 0].tolist()) == {1, 2, 3}
    assert counters(lab, 2)["REPLICA_TAKEN"] > 0
    assert counters(lab, 2)["REPLICA_NO_ROOM"] == 0


def test_the_figures(lab: Lab) -> None:
    run_sessions(lab, "client", "10.77.2.100", 80, 30)
    until("the digests to be compared", lambda: settled(lab), 6)
    said = sync(lab)
    assert said.mode == "all"
    assert said.pending == said.skipped == 0
    assert said.journal >= said.records > 0
    for row in said.nodes[1:]:
        assert (row.state, row.lag, row.refused, row.differing) == ("equal", 0, 0, 0)
        assert row.flows == said.nodes[0].flows
        assert row.took is not None
    assert sync(lab, 2).mode == "all", "asked on an auxiliary, the primary answers"


def test_churn(lab: Lab) -> None:
    for _ in range(3):
        assert run_sessions(lab, "client", "10.77.2.100", 80, 400).completed == 400
    equal(lab)


def test_a_node_that_was_away(lab: Lab) -> None:
    lab.client(3).post("/v1/leave", LeaveRequest(timeout=0))
    assert run_sessions(lab, "client", "10.77.2.100", 80, 100).completed == 100
    lab.client(3).post("/v1/join", JoinRequest())
    until("node3 to have all of it", lambda: settled(lab), 10)
    equal(lab)


def test_what_was_lost_is_asked_for(lab: Lab) -> None:
    """Frames that node2 refuses for a moment are as good as lost."""
    with maps_of(lab, "node2") as maps:
        maps["mirrored"].view()["closed"] = 1
        run_sessions(lab, "client", "10.77.2.100", 80, 100)
        maps["mirrored"].view()["closed"] = 0
    until("node2 to have caught up", lambda: settled(lab), 5)
    equal(lab)
    row = sync(lab).nodes[1]
    assert row.lost > 0
    assert row.resent > 0


def test_a_difference_is_repaired(lab: Lab) -> None:
    with maps_of(lab, "node2") as maps:
        rows = maps["records"].view()
        number = int(np.flatnonzero(rows["state"])[0])
        rows["mark"][number] ^= 0x5555
    assert differences(lab, NODES) != []
    equal(lab, 10)


def test_resync(lab: Lab) -> None:
    answer = lab.client(2).post("/v1/sync/resync", ResyncRequest())
    assert isinstance(answer, Resynced)
    assert (set(answer.nodes), answer.silent) == ({"node2", "node3"}, ())
    until("all to be equal again", lambda: settled(lab) and all(row.took for row in sync(lab).nodes[1:]), 10)
    equal(lab)


def test_a_syn_whose_checksum_is_not_finished(lab: Lab) -> None:
    """A sender with checksum offload, an HA link without: the sum is not written into the frame its clone becomes."""
    offloads = (("client", "eth0", True), ("switch", "node1-int", True), ("node1", "ha", False))
    for host, link, on in offloads:
        checksum_offload(lab, host, link, on)
    try:
        for _ in range(5):
            before = counters(lab, 2)["REPLICA_TAKEN"]
            inside(lab.plan.path("client"), knock).close()
            until("node2 to be told", lambda: counters(lab, 2)["REPLICA_TAKEN"] > before, 5)  # noqa: B023
    finally:
        for host, link, on in offloads:
            checksum_offload(lab, host, link, not on)
    assert counters(lab, 2)["REPLICA_TAG"] == counters(lab, 2)["REPLICA_MALFORMED"] == 0
    equal(lab, 5)


def checksum_offload(lab: Lab, host: str, link: str, on: bool) -> None:
    lab.exec(host, ["ethtool", "-K", link, "tx", "on" if on else "off"])


def knock() -> socket.socket:
    """A SYN, and no wait for its answer."""
    made = socket.socket()
    made.setblocking(False)
    made.connect_ex(("10.77.2.100", 80))
    return made


def test_bindings_are_on_all_nodes(root: None) -> None:
    with Lab("replbind", 2, extra="[persistence]\nenabled = true\n") as lab:
        answer = lab.client(1).post("/v1/persist", PersistRequest(action="set", address="192.0.2.9", node="node2"))
        assert isinstance(answer, Persist)
        until("node2 to know the binding", lambda: bound(lab) == {"192.0.2.9": 2}, 4)
        assert lab.client(1).post("/v1/persist", PersistRequest(action="flush")) is not None
        until("node2 to forget it", lambda: bound(lab) == {}, 4)


def bound(lab: Lab) -> dict[str, int]:
    with maps_of(lab, "node2") as maps:
        keys, values = maps["bindings"].read()
    addresses = (address_text(key["address"].tobytes()) for key in keys)
    return dict(zip(addresses, values["node"].tolist(), strict=True))
