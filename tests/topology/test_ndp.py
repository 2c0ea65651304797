# SPDX-License-Identifier: GPL-2.0-or-later
"""Only the primary speaks NDP and MLD on data segments; auxiliaries ask it over the HA link."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from aa_cluster.topology.capture import Capture, Frame
from aa_cluster.topology.deadline import until
from aa_cluster.topology.inject import send
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import run_sessions
from aa_cluster.topology.ndpframe import ETH_P_IPV6, NdpFrame, neighbour_frames
from aa_cluster.topology.plan import DATA, HA, HOST
from aa_cluster.topology.view import counters, only, questions

pytestmark = pytest.mark.lab

CLIENT, SERVER = "fd77:1::100", "fd77:2::100"
CLUSTER = {"int": "fd77:1::1", "ext": "fd77:2::1"}
CLIENT_MAC, SERVER_MAC = DATA["int"].mac(HOST), DATA["ext"].mac(HOST)
SOLICITED_NODE = "33:33:ff:00:00:01"
RELAYED = (201, 202)


def flush(lab: Lab, *nodes: int) -> None:
    for node in nodes:
        for link in ("int", "ext"):
            lab.exec(f"node{node}", ["ip", "-6", "neigh", "flush", "dev", link, "nud", "all"])


def neighbour(lab: Lab, node: int, link: str, target: str) -> str:
    """The MAC the node's kernel has for ``target``, empty when it has none."""
    text = lab.exec(f"node{node}", ["ip", "-j", "-6", "neigh", "show", target, "dev", link]).stdout
    return "".join(entry.get("lladdr", "") for entry in json.loads(text or "[]"))


def of_auxiliaries(frames: Sequence[Frame]) -> list[NdpFrame]:
    """What of NDP and MLD an auxiliary sent on data segments, by switch port or by MAC, or told with its MAC."""
    macs = {net.mac(index) for net in (*DATA.values(), HA) for index in (2, 3)}
    found = [one for one in neighbour_frames(frames) if one.segment != HA.name]
    return [one for one in found if one.member in ("node2", "node3") or {one.source, one.mac} & macs]


def multicast_of_auxiliaries(frames: Sequence[Frame]) -> list[Frame]:
    """IPv6 of any kind that every host would hear."""
    ports = {f"node{node}-{link}" for node in (2, 3) for link in DATA}
    return [frame for frame in frames if frame.port in ports and int(frame.destination[:2], 16) & 1]


@pytest.mark.parametrize("owner", [2, 3])
def test_an_auxiliary_with_empty_neighbour_tables_completes_sessions(lab: Lab, owner: int) -> None:
    only(lab, owner)
    with Capture(lab.plan.path("switch"), ETH_P_IPV6) as capture, Capture(lab.plan.path("switch")) as relay:
        flush(lab, owner)
        assert run_sessions(lab, "client", SERVER, 80, 5).completed == 5
        assert run_sessions(lab, "server", CLUSTER["ext"], 8080, 5).completed == 5
    relayed = [frame for frame in relay.arp() if frame.opcode in RELAYED and ":" in frame.sender_ip]
    assert {frame.segment for frame in relayed} == {"ha"}
    assert {frame.opcode for frame in relayed} == set(RELAYED)
    assert of_auxiliaries(capture.frames()) == []
    assert multicast_of_auxiliaries(capture.frames()) == []


