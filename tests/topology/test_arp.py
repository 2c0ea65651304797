# SPDX-License-Identifier: GPL-2.0-or-later
"""Only the primary speaks ARP on data segments; auxiliaries ask it over the HA link."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest

from aa_cluster.topology.capture import ArpFrame, Capture
from aa_cluster.topology.deadline import until
from aa_cluster.topology.inject import arp_frame, send
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import run_sessions
from aa_cluster.topology.plan import DATA, HA, HOST
from aa_cluster.topology.view import counters, only, questions

pytestmark = pytest.mark.lab

SERVER = "10.77.2.100"
SERVER_MAC = DATA["ext"].mac(HOST)
CLIENT_MAC = DATA["int"].mac(HOST)
NOBODY = "00:00:00:00:00:00"
RELAYED = (201, 202)


def flush(lab: Lab, *nodes: int) -> None:
    for node in nodes:
        for link in ("int", "ext"):
            lab.exec(f"node{node}", ["ip", "neigh", "flush", "dev", link, "nud", "all"])


def neighbour(lab: Lab, node: int, link: str, target: str) -> str:
    """The MAC the node's kernel has for ``target``, empty when it has none."""
    text = lab.exec(f"node{node}", ["ip", "-j", "neigh", "show", target, "dev", link]).stdout
    return "".join(entry.get("lladdr", "") for entry in json.loads(text or "[]"))


def of_auxiliaries(frames: list[ArpFrame]) -> list[ArpFrame]:
    """Those on data segments that an auxiliary sent, by switch port or by MAC."""
    members = {"node2", "node3"}
    macs = {net.mac(index) for net in (*DATA.values(), HA) for index in (2, 3)}
    on_data = [frame for frame in frames if frame.segment != HA.name]
    return [frame for frame in on_data if frame.member in members or {frame.source, frame.sender_mac} & macs]


@pytest.mark.parametrize("owner", [2, 3])
def test_an_auxiliary_with_empty_neighbour_tables_completes_sessions(lab: Lab, owner: int) -> None:
    only(lab, owner)
    with Capture(lab.plan.path("switch")) as capture:
        flush(lab, owner)
        assert run_sessions(lab, "client", SERVER, 80, 5).completed == 5
        assert run_sessions(lab, "server", "10.77.2.1", 8080, 5).completed == 5
    relayed = [frame for frame in capture.arp() if frame.opcode in RELAYED]
    assert {frame.segment for frame in relayed} == {"ha"}
    assert {frame.opcode for frame in relayed} == set(RELAYED)
    assert of_auxiliaries(capture.arp()) == []


def test_no_arp_of_an_auxiliary_whatever_its_kernel_wants_to_say(lab: Lab) -> None:
    """Requests, unicast probes and answers its stack makes: none of them reach a data segment."""
    with Capture(lab.plan.path("switch")) as capture:
        flush(lab, 2)
        lab.exec("node2", ["ping", "-c1", "-W1", SERVER])
        lab.exec("node2", ["ip", "neigh", "replace", SERVER, "lladdr", SERVER_MAC, "dev", "ext", "nud", "probe"])
        request = arp_frame(1, (CLIENT_MAC, "10.77.1.100"), (NOBODY, "10.77.1.1"))
        send(lab.plan.path("client"), "eth0", request)
        before = counters(lab, 2)
        lab.exec("node2", ["ping", "-c1", "-W1", "10.77.2.99"])
        until("node2 to count a request", lambda: counters(lab, 2)["ARP_ASKED"] > before["ARP_ASKED"], 5)
    assert of_auxiliaries(capture.arp()) == []


