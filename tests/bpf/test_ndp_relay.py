# SPDX-License-Identifier: GPL-2.0-or-later
"""arp_relay over IPv6: the four programs and the guard, frame by frame, over a real neighbour table and HA link."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.bpf.harness import (
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
    loaded,
    namespace,
    node_ha_mac,
    node_mac,
)
from tests.bpf.ndp_frames import (
    ALL_NODES,
    CLIENT6,
    CLUSTER_IP6,
    HOST_LOCAL,
    NOWHERE,
    OWN_LOCAL,
    TELLING,
    UNKNOWN6,
    advertisement,
    answer,
    checksum_right,
    group_mac,
    relay,
    relayed,
    solicitation,
    solicited_node,
    whole,
)

pytestmark = pytest.mark.bpf

TC_UNSPEC = 0xFFFFFFFF
ACCEPTED_MARK = 0x41415250


def packed(address: str) -> bytes:
    return IPv6Address(address).packed


@pytest.fixture(scope="module")
def wired(root: None, object_cache: Path) -> Iterator[Plane]:
    """d0 is the data interface of slot 0, h0 the HA link; CLIENT6 is in the neighbour table."""
    with namespace(f"ndp{os.getpid()}"):
        for command in (
            "link add d0 type veth peer name d1",
            "link add h0 type veth peer name h1",
            "link set d0 up",
            "link set d1 up",
            "link set h0 up",
            "link set h1 up",
            f"address add {CLUSTER_IP6}/64 dev d0 nodad",
            f"neighbour add {CLIENT6} lladdr {CLIENT_MAC} dev d0 nud stale",
            f"neighbour add {HOST_LOCAL} lladdr {CLIENT_MAC} dev d0 nud stale",
            f"-6 route add fd99::/32 via {CLIENT6} dev d0",
            "-6 route add fd98::/32 dev h0",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        subprocess.run(["sysctl", "-qw", "net.ipv6.conf.d0.forwarding=1"], check=True)
        with loaded(object_cache) as plane:
            yield plane


def change_slot(plane: Plane, **changes: object) -> None:
    record = plane.maps["slots"].get(0)
    assert record is not None
    changed = record.copy()
    for name, value in changes.items():
        changed[name] = value
    plane.maps["slots"].put(0, changed)


@pytest.fixture
def plane(wired: Plane) -> Plane:
    wired.reset()
    change_slot(wired, ifindex=socket.if_nametoindex("d0"), solicitor=list(packed(OWN_LOCAL)))
    wired.configure(ha_ifindex=socket.if_nametoindex("h0"))
    return wired


def question(
    plane: Plane, target: str, age_s: float = 0.0, askers: tuple[int, ...] = (), address: str = OWN_LOCAL
) -> None:
    table = plane.maps["questions"]
    key, value = np.zeros((), table.key), table.record()
    key["target"], key["slot"] = list(packed(target)), 0
    value["asked_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(age_s * 1e9)
    value["address"] = list(packed(address))
    for node in askers:
        value["asker"][node] = 1
    table.put(key.tobytes(), value)


def open_targets(plane: Plane) -> list[bytes]:
    return [key["target"].tobytes() for key in plane.maps["questions"].read()[0]]


# --- an auxiliary asks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [OWN_LOCAL, CLUSTER_IP6], ids=["link-local", "the cluster's"])
@pytest.mark.parametrize("to", [None, CLIENT_MAC], ids=["multicast", "unicast probe"])
def test_a_solicitation_becomes_201_on_the_ha_link(plane: Plane, to: str | None, source: str) -> None:
    ran = plane.run("arp_ask", solicitation(CLIENT6, source, to))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"NDP_ASKED": 1})
    assert len(ran.raw) == 14 + 8 + 2 * (6 + 16)
    assert (ran.packet.dst, ran.packet.src, ran.packet.type) == (HA_MAC, HA_MAC, 0x0806)
    sent = ran.packet[ARP]
    assert (sent.hwtype, sent.ptype, sent.hwlen, sent.plen) == (1, 0x86DD, 6, 16)
    assert (sent.op, sent.hwsrc, sent.psrc, sent.pdst) == (201, PHYSICAL, source, CLIENT6)
    assert sent.hwdst == f"00:00:00:00:{SELF:02x}:00"
    (key,), (value,) = plane.maps["questions"].read()
    assert key["target"].tobytes() == packed(CLIENT6)
    assert value["address"].tobytes() == packed(source)


def tagged(packet: Packet, *tags: Packet) -> Packet:
    out = Ether(src=packet.src, dst=packet.dst)
    for tag in tags:
        out /= tag.copy()
    return out / packet[IPv6].copy()


KEPT = TELLING | {
    "a group's packet": whole(CLUSTER_IP6, "ff0e::7", UDP(dport=5353)),
    "broadcast": whole(CLUSTER_IP6, CLIENT6, UDP(), "ff:ff:ff:ff:ff:ff"),
    "tagged solicitation": tagged(solicitation(), Dot1Q(vlan=5)),
    "twice tagged report": tagged(TELLING["MLD report, version 2"], Dot1AD(vlan=7), Dot1Q(vlan=5)),
    "tagged probe": tagged(solicitation(CLIENT6, to=CLIENT_MAC), Dot1Q(vlan=5)),
    "solicitation of a group": solicitation("ff02::5"),
    "solicitation of a v4-mapped address": solicitation("::ffff:10.77.1.100"),
    "solicitation of nothing": solicitation("::"),
    "solicitation with a code": whole(OWN_LOCAL, solicited_node(UNKNOWN6), ICMPv6ND_NS(tgt=UNKNOWN6, code=1)),
    "solicitation too short": whole(OWN_LOCAL, solicited_node(UNKNOWN6), ICMPv6ND_NS(tgt=UNKNOWN6), plen=23),
    "first piece": whole(OWN_LOCAL, CLIENT6, IPv6ExtHdrFragment(m=1, nh=58) / ICMPv6ND_NA(), CLIENT_MAC),
}


@pytest.mark.parametrize("name", KEPT)
def test_all_else_is_kept_off_the_segment(plane: Plane, name: str) -> None:
    ran = plane.run("arp_ask", KEPT[name])
    assert (ran.verdict, ran.why) == (TC_SHOT, {"NDP_KEPT": 1})
    assert open_targets(plane) == []


LEAVES = {
    "TCP": whole(CLIENT6, "fd77:2::100", TCP(), CLIENT_MAC, hlim=63),
    "echo": whole(CLUSTER_IP6, CLIENT6, ICMPv6EchoRequest(), CLIENT_MAC),
    "a later piece": whole(CLIENT6, "fd77:2::100", IPv6ExtHdrFragment(offset=4, nh=58) / Raw(b"\x88" * 64), CLIENT_MAC),
    "inside a tag": tagged(whole(CLIENT6, "fd77:2::100", TCP(), CLIENT_MAC), Dot1Q(vlan=5)),
}


@pytest.mark.parametrize("name", LEAVES)
def test_an_auxiliarys_packets_leave(plane: Plane, name: str) -> None:
    ran = plane.run("arp_ask", LEAVES[name])
    assert (ran.verdict, ran.why) == (TC_UNSPEC, {"ARP_OUT": 1})
    assert ran.raw == bytes(LEAVES[name])


@pytest.mark.parametrize("length", [54, 60, 77])
def test_a_solicitation_cut_short_is_kept(plane: Plane, length: int) -> None:
    assert plane.run("arp_ask", bytes(solicitation())[:length]).why == {"NDP_KEPT": 1}


# --- the primary serves -----------------------------------------------------------------------------------------------


def test_answered_from_the_neighbour_table(plane: Plane) -> None:
    ran = plane.run("arp_serve", relayed(CLIENT6))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"NDP_FROM_CACHE": 1})
    assert (ran.packet.dst, ran.packet.src) == (node_ha_mac(OTHER), HA_MAC)
    given = ran.packet[ARP]
    assert (given.op, given.ptype, given.plen) == (202, 0x86DD, 16)
    assert (given.hwsrc, given.psrc) == (CLIENT_MAC, CLIENT6)
    assert (given.hwdst, given.pdst) == (node_mac(OTHER), HOST_LOCAL)
    assert open_targets(plane) == []


def assert_asked(ran: Ran, target: str, source: str) -> None:
    """The frame is a solicitation that a kernel would take."""
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"NDP_ON_WIRE": 1})
    assert len(ran.raw) == 14 + 40 + 32
    assert (ran.packet.dst, ran.packet.src) == (group_mac(solicited_node(target)), VIRTUAL)
    ip, asked = ran.packet[IPv6], ran.packet[ICMPv6ND_NS]
    assert (ip.src, ip.dst, ip.hlim, ip.plen, ip.nh) == (source, solicited_node(target), 255, 32, 58)
    assert (asked.code, asked.res, asked.tgt) == (0, 0, target)
    assert asked[ICMPv6NDOptSrcLLAddr].lladdr == VIRTUAL
    assert checksum_right(ran.packet, ICMPv6ND_NS)


def test_asked_on_the_wire_with_the_virtual_mac_from_an_address_of_its_own(plane: Plane) -> None:
    assert_asked(plane.run("arp_serve", relayed(UNKNOWN6)), UNKNOWN6, OWN_LOCAL)
    assert open_targets(plane) == [packed(UNKNOWN6)]


def test_an_interface_without_a_link_local_address_asks_from_the_clusters(plane: Plane) -> None:
    change_slot(plane, solicitor=list(packed(CLUSTER_IP6)))
    assert_asked(plane.run("arp_serve", relayed(UNKNOWN6)), UNKNOWN6, CLUSTER_IP6)


def test_a_link_local_target_is_asked_for_on_the_wire(plane: Plane) -> None:
    """A FIB look-up refuses these, whether or not the table has them."""
    assert_asked(plane.run("arp_serve", relayed(HOST_LOCAL)), HOST_LOCAL, OWN_LOCAL)


def test_padding_behind_a_201_means_nothing(plane: Plane) -> None:
    assert_asked(plane.run("arp_serve", bytes(relayed(UNKNOWN6)) + b"x" * 99), UNKNOWN6, OWN_LOCAL)


def test_every_asker_is_remembered(plane: Plane) -> None:
    plane.run("arp_serve", relayed(UNKNOWN6, OTHER))
    plane.run("arp_serve", relayed(UNKNOWN6, THIRD))
    (value,) = plane.maps["questions"].read()[1]
    assert list(np.flatnonzero(value["asker"])) == [OTHER, THIRD]


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (relayed(CLIENT6, 9), "ARP_STRANGER"),
        (relayed(CLIENT6, OTHER, CLIENT_MAC), "ARP_STRANGER"),
        (relayed(CLIENT6, OTHER, node_ha_mac(THIRD)), "ARP_STRANGER"),
        (relayed(CLIENT6, slot=5), "NDP_NO_ROUTE"),
        (relayed(CLIENT6, slot=200), "ARP_MALFORMED"),
        (relayed("fd99::1"), "NDP_NO_ROUTE"),
        (relayed("fd98::1"), "NDP_NO_ROUTE"),
        (relayed("2001:db8::1"), "NDP_NO_ROUTE"),
        (relayed(CLUSTER_IP6), "NDP_NO_ROUTE"),
        (relayed(ALL_NODES), "NDP_NO_ROUTE"),
        (relayed(NOWHERE), "NDP_NO_ROUTE"),
        (relayed("::1"), "NDP_NO_ROUTE"),
        (relayed("::ffff:10.77.1.100"), "NDP_NO_ROUTE"),
        (bytes(relayed(CLIENT6))[:65], "ARP_MALFORMED"),
        (bytes(relayed(CLIENT6))[:18], "ARP_MALFORMED"),
        (relay(202, (CLIENT_MAC, CLIENT6), (PHYSICAL, CLUSTER_IP6), (HA_MAC, HA_MAC)), "ARP_MISPLACED"),
        (relay(1, (CLIENT_MAC, CLIENT6), (PHYSICAL, CLUSTER_IP6), (HA_MAC, HA_MAC)), "ARP_MALFORMED"),
    ],
    ids=[
        "unknown node",
        "a MAC that is no node's",
        "one node in another's name",
        "no such interface",
        "impossible slot",
        "behind a router",
        "on another segment",
        "no route",
        "its own address",
        "a group",
        "nothing",
        "loopback",
        "v4-mapped",
        "cut short",
        "cut behind the type",
        "202 at the primary",
        "another operation",
    ],
)
def test_not_served(plane: Plane, packet: Packet | bytes, reason: str) -> None:
    ran = plane.run("arp_serve", packet)
    assert (ran.verdict, ran.why) == (TC_SHOT, {reason: 1})
    assert open_targets(plane) == []


@pytest.mark.parametrize(("at", "value"), [(14, 0), (18, 8), (19, 4)], ids=["hardware", "its length", "address length"])
def test_another_layout_is_not_served(plane: Plane, at: int, value: int) -> None:
    frame = bytearray(bytes(relayed(CLIENT6)))
    frame[at : at + 2] = bytes((value, 0)) if at == 14 else bytes((value,)) + frame[at + 1 : at + 2]
    assert plane.run("arp_serve", bytes(frame)).why == {"ARP_MALFORMED": 1}


def test_an_interface_without_ipv6_serves_nobody(plane: Plane) -> None:
    """A solicitation from no address would be duplicate address detection, and harm the target."""
    change_slot(plane, solicitor=[0] * 16)
    assert plane.run("arp_serve", relayed(UNKNOWN6)).why == {"NDP_NO_ROUTE": 1}


# --- the answer comes back --------------------------------------------------------------------------------------------


class Listener:
    """Frames that leave the HA link of this namespace."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        self.socket.bind(("h1", 0x0806))
        self.socket.settimeout(2)

    def frames(self, count: int) -> list[Packet]:
        """Exactly ``count`` ARP frames, and no more within a moment."""
        out: list[Packet] = []
        self.socket.settimeout(2 if count else 0.1)
        try:
            while len(out) <= count:
                out.append(Ether(self.socket.recv(2048)))
                self.socket.settimeout(0.1 if len(out) >= count else 2)
        except TimeoutError:
            pass
        return out