def test_nothing_of_an_auxiliary_whatever_its_kernel_wants_to_say(lab: Lab) -> None:
    """Solicitations, probes, answers, reports of groups and what an interface says that comes up."""
    with Capture(lab.plan.path("switch"), ETH_P_IPV6) as capture:
        flush(lab, 2)
        before = counters(lab, 2)
        lab.exec("node2", ["ping", "-6", "-c1", "-W1", SERVER])
        lab.exec("node2", ["ip", "neigh", "replace", SERVER, "lladdr", SERVER_MAC, "dev", "ext", "nud", "probe"])
        lab.exec("node2", ["ip", "address", "add", "fd77:1::77/64", "dev", "int"])  # and is it anybody's?
        send(lab.plan.path("client"), "eth0", bytes(question(CLUSTER["int"])))
        lab.exec("node2", ["ping", "-6", "-c1", "-W1", "fd77:2::99"])
        until("node2 to have asked", lambda: counters(lab, 2)["NDP_ASKED"] > before["NDP_ASKED"], 5)
        until("node2 to have been stopped", lambda: counters(lab, 2)["NDP_KEPT"] > before["NDP_KEPT"], 5)
        until("node2 to have been asked", lambda: counters(lab, 2)["GUARD_NDP"] > before["GUARD_NDP"], 5)
        lab.exec("node2", ["ip", "address", "del", "fd77:1::77/64", "dev", "int"])
    assert of_auxiliaries(capture.frames()) == []
    assert multicast_of_auxiliaries(capture.frames()) == []


def question(target: str) -> Packet:
    """As the client asks for it."""
    head = Ether(src=CLIENT_MAC, dst=SOLICITED_NODE) / IPv6(src=CLIENT, dst="ff02::1:ff00:1", hlim=255)
    return head / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT_MAC)


def test_a_joining_node_never_answers_for_the_cluster(make_lab: Callable[..., Lab]) -> None:
    """A host keeps asking for the cluster's address, which the joining node has too, while it joins."""
    lab = make_lab(2, joined=1)
    asked, done = bytes(question(CLUSTER["int"])), threading.Event()

    def ask() -> None:
        while not done.wait(0.005):
            send(lab.plan.path("client"), "eth0", asked)

    asker = threading.Thread(target=ask)
    with Capture(lab.plan.path("switch"), ETH_P_IPV6) as capture:
        asker.start()
        try:
            lab.join(2)
            assert run_sessions(lab, "client", SERVER, 80, 4).completed == 4
        finally:
            done.set()
            asker.join()
    assert of_auxiliaries(capture.frames()) == []
    answered = [one for one in neighbour_frames(capture.frames()) if one.type == 136 and one.target == CLUSTER["int"]]
    assert {one.member for one in answered} == {"node1"}
    for node, link in ((1, "int"), (1, "ext"), (2, "int"), (2, "ext")):
        assert "dadfailed" not in lab.exec(f"node{node}", ["ip", "-6", "address", "show", "dev", link]).stdout


@pytest.fixture
def known_to_primary(lab: Lab) -> Iterator[Lab]:
    """The primary has the server in its neighbour table, for good while the test runs."""
    entry = [SERVER, "dev", "ext"]
    lab.exec("node1", ["ip", "neigh", "replace", *entry, "lladdr", SERVER_MAC, "nud", "permanent"])
    yield lab
    lab.exec("node1", ["ip", "neigh", "del", *entry])


def test_a_target_the_primary_knows_is_answered_without_asking_the_wire(known_to_primary: Lab) -> None:
    lab = known_to_primary
    before = questions(lab, 1)
    with Capture(lab.plan.path("switch"), ETH_P_IPV6) as capture:
        flush(lab, 2)
        lab.exec("node2", ["ping", "-6", "-c1", "-W1", SERVER])
        until("the auxiliary to learn it", lambda: neighbour(lab, 2, "ext", SERVER) == SERVER_MAC, 5)
    asked = [one for one in neighbour_frames(capture.frames()) if one.type == 135 and one.target == SERVER]
    assert [one for one in asked if one.segment == "ext"] == []
    after = questions(lab, 1)
    assert after.answered_from_cache > before.answered_from_cache
    assert after.answered_from_wire == before.answered_from_wire


