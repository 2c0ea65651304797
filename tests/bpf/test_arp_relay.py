# SPDX-License-Identifier: GPL-2.0-or-later
"""arp_relay: the four programs, frame by frame, over a real neighbour table and a real HA link."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from tests.bpf.harness import (
    CLIENT,
    CLIENT_MAC,
    HA_MAC,
    LOOPBACK,
    OTHER,
    PHYSICAL,
    SELF,
    TC_OK,
    TC_REDIRECT,
    TC_SHOT,
    THIRD,
    VIRTUAL,
    Plane,
    Ran,
    arp,
    loaded,
    mapped,
    namespace,
    node_ha_mac,
    node_mac,
)

pytestmark = pytest.mark.bpf

CLUSTER_IP = "10.77.1.1"
ZERO = "00:00:00:00:00:00"
EVERYONE = "ff:ff:ff:ff:ff:ff"
UNKNOWN = "10.77.1.200"


@pytest.fixture(scope="module")
def wired(root: None, object_cache: Path) -> Iterator[Plane]:
    """d0 is the data interface of slot 0, h0 the HA link; CLIENT is in the neighbour table."""
    with namespace(f"arp{os.getpid()}"):
        for command in (
            "link add d0 type veth peer name d1",
            "link add h0 type veth peer name h1",
            "link set d0 up",
            "link set d1 up",
            "link set h0 up",
            "link set h1 up",
            f"address add {CLUSTER_IP}/24 dev d0",
            f"neighbour add {CLIENT} lladdr {CLIENT_MAC} dev d0 nud stale",
            f"route add 10.99.0.0/16 via {CLIENT} dev d0",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        subprocess.run(["sysctl", "-qw", "net.ipv4.conf.d0.forwarding=1"], check=True)
        with loaded(object_cache) as plane:
            yield plane


@pytest.fixture
def plane(wired: Plane) -> Plane:
    wired.reset()
    record = wired.maps["slots"].get(0)
    assert record is not None
    changed = record.copy()
    changed["ifindex"] = socket.if_nametoindex("d0")
    wired.maps["slots"].put(0, changed)
    wired.configure(ha_ifindex=socket.if_nametoindex("h0"))
    return wired


def question(plane: Plane, target: str, age_s: float = 0.0, askers: tuple[int, ...] = ()) -> None:
    table = plane.maps["questions"]
    key, value = np.zeros((), table.key), table.record()
    key["target"], key["slot"] = list(mapped(target)), 0
    value["asked_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(age_s * 1e9)
    for node in askers:
        value["asker"][node] = 1
    table.put(key.tobytes(), value)


def open_targets(plane: Plane) -> list[bytes]:
    return [key["target"].tobytes() for key in plane.maps["questions"].read()[0]]


class Listener:
    """Frames that leave the HA link of this namespace."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self.socket.bind(("h1", 0))
        self.socket.settimeout(2)

    def frames(self, count: int) -> list[Packet]:
        """Exactly ``count`` ARP frames, and no more within a moment."""
        out: list[Packet] = []
        try:
            while len(out) <= count:
                frame = Ether(self.socket.recv(2048))
                if ARP in frame:
                    out.append(frame)
                    self.socket.settimeout(0.1 if len(out) >= count else 2)
        except TimeoutError:
            pass
        return out


@pytest.fixture
def ha_link(plane: Plane) -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.socket.close()


# --- an auxiliary asks ------------------------------------------------------------------------------------------------


def ask(target: str = UNKNOWN, to: str = EVERYONE) -> Packet:
    return arp(1, (PHYSICAL, CLUSTER_IP), (ZERO, target), (to, PHYSICAL))


def test_a_question_goes_twice(plane: Plane, ha_link: Listener) -> None:
    """One of them by the redirect, which a test-run only tells of."""
    ran = plane.run("arp_ask", ask(CLIENT))
    (copy,) = ha_link.frames(1)
    assert bytes(copy) == ran.raw


@pytest.mark.parametrize("to", [EVERYONE, CLIENT_MAC], ids=["broadcast", "unicast probe"])
def test_a_request_becomes_201_on_the_ha_link(plane: Plane, to: str) -> None:
    ran = plane.run("arp_ask", ask(CLIENT, to))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"ARP_ASKED": 1})
    assert (ran.packet.dst, ran.packet.src) == (HA_MAC, HA_MAC)
    sent = ran.packet[ARP]
    assert (sent.op, sent.hwsrc, sent.psrc, sent.pdst) == (201, PHYSICAL, CLUSTER_IP, CLIENT)
    assert sent.hwdst == f"00:00:00:00:{SELF:02x}:00"
    assert open_targets(plane) == [mapped(CLIENT)]