@pytest.fixture
def ha_link(plane: Plane) -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.socket.close()


MTU = ICMPv6NDOptMTU(mtu=1500)
LONG = ICMPv6NDOptUnknown(type=253, len=20, data=b"\xa5" * 158)
ANSWERS = {
    "solicited": advertisement(),
    "router": advertisement(R=1),
    "not solicited, not override": advertisement(S=0, O=0),
    "behind other options": advertisement(options=(MTU, LONG, MTU)),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_asker_gets_202_and_the_stack_gets_the_advertisement(plane: Plane, ha_link: Listener, name: str) -> None:
    plane.run("arp_serve", relayed(UNKNOWN6, OTHER))
    plane.run("arp_serve", relayed(UNKNOWN6, THIRD))
    came = bytes(ANSWERS[name])
    ran = plane.run("arp_answer", came)
    assert (ran.verdict, ran.why) == (TC_UNSPEC, {"NDP_ANSWERED": 2})
    assert ran.raw == came, "the stack gets what came"
    frames = ha_link.frames(4)
    twice = [OTHER, OTHER, THIRD, THIRD]
    assert [frame.dst for frame in frames] == [node_ha_mac(node) for node in twice]
    for frame, node in zip(frames, twice, strict=True):
        given = frame[ARP]
        assert (frame.src, given.op, given.ptype, given.plen) == (HA_MAC, 202, 0x86DD, 16)
        assert (given.hwsrc, given.psrc) == (CLIENT_MAC, UNKNOWN6)
        assert (given.hwdst, given.pdst) == (node_mac(node), OWN_LOCAL)
    assert open_targets(plane) == []


def test_the_agent_learns_the_neighbour(plane: Plane) -> None:
    question(plane, UNKNOWN6, askers=(OTHER,))
    plane.run("arp_answer", advertisement())
    (event,) = plane.events()
    assert (event.kind, event.slot, event.address) == ("neighbour", 0, UNKNOWN6)
    assert event.mac == bytes.fromhex(CLIENT_MAC.replace(":", ""))


def damaged(packet: Packet, at: int) -> bytes:
    frame = bytearray(bytes(packet))
    frame[at] ^= 0x10
    return bytes(frame)


NO_ANSWERS = {
    "about another": advertisement("fd77:1::201"),
    "without a MAC": whole(UNKNOWN6, OWN_LOCAL, ICMPv6ND_NA(tgt=UNKNOWN6), VIRTUAL, CLIENT_MAC),
    "with a group's MAC": advertisement(mac="33:33:00:00:00:01"),
    "an option of length 0": advertisement(options=(ICMPv6NDOptUnknown(type=253, len=0, data=b"\0" * 6),)),
    "options without end": advertisement(options=(LONG, LONG)),
    "MAC damaged": damaged(advertisement(), 85),
    "checksum damaged": damaged(advertisement(), 57),
    "address damaged": damaged(advertisement(), 30),
    "from behind a router": Ether(bytes(advertisement())[:21] + b"\xfe" + bytes(advertisement())[22:]),
    "with a code": whole(
        UNKNOWN6, OWN_LOCAL, ICMPv6ND_NA(tgt=UNKNOWN6, code=1) / ICMPv6NDOptDstLLAddr(lladdr=CLIENT_MAC), VIRTUAL
    ),
    "a solicitation": whole(
        UNKNOWN6, OWN_LOCAL, ICMPv6ND_NS(tgt=UNKNOWN6) / ICMPv6NDOptDstLLAddr(lladdr=CLIENT_MAC), VIRTUAL
    ),
    "cut in the option": bytes(advertisement())[:84],
    "cut in the target": bytes(advertisement())[:76],
    "length beyond the end": whole(
        UNKNOWN6, OWN_LOCAL, ICMPv6ND_NA(tgt=UNKNOWN6) / ICMPv6NDOptDstLLAddr(lladdr=CLIENT_MAC), VIRTUAL, plen=40
    ),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_goes_to_the_stack_alone(plane: Plane, ha_link: Listener, name: str) -> None:
    question(plane, UNKNOWN6, askers=(OTHER,))
    ran = plane.run("arp_answer", NO_ANSWERS[name])
    assert (ran.verdict, ran.why) == (TC_UNSPEC, {"ARP_OTHER": 1})
    assert ran.raw == bytes(NO_ANSWERS[name])
    assert ha_link.frames(0) == []
    assert open_targets(plane) == [packed(UNKNOWN6)]
    assert plane.events() == []


def test_an_advertisement_nobody_waits_for_goes_to_the_stack_alone(plane: Plane, ha_link: Listener) -> None:
    assert plane.run("arp_answer", advertisement()).why == {"ARP_OTHER": 1}
    question(plane, UNKNOWN6, age_s=4, askers=(OTHER,))
    assert plane.run("arp_answer", advertisement()).why == {"ARP_OTHER": 1}
    assert ha_link.frames(0) == []


@pytest.mark.parametrize("packet", [TELLING["MLD report"], LEAVES["TCP"], LEAVES["a later piece"]])
def test_other_ipv6_passes(plane: Plane, packet: Packet) -> None:
    ran = plane.run("arp_answer", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_UNSPEC, {"ARP_OTHER": 1}, bytes(packet))


@pytest.mark.parametrize("operation", [1, 2, 201, 202])
def test_the_relays_layout_on_a_data_interface_is_dropped(plane: Plane, operation: int) -> None:
    packet = relay(operation, (CLIENT_MAC, CLIENT6), (VIRTUAL, CLUSTER_IP6), (VIRTUAL, CLIENT_MAC))
    ran = plane.run("arp_answer", packet)
    assert (ran.verdict, ran.why) == (TC_SHOT, {"ARP_ON_DATA": 1})


# --- the auxiliary takes it -------------------------------------------------------------------------------------------


def take(plane: Plane, packet: Packet | bytes) -> Ran:
    return plane.run("arp_take", packet, ingress=LOOPBACK)


@pytest.mark.parametrize("asker", [OWN_LOCAL, CLUSTER_IP6], ids=["link-local", "the cluster's"])
@pytest.mark.parametrize("padding", [0, 12, 20, 200])
def test_an_answer_to_an_open_question_becomes_the_kernels(plane: Plane, padding: int, asker: str) -> None:
    """Whatever address the 202 names, it goes to the one that asked."""
    question(plane, UNKNOWN6, address=asker)
    ran = take(plane, bytes(answer()) + b"\xa5" * padding)
    assert (ran.verdict, ran.mark) == (TC_REDIRECT, ACCEPTED_MARK)
    assert len(ran.raw) == 14 + 40 + 32
    assert (ran.packet.dst, ran.packet.src) == (PHYSICAL, CLIENT_MAC)
    ip, got = ran.packet[IPv6], ran.packet[ICMPv6ND_NA]
    assert (ip.src, ip.dst, ip.hlim, ip.plen, ip.nh) == (UNKNOWN6, asker, 255, 32, 58)
    assert (got.R, got.S, got.O, got.res, got.code, got.tgt) == (0, 1, 1, 0, 0, UNKNOWN6)
    assert got[ICMPv6NDOptDstLLAddr].lladdr == CLIENT_MAC
    assert checksum_right(ran.packet, ICMPv6ND_NA)
    assert take(plane, answer()).why == {"RELAY_TWICE": 1}


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (answer("fd77:1::201"), "NDP_UNASKED"),
        (answer(mac="02:00:00:09:00:01"), "NDP_UNASKED"),
        (answer(source=node_ha_mac(THIRD)), "NDP_UNASKED"),
        (relayed(UNKNOWN6), "ARP_MISPLACED"),
        (bytes(answer())[:65], "ARP_MALFORMED"),
        (relay(2, (CLIENT_MAC, UNKNOWN6), (PHYSICAL, CLUSTER_IP6), (HA_MAC, HA_MAC)), "ARP_MALFORMED"),
    ],
    ids=["another address", "another interface", "not from the primary", "201 here", "cut short", "another operation"],
)
def test_not_taken(plane: Plane, packet: Packet | bytes, reason: str) -> None:
    question(plane, UNKNOWN6)
    ran = take(plane, packet)
    assert (ran.verdict, ran.why) == (TC_SHOT, {reason: 1})
    assert open_targets(plane) == [packed(UNKNOWN6)]