def test_two_auxiliaries_asking_at_once_both_get_the_answer(lab: Lab) -> None:
    """The server is unplugged until both have asked, so that one answer from the wire serves two questions."""
    with Capture(lab.plan.path("switch"), ETH_P_IPV6) as capture, Capture(lab.plan.path("switch")) as relay:
        lab.cut("server", "ext")
        try:
            flush(lab, 1, 2, 3)
            pings = [lab.popen(f"node{node}", ["ping", "-6", "-q", "-c3", "-W3", SERVER], stdout=-3) for node in (2, 3)]
            until("both to have asked", lambda: {2, 3} <= asking(lab), 5)
        finally:
            lab.heal("server", "ext")
        for node in (2, 3):
            until(f"node{node} to learn it", lambda: neighbour(lab, node, "ext", SERVER) == SERVER_MAC, 10)  # noqa: B023
        for ping in pings:
            ping.kill()
            ping.wait()
    answers = {frame.destination for frame in relay.arp() if frame.opcode == 202 and frame.sender_ip == SERVER}
    assert answers == {HA.mac(2), HA.mac(3)}
    assert of_auxiliaries(capture.frames()) == []


def asking(lab: Lab) -> set[int]:
    """Ids of the nodes for whom the primary has an open question about the server."""
    return {node for question in questions(lab, 1).open if question.target == SERVER for node in question.asked_by}


def test_an_unasked_answer_is_dropped_and_counted(lab: Lab) -> None:
    layout = {"hwtype": 1, "ptype": ETH_P_IPV6, "hwlen": 6, "plen": 16, "op": 202}
    forged = Ether(dst=HA.mac(2), src=HA.mac(1), type=0x0806) / ARP(
        **layout, hwsrc="02:de:ad:be:ef:01", psrc="fd77:2::55", hwdst=DATA["ext"].mac(2), pdst=CLUSTER["ext"]
    )
    before = counters(lab, 2)["NDP_UNASKED"]
    send(lab.plan.path("node1"), "ha", bytes(forged))
    until("node2 to count it", lambda: counters(lab, 2)["NDP_UNASKED"] == before + 1, 5)
    assert neighbour(lab, 2, "ext", "fd77:2::55") == ""


def test_a_forged_advertisement_to_an_auxiliary_is_dropped(lab: Lab) -> None:
    """From whichever MAC; what it says is no news to its kernel."""
    lab.exec("node2", ["ip", "neigh", "replace", SERVER, "lladdr", SERVER_MAC, "dev", "ext", "nud", "reachable"])
    before = counters(lab, 2)["GUARD_NDP"]
    lie = ICMPv6ND_NA(tgt=SERVER, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr="02:de:ad:be:ef:01")
    head = Ether(src=SERVER_MAC, dst=DATA["ext"].mac(2)) / IPv6(src=SERVER, dst=CLUSTER["ext"], hlim=255)
    send(lab.plan.path("server"), "eth0", bytes(head / lie))
    until("node2 to count it", lambda: counters(lab, 2)["GUARD_NDP"] > before, 5)
    assert neighbour(lab, 2, "ext", SERVER) == SERVER_MAC


def test_hosts_learn_at_once_where_the_cluster_is_after_a_promotion(make_lab: Callable[..., Lab]) -> None:
    """The virtual MAC stays the same: it is the switches that learn from what the new primary says."""
    lab = make_lab(2)
    with Capture(lab.plan.path("switch"), ETH_P_IPV6) as capture:
        assert lab.exec("node1", ["aa-cluster", "promote", "node2"]).returncode == 0
        until("node2 to say so", lambda: announced(neighbour_frames(capture.frames())) >= set(CLUSTER.values()), 5)
    assert run_sessions(lab, "client", SERVER, 80, 4).completed == 4


def announced(frames: Sequence[NdpFrame]) -> set[str]:
    """Addresses that node2 told all nodes of a segment."""
    return {
        one.target for one in frames if one.type == 136 and one.member == "node2" and one.destination_ip == "ff02::1"
    }