def test_a_joining_node_never_answers_for_the_cluster(make_lab: Callable[..., Lab]) -> None:
    """A host keeps asking for the cluster's address, which the joining node has too, while it joins."""
    lab = make_lab(2, joined=1)
    request = arp_frame(1, (CLIENT_MAC, "10.77.1.100"), (NOBODY, "10.77.1.1"))
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.005):
            send(lab.plan.path("client"), "eth0", request)

    asker = threading.Thread(target=ask)
    with Capture(lab.plan.path("switch")) as capture:
        asker.start()
        try:
            lab.join(2)
            assert run_sessions(lab, "client", SERVER, 80, 4).completed == 4
        finally:
            done.set()
            asker.join()
    frames = capture.arp()
    assert of_auxiliaries(frames) == []
    assert {frame.member for frame in frames if frame.opcode == 2 and frame.segment == "int"} <= {"node1", "client"}


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
    with Capture(lab.plan.path("switch")) as capture:
        flush(lab, 2)
        lab.exec("node2", ["ping", "-c1", "-W1", SERVER])
        until("the auxiliary to learn it", lambda: neighbour(lab, 2, "ext", SERVER) == SERVER_MAC, 5)
    about = [frame for frame in capture.arp() if SERVER in (frame.sender_ip, frame.target_ip)]
    assert [frame for frame in about if frame.segment == "ext" and frame.target_ip == SERVER] == []
    assert {frame.opcode for frame in about if frame.segment == "ha"} == set(RELAYED)
    after = questions(lab, 1)
    assert after.answered_from_cache > before.answered_from_cache
    assert after.answered_from_wire == before.answered_from_wire


def test_two_auxiliaries_asking_at_once_both_get_the_answer(lab: Lab) -> None:
    """The server is unplugged until both have asked, so that one answer from the wire serves two questions."""
    with Capture(lab.plan.path("switch")) as capture:
        lab.cut("server", "ext")
        try:
            flush(lab, 1, 2, 3)
            pings = [lab.popen(f"node{node}", ["ping", "-q", "-c3", "-W3", SERVER], stdout=-3) for node in (2, 3)]
            until("both to have asked", lambda: {2, 3} <= asking(lab), 5)
        finally:
            lab.heal("server", "ext")
        for node in (2, 3):
            until(f"node{node} to learn it", lambda: neighbour(lab, node, "ext", SERVER) == SERVER_MAC, 10)  # noqa: B023
        for ping in pings:
            ping.kill()
            ping.wait()
    answers = {frame.destination for frame in capture.arp() if frame.opcode == 202 and frame.sender_ip == SERVER}
    assert answers == {HA.mac(2), HA.mac(3)}
    assert of_auxiliaries(capture.arp()) == []


def asking(lab: Lab) -> set[int]:
    """Ids of the nodes for whom the primary has an open question about the server."""
    return {node for question in questions(lab, 1).open if question.target == SERVER for node in question.asked_by}


def test_an_unasked_answer_is_dropped_and_counted(lab: Lab) -> None:
    forged = arp_frame(
        202,
        ("02:de:ad:be:ef:01", "10.77.2.55"),
        (DATA["ext"].mac(2), "10.77.2.1"),
        source=HA.mac(1),
        destination=HA.mac(2),
    )
    before = counters(lab, 2)["ARP_UNASKED"]
    send(lab.plan.path("node1"), "ha", forged)
    until("node2 to count it", lambda: counters(lab, 2)["ARP_UNASKED"] == before + 1, 5)
    assert neighbour(lab, 2, "ext", "10.77.2.55") == ""


@pytest.mark.parametrize(("link", "host"), [("int", "client"), ("ext", "server")])
@pytest.mark.parametrize("opcode", RELAYED)
def test_relay_opcodes_on_a_data_segment_are_dropped_and_counted(lab: Lab, opcode: int, link: str, host: str) -> None:
    """At every node, each frame once: at the primary by the relay, at an auxiliary by its guard."""
    net, nodes = DATA[link], (1, 2, 3)
    before = {node: counters(lab, node)["ARP_ON_DATA"] for node in nodes}
    asked = questions(lab, 1)
    send(lab.plan.path(host), "eth0", arp_frame(opcode, (net.mac(HOST), net.address(77)), (NOBODY, net.address(1))))
    for node in nodes:
        counted = before[node] + 1
        until(f"node{node} to count it", lambda: counters(lab, node)["ARP_ON_DATA"] == counted, 5)  # noqa: B023
        assert neighbour(lab, node, link, net.address(77)) == ""
    assert questions(lab, 1).relayed == asked.relayed