def test_an_answer_that_comes_too_late_is_not_taken(plane: Plane) -> None:
    question(plane, UNKNOWN6, age_s=4)
    assert take(plane, answer()).why == {"NDP_UNASKED": 1}


# --- the guard --------------------------------------------------------------------------------------------------------


def test_the_guard_lets_the_accepted_answer_in(plane: Plane) -> None:
    question(plane, UNKNOWN6)
    made = take(plane, answer())
    ran = plane.run("adopt", made.raw, mark=made.mark)
    assert (ran.verdict, ran.why, ran.mark) == (TC_OK, {"NDP_TAKEN": 1}, 0)
    assert ran.raw == made.raw


def test_the_guard_drops_the_same_without_the_mark(plane: Plane) -> None:
    question(plane, UNKNOWN6)
    assert plane.run("adopt", take(plane, answer()).raw).why == {"GUARD_NDP": 1}


def test_the_mark_lets_nothing_else_in(plane: Plane) -> None:
    for name, packet in TELLING.items():
        if "advertisement" not in name or name.startswith("router"):
            assert plane.run("adopt", packet, mark=ACCEPTED_MARK).why == {"GUARD_NDP": 1}, name


@pytest.mark.parametrize("name", [*TELLING, "solicitation", "probe"])
@pytest.mark.parametrize("source", [CLIENT_MAC, VIRTUAL], ids=["a host", "the primary"])
def test_the_guard_drops_ndp_and_mld_from_whomever(plane: Plane, name: str, source: str) -> None:
    """Also what is addressed to this node alone."""
    more = {"solicitation": solicitation(CLUSTER_IP6, CLIENT6), "probe": solicitation(CLUSTER_IP6, CLIENT6, PHYSICAL)}
    packet = (TELLING | more)[name].copy()
    packet.src = source
    if name != "solicitation":
        packet.dst = PHYSICAL
    ran = plane.run("adopt", packet)
    assert (ran.verdict, ran.why) == (TC_SHOT, {"GUARD_NDP": 1})