@pytest.mark.parametrize(
    "packet",
    [
        arp(2, (PHYSICAL, CLUSTER_IP), (CLIENT_MAC, CLIENT), (CLIENT_MAC, PHYSICAL)),
        arp(1, (PHYSICAL, CLUSTER_IP), (ZERO, CLUSTER_IP), (EVERYONE, PHYSICAL)),
        arp(1, (PHYSICAL, "0.0.0.0"), (ZERO, CLUSTER_IP), (EVERYONE, PHYSICAL)),
        arp(201, (PHYSICAL, CLUSTER_IP), (ZERO, CLIENT), (EVERYONE, PHYSICAL)),
        Ether(src=PHYSICAL, dst=EVERYONE) / Dot1Q(vlan=5) / ARP(op=1, psrc=CLUSTER_IP, pdst=CLIENT),
    ],
    ids=["reply", "gratuitous", "probe", "201 made here", "tagged"],
)
def test_all_else_is_kept_off_the_segment(plane: Plane, packet: Packet) -> None:
    ran = plane.run("arp_ask", packet)
    assert (ran.verdict, ran.why) == (TC_SHOT, {"ARP_KEPT": 1})
    assert open_targets(plane) == []


def test_an_auxiliarys_ip_packets_leave(plane: Plane) -> None:
    packet = Ether(src=PHYSICAL, dst=CLIENT_MAC) / IP(dst=CLIENT)
    assert plane.run("arp_ask", packet).why == {"ARP_OUT": 1}


# --- the primary serves -----------------------------------------------------------------------------------------------


def relayed(target: str, node: int = OTHER, source: str | None = None, slot: int = 0) -> Packet:
    asker = f"00:00:00:00:{node:02x}:{slot:02x}"
    return arp(201, (node_mac(node), CLUSTER_IP), (asker, target), (HA_MAC, source or node_ha_mac(node)))


def test_answered_from_the_neighbour_table(plane: Plane) -> None:
    ran = plane.run("arp_serve", relayed(CLIENT))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"ARP_FROM_CACHE": 1})
    assert (ran.packet.dst, ran.packet.src) == (node_ha_mac(OTHER), HA_MAC)
    answer = ran.packet[ARP]
    assert (answer.op, answer.hwsrc, answer.psrc) == (202, CLIENT_MAC, CLIENT)
    assert (answer.hwdst, answer.pdst) == (node_mac(OTHER), CLUSTER_IP)
    assert open_targets(plane) == []


def test_asked_on_the_wire_with_the_virtual_mac(plane: Plane) -> None:
    ran = plane.run("arp_serve", relayed(UNKNOWN))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"ARP_ON_WIRE": 1})
    assert (ran.packet.dst, ran.packet.src) == (EVERYONE, VIRTUAL)
    asked = ran.packet[ARP]
    assert (asked.op, asked.hwsrc, asked.psrc, asked.hwdst, asked.pdst) == (1, VIRTUAL, CLUSTER_IP, ZERO, UNKNOWN)
    assert open_targets(plane) == [mapped(UNKNOWN)]


def test_a_copy_is_not_asked_on_the_wire_and_a_repetition_is(plane: Plane) -> None:
    """The kernel asks again after a second; what comes within a tenth is the other one of two that were sent."""
    plane.run("arp_serve", relayed(UNKNOWN))
    assert plane.run("arp_serve", relayed(UNKNOWN)).why == {"RELAY_TWICE": 1}
    assert plane.run("arp_serve", relayed(UNKNOWN, THIRD)).why == {"ARP_ON_WIRE": 1}
    question(plane, UNKNOWN, age_s=0.5, askers=(OTHER,))
    assert plane.run("arp_serve", relayed(UNKNOWN)).why == {"ARP_ON_WIRE": 1}
    assert plane.run("arp_serve", relayed(UNKNOWN)).why == {"RELAY_TWICE": 1}


def test_every_asker_is_remembered(plane: Plane) -> None:
    plane.run("arp_serve", relayed(UNKNOWN, OTHER))
    plane.run("arp_serve", relayed(UNKNOWN, THIRD))
    (value,) = plane.maps["questions"].read()[1]
    assert list(np.flatnonzero(value["asker"])) == [OTHER, THIRD]


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (relayed(CLIENT, 9), "ARP_STRANGER"),
        (relayed(CLIENT, OTHER, CLIENT_MAC), "ARP_STRANGER"),
        (relayed(CLIENT, OTHER, node_ha_mac(THIRD)), "ARP_STRANGER"),
        (relayed(CLIENT, slot=5), "ARP_NO_ROUTE"),
        (relayed(CLIENT, slot=200), "ARP_MALFORMED"),
        (relayed("10.99.1.1"), "ARP_NO_ROUTE"),
        (relayed("192.0.2.1"), "ARP_NO_ROUTE"),
        (bytes(relayed(CLIENT))[:40], "ARP_MALFORMED"),
        (arp(202, (CLIENT_MAC, CLIENT), (PHYSICAL, CLUSTER_IP), (HA_MAC, HA_MAC)), "ARP_MISPLACED"),
    ],
    ids=[
        "unknown node",
        "a MAC that is no node's",
        "one node in another's name",
        "no such interface",
        "impossible slot",
        "behind a router",
        "no route",
        "cut short",
        "202 at the primary",
    ],
)
def test_not_served(plane: Plane, packet: Packet, reason: str) -> None:
    ran = plane.run("arp_serve", packet)
    assert (ran.verdict, ran.why) == (TC_SHOT, {reason: 1})


