# SPDX-License-Identifier: GPL-2.0-or-later
"""A host gets another MAC and says so, by ARP and by NDP: sessions through every node go on within a second."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether

from aa_cluster.api import Event
from aa_cluster.topology.deadline import until
from aa_cluster.topology.inject import arp_frame, send
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import Stream, serving, stream
from aa_cluster.topology.plan import DATA, HOST
from aa_cluster.topology.view import flows, only
from tests.topology.hosts import FAMILIES
from tests.topology.hosts import SERVER as SERVERS

pytestmark = pytest.mark.lab

SERVER = SERVERS[4]
OLD, NEW = DATA["ext"].mac(HOST), "02:00:00:02:00:fe"
NODES = (1, 2, 3)
WITHIN_MS = 1000


def set_mac(lab: Lab, mac: str) -> None:
    """As a card that was exchanged: another MAC, told everybody once (RFC 5227, section 3; RFC 4861, 7.2.6)."""
    lab.exec("server", ["ip", "link", "set", "eth0", "address", mac], check=True)
    shown = (
        Ether(src=mac, dst="33:33:00:00:00:01")
        / IPv6(src=SERVERS[6], dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=SERVERS[6], R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )
    send(lab.plan.path("server"), "eth0", arp_frame(1, (mac, SERVER), ("00:00:00:00:00:00", SERVER)), bytes(shown))


@pytest.fixture
def server_with_its_mac(lab: Lab) -> Iterator[Lab]:
    """Afterwards the server has the MAC it had, and every node knows it."""
    yield lab
    set_mac(lab, OLD)
    for node in NODES:
        for family in SERVERS:
            until(f"node{node} to know the old MAC", lambda: known(lab, node, family) in ("", OLD), 5)  # noqa: B023


def known(lab: Lab, node: int, family: int = 4) -> str:
    """The MAC the node's kernel has for the server, empty when it has none."""
    text = lab.exec(f"node{node}", ["ip", "-j", "neigh", "show", SERVERS[family], "dev", "ext"]).stdout
    return "".join(entry.get("lladdr", "") for entry in json.loads(text or "[]"))


@contextmanager
def streams_on_every_node(lab: Lab, way: str, family: int) -> Iterator[dict[int, Stream]]:
    with ExitStack() as stack:
        running = {}
        for node in NODES:
            only(lab, node)
            stack.enter_context(serving(lab, "server", "stream", 7100 + node))
            running[node] = stack.enter_context(stream(lab, "client", way, SERVERS[family], 7100 + node, rate=200))
        for node in NODES:
            port = 7100 + node
            found = {flow.owner_name for flow in flows(lab, port=str(port)) if flow.destination_port == port}
            assert found == {f"node{node}"}
        yield running


@FAMILIES
@pytest.mark.parametrize("way", ["push", "pull"])
def test_sessions_of_every_node_go_on(server_with_its_mac: Lab, way: str, family: int) -> None:
    lab = server_with_its_mac
    with streams_on_every_node(lab, way, family) as running:
        before = time.monotonic()
        set_mac(lab, NEW)
        for node in NODES:
            until(f"node{node} to know the new MAC", lambda: known(lab, node, family) == NEW, 1)  # noqa: B023
        assert time.monotonic() - before < 1
        until("the streams to run on", lambda: time.monotonic() - before > 2, 3)
        for node, one in running.items():
            report = one.stop()
            assert report.lines == report.sent > 200, f"node{node}"
            assert report.wrong == 0
            assert report.gap_ms < WITHIN_MS, f"node{node} stood still for {report.gap_ms} ms"


def test_a_primary_that_does_not_know_the_host_tells_all_the_same(server_with_its_mac: Lab) -> None:
    """It steers sessions of a host that its own kernel has forgotten."""
    lab = server_with_its_mac
    only(lab, 2)
    with serving(lab, "server", "stream", 7104), stream(lab, "client", "pull", SERVER, 7104, rate=200) as running:
        lab.exec("node1", ["ip", "neigh", "flush", "dev", "ext", "nud", "all"])
        set_mac(lab, NEW)
        until("node2 to know the new MAC", lambda: known(lab, 2) == NEW, 1)
        report = running.stop()
    assert report.gap_ms < WITHIN_MS
    assert report.lines == report.sent


def test_an_auxiliary_learns_nothing_it_did_not_know(server_with_its_mac: Lab) -> None:
    lab = server_with_its_mac
    events = lab.client(3).events({"kind": "neighbour", "address": SERVER})
    only(lab, 1)
    set_mac(lab, OLD)
    until("the primary to know the server", lambda: ping(lab), 5)
    lab.exec("node3", ["ip", "neigh", "flush", "dev", "ext", "nud", "all"])
    set_mac(lab, NEW)
    event = next(events)
    assert isinstance(event, Event)
    assert event.detail["mac"] == NEW
    assert known(lab, 3) == ""


def ping(lab: Lab) -> bool:
    return lab.exec("node1", ["ping", "-c1", "-W1", SERVER]).returncode == 0


def test_a_permanent_entry_is_the_operators(server_with_its_mac: Lab) -> None:
    lab = server_with_its_mac
    entry = [SERVER, "dev", "ext"]
    lab.exec("node3", ["ip", "neigh", "replace", *entry, "lladdr", OLD, "nud", "permanent"], check=True)
    lab.exec("node2", ["ip", "neigh", "replace", *entry, "lladdr", OLD, "nud", "stale"], check=True)
    try:
        set_mac(lab, NEW)
        until("node2 to know the new MAC", lambda: known(lab, 2) == NEW, 1)
        assert known(lab, 3) == OLD
    finally:
        lab.exec("node3", ["ip", "neigh", "del", *entry])
