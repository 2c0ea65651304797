# SPDX-License-Identifier: GPL-2.0-or-later
"""steer, packet by packet: in, verdict, out, reason."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from aa_cluster.dataplane import decisions
from aa_cluster.dataplane.flows import CLOSED, CLOSING, ESTABLISHED, EXACT, SETTLED, SYN_RECV, SYN_SENT, TOUCHED
from aa_cluster.netlink import conntrack
from tests.bpf.harness import (
    CLIENT,
    CLIENT_MAC,
    OTHER,
    PUBLIC,
    SELF,
    SERVER,
    VIRTUAL,
    XDP_PASS,
    XDP_TX,
    Plane,
    entry,
    node_mac,
    segment,
    tuple_of,
)

pytestmark = pytest.mark.bpf

ORIGINAL = tuple_of(CLIENT, 40000, SERVER, 80)
REPLY = tuple_of(SERVER, 80, PUBLIC, 50000)


@dataclass(frozen=True)
class Case:
    description: str
    packet: Packet | bytes
    reason: str


def frame(inner: Packet, dst: str = VIRTUAL) -> Packet:
    return Ether(src=CLIENT_MAC, dst=dst) / inner


PASSED = (
    Case("a SYN of a known flow: the ruleset sees it again", segment(ORIGINAL, "S"), "STEER_SYN"),
    Case("an unknown flow", segment(tuple_of(CLIENT, 1, SERVER, 80), "A"), "STEER_MISS"),
    Case("the same ports towards another address", segment(tuple_of(CLIENT, 40000, PUBLIC, 80), "A"), "STEER_MISS"),
    Case("not for the virtual MAC", frame(segment(ORIGINAL, "A")[IP], "ff:ff:ff:ff:ff:ff"), "STEER_NOT_OURS"),
    Case("the same ports in UDP", frame(IP(src=CLIENT, dst=SERVER) / UDP(sport=40000, dport=80)), "STEER_MISS"),
    Case("the same ports over IPv6", frame(IPv6(dst="2001:db8::1") / TCP(flags="A")), "STEER_MISS"),
    Case("neither family", Ether(src=CLIENT_MAC, dst=VIRTUAL, type=0x88CC) / bytes(60), "STEER_NOT_IPV4"),
    Case("IPv6 of version 5", frame(IPv6(version=5) / TCP(flags="A")), "STEER_MALFORMED"),
    Case("ICMP", frame(IP(src=CLIENT, dst=SERVER) / ICMP()), "STEER_NOT_TCP"),
    Case("a frame cut inside IPv4", bytes(segment(ORIGINAL, "A"))[:30], "STEER_MALFORMED"),
    Case("a frame cut inside TCP", bytes(segment(ORIGINAL, "A"))[:50], "STEER_MALFORMED"),
    Case("a TCP header of 16 bytes", segment(ORIGINAL, "A", dataofs=4), "STEER_MALFORMED"),
    Case("IP version 5", frame(IP(version=5, src=CLIENT, dst=SERVER) / TCP()), "STEER_MALFORMED"),
)


@pytest.mark.parametrize("case", PASSED, ids=lambda case: case.description)
def test_passed_as_it_came(plane: Plane, case: Case) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    ran = plane.run("steer", case.packet)
    assert (ran.verdict, ran.why) == (XDP_PASS, {case.reason: 1})
    assert ran.raw == bytes(case.packet)


@pytest.mark.parametrize("which", [ORIGINAL, REPLY], ids=["client to server", "server to client"])
@pytest.mark.parametrize("payload", [b"", b"x", b"y" * 1400], ids=["bare ACK", "one byte", "a full segment"])
def test_steered_by_mac_alone(plane: Plane, which: object, payload: bytes) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = segment(ORIGINAL if which is ORIGINAL else REPLY, "A", payload)
    ran = plane.run("steer", packet)
    assert (ran.verdict, ran.why) == (XDP_TX, {"STEER_TX": 1})
    assert ran.packet.dst == node_mac(OTHER)
    assert ran.packet.src == VIRTUAL
    assert ran.raw[12:] == bytes(packet)[12:]


def test_own_flow_goes_to_the_stack(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, SELF, ESTABLISHED)
    packet = segment(ORIGINAL, "A")
    ran = plane.run("steer", packet)
    assert (ran.verdict, ran.why, ran.raw) == (XDP_PASS, {"STEER_LOCAL": 1}, bytes(packet))


def test_one_switch_takes_a_node_over(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    plane.nodes(n1=1, n2=1)
    assert plane.run("steer", segment(REPLY, "A")).why == {"STEER_LOCAL": 1}


def test_owner_not_in_the_node_map(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, 9, ESTABLISHED)
    ran = plane.run("steer", segment(REPLY, "A"))
    assert (ran.verdict, ran.why) == (XDP_PASS, {"STEER_NO_OWNER": 1})


def test_no_configuration_for_the_interface(plane: Plane) -> None:
    plane.maps["ports"].put(1, plane.maps["ports"].record())
    assert plane.run("steer", segment(REPLY, "A")).why == {"STEER_NOT_READY": 1}


def state(plane: Plane) -> int:
    record = plane.flow(ORIGINAL)
    assert record is not None
    return int(record["state"])


def flags(plane: Plane) -> tuple[int, int]:
    """(settled, exact and touched bits) of the two entries."""
    return plane.word(ORIGINAL) & 7, plane.word(REPLY) & 7


def test_handshake_raises_the_primarys_entry_once_it_is_complete(plane: Plane) -> None:
    entry(ORIGINAL, REPLY)
    plane.add_flow(ORIGINAL, REPLY, OTHER, SYN_SENT)

    plane.run("steer", segment(REPLY, "SA"))
    assert state(plane) == SYN_RECV
    assert held(ORIGINAL) == (False, True)

    plane.run("steer", segment(ORIGINAL, "A"))
    assert state(plane) == ESTABLISHED
    assert held(ORIGINAL) == (True, False)
    assert flags(plane) == (SETTLED | TOUCHED, SETTLED | TOUCHED)


def held(which: object) -> tuple[bool, bool]:
    """(assured and long-lived, still short-lived)."""
    (found,) = [one for one in conntrack.dump() if one.original.source_port == ORIGINAL.source_port]
    assured = bool(found.status & conntrack.Status.ASSURED)
    return assured and found.timeout > 400_000, not assured and found.timeout <= 120


@pytest.mark.parametrize("flags", ["A", "PA", "SA"])
def test_a_lone_syn_is_never_held(plane: Plane, flags: str) -> None:
    """Packets of the original direction alone (a flood, a guess) leave the entry to early drop."""
    entry(ORIGINAL, REPLY)
    plane.add_flow(ORIGINAL, REPLY, OTHER, SYN_SENT)
    plane.run("steer", segment(ORIGINAL, flags))
    assert state(plane) == SYN_SENT
    assert held(ORIGINAL) == (False, True)


def test_fin_both_ways_closes_and_lets_the_entry_go(plane: Plane) -> None:
    entry(ORIGINAL, REPLY)
    plane.add_flow(ORIGINAL, REPLY, OTHER, SYN_RECV)
    plane.run("steer", segment(ORIGINAL, "A"))
    assert held(ORIGINAL) == (True, False)

    assert plane.run("steer", segment(REPLY, "FA")).verdict == XDP_TX
    assert state(plane) == CLOSING
    plane.run("steer", segment(REPLY, "FA"))
    assert state(plane) == CLOSING
    plane.run("steer", segment(ORIGINAL, "FA"))
    assert state(plane) == CLOSED
    (found,) = conntrack.dump()
    assert found.timeout <= 120


def test_rst_closes_at_once(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    assert plane.run("steer", segment(REPLY, "R")).verdict == XDP_TX
    assert state(plane) == CLOSED


def test_a_packet_touches_its_own_entry(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    plane.run("steer", segment(ORIGINAL, "A"))
    assert flags(plane) == (SETTLED | TOUCHED, SETTLED)


def impostor(plane: Plane, flow_state: int) -> None:
    """Another session's entry where ORIGINAL's would be: same fingerprint, same bucket, another tuple."""
    stranger = tuple_of("10.77.1.7", 7, SERVER, 80)
    index = plane.add_flow(stranger, tuple_of(SERVER, 80, PUBLIC, 7), OTHER, flow_state)
    settled = SETTLED if flow_state >= ESTABLISHED else 0
    plane.put_entry(ORIGINAL, index, OTHER, settled)


@pytest.mark.parametrize("kind", ["S", "SA", "F", "R", "FA"])
def test_a_shared_fingerprint_is_found_out_by_the_first_packet_that_matters(plane: Plane, kind: str) -> None:
    impostor(plane, ESTABLISHED)
    packet = segment(ORIGINAL, kind)
    ran = plane.run("steer", packet)
    assert (ran.verdict, ran.why, ran.raw) == (XDP_PASS, {"STEER_COLLISION": 1}, bytes(packet))
    assert plane.word(ORIGINAL) & EXACT


def test_from_then_on_every_packet_is_compared(plane: Plane) -> None:
    impostor(plane, ESTABLISHED)
    plane.run("steer", segment(ORIGINAL, "S"))
    ran = plane.run("steer", segment(ORIGINAL, "A"))
    assert (ran.verdict, ran.why) == (XDP_PASS, {"STEER_COLLISION": 1})


def test_before_the_handshake_is_complete_every_packet_is_compared(plane: Plane) -> None:
    impostor(plane, SYN_SENT)
    assert plane.run("steer", segment(ORIGINAL, "A")).why == {"STEER_COLLISION": 1}


def test_an_exact_entry_still_steers_its_own(plane: Plane) -> None:
    index = plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    view = plane.maps["buckets"].view()["word"]
    place = int(plane.maps["records"].view()[index]["place"][0])
    view[place // 8, place % 8] |= EXACT
    assert plane.run("steer", segment(ORIGINAL, "A")).why == {"STEER_TX": 1}


def test_an_entry_in_the_other_bucket_is_found(plane: Plane) -> None:
    fingerprint, bucket = plane.hashes(ORIGINAL)
    table = plane.maps["buckets"].view()["word"]
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    moved = int(table[bucket][0])
    table[bucket] = [(number + 1) << 32 | 1 << 10 for number in range(8)]
    table[(bucket ^ (fingerprint | 1)) & (len(table) - 1)][5] = moved
    assert plane.run("steer", segment(ORIGINAL, "A")).why == {"STEER_TX": 1}


def test_the_live_counters_follow_the_flow(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, SYN_SENT)
    seen = []
    for which, flags in ((REPLY, "SA"), (ORIGINAL, "A"), (REPLY, "A"), (ORIGINAL, "FA"), (REPLY, "FA"), (REPLY, "R")):
        plane.run("steer", segment(which, flags))
        seen.append((decisions.read_live(plane.maps), decisions.read_half_open(plane.maps)))
    assert seen == [({OTHER: 1}, 1), ({OTHER: 1}, 0), ({OTHER: 1}, 0), ({}, 0), ({}, 0), ({}, 0)]