@pytest.mark.parametrize("program", ["arp_serve", "arp_take"])
def test_the_ha_links_own_traffic_passes(plane: Plane, program: str) -> None:
    own = arp(1, (HA_MAC, "10.77.0.101"), (ZERO, "10.77.0.102"), (EVERYONE, HA_MAC))
    assert plane.run(program, own).why == {"ARP_OTHER": 1}
    assert plane.run(program, Ether(dst=HA_MAC) / IP()).why == {"ARP_OTHER": 1}


# --- the answer comes back --------------------------------------------------------------------------------------------


def reply(target: str = UNKNOWN) -> Packet:
    return arp(2, (CLIENT_MAC, target), (VIRTUAL, CLUSTER_IP), (VIRTUAL, CLIENT_MAC))


def test_every_asker_gets_202_and_the_stack_gets_the_reply(plane: Plane, ha_link: Listener) -> None:
    plane.run("arp_serve", relayed(UNKNOWN, OTHER))
    plane.run("arp_serve", relayed(UNKNOWN, THIRD))
    ran = plane.run("arp_answer", reply())
    assert (ran.verdict, ran.why) == (TC_OK, {"ARP_ANSWERED": 2})
    assert ran.raw == bytes(reply())
    frames = ha_link.frames(4)
    twice = [OTHER, OTHER, THIRD, THIRD]
    assert [frame.dst for frame in frames] == [node_ha_mac(node) for node in twice]
    for frame, node in zip(frames, twice, strict=True):
        answer = frame[ARP]
        assert (answer.op, answer.hwsrc, answer.psrc) == (202, CLIENT_MAC, UNKNOWN)
        assert (answer.hwdst, answer.pdst) == (node_mac(node), CLUSTER_IP)
    assert open_targets(plane) == []


def test_the_agent_learns_the_neighbour(plane: Plane) -> None:
    question(plane, UNKNOWN, askers=(OTHER,))
    plane.run("arp_answer", reply())
    (event,) = plane.events()
    assert (event.kind, event.slot, event.address) == ("neighbour", 0, UNKNOWN)
    assert event.mac == bytes.fromhex(CLIENT_MAC.replace(":", ""))


def test_a_reply_nobody_waits_for_goes_to_the_stack_alone(plane: Plane, ha_link: Listener) -> None:
    assert plane.run("arp_answer", reply()).why == {"ARP_OTHER": 1}
    question(plane, UNKNOWN, age_s=4, askers=(OTHER,))
    assert plane.run("arp_answer", reply()).why == {"ARP_OTHER": 1}
    assert ha_link.frames(0) == []


@pytest.mark.parametrize("operation", [201, 202])
def test_relay_opcodes_on_a_data_interface_are_dropped(plane: Plane, operation: int) -> None:
    packet = arp(operation, (CLIENT_MAC, CLIENT), (VIRTUAL, CLUSTER_IP), (VIRTUAL, CLIENT_MAC))
    ran = plane.run("arp_answer", packet)
    assert (ran.verdict, ran.why) == (TC_SHOT, {"ARP_ON_DATA": 1})


# --- the auxiliary takes it -------------------------------------------------------------------------------------------


def answer(target: str = UNKNOWN, mac: str = PHYSICAL, source: str = HA_MAC) -> Packet:
    return arp(202, (CLIENT_MAC, target), (mac, CLUSTER_IP), (HA_MAC, source))


def take(plane: Plane, packet: Packet) -> Ran:
    return plane.run("arp_take", packet, ingress=LOOPBACK)


def test_an_answer_to_an_open_question_becomes_the_kernels(plane: Plane) -> None:
    question(plane, UNKNOWN)
    ran = take(plane, answer())
    assert (ran.verdict, ran.mark) == (TC_REDIRECT, 0x41415250)
    assert (ran.packet.dst, ran.packet.src) == (PHYSICAL, CLIENT_MAC)
    got = ran.packet[ARP]
    assert (got.op, got.hwsrc, got.psrc, got.hwdst, got.pdst) == (2, CLIENT_MAC, UNKNOWN, PHYSICAL, CLUSTER_IP)
    assert take(plane, answer()).why == {"RELAY_TWICE": 1}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (answer("10.77.1.201"), "ARP_UNASKED"),
        (answer(mac="02:00:00:09:00:01"), "ARP_UNASKED"),
        (answer(source=node_ha_mac(THIRD)), "ARP_UNASKED"),
        (relayed(UNKNOWN), "ARP_MISPLACED"),
        (bytes(answer())[:41], "ARP_MALFORMED"),
    ],
    ids=["another address", "another interface", "not from the primary", "201 at an auxiliary", "cut short"],
)
def test_not_taken(plane: Plane, packet: Packet, reason: str) -> None:
    question(plane, UNKNOWN)
    ran = take(plane, packet)
    assert (ran.verdict, ran.why) == (TC_SHOT, {reason: 1})


def test_an_answer_that_comes_too_late_is_not_taken(plane: Plane) -> None:
    question(plane, UNKNOWN, age_s=4)
    assert take(plane, answer()).why == {"ARP_UNASKED": 1}
