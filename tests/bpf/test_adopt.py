# SPDX-License-Identifier: GPL-2.0-or-later
"""adopt and the auxiliary's guard: what becomes a conntrack entry, what is let in, what is refused and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from aa_cluster.netlink import conntrack
from aa_cluster.wire.block import FlowTuple, encode
from tests.bpf.harness import (
    CLIENT,
    CLIENT_MAC,
    EPOCH,
    GENERATION,
    KEY,
    PHYSICAL,
    PUBLIC,
    SERVER,
    TC_OK,
    TC_SHOT,
    VIRTUAL,
    Plane,
    arp,
    block_for,
    checksums_right,
    entry,
    handed,
    sealed,
    segment,
    tuple_of,
)

pytestmark = pytest.mark.bpf

ORIGINAL = tuple_of(CLIENT, 40000, SERVER, 80)
TRANSLATED = tuple_of(PUBLIC, 50000, SERVER, 80)

KINDS = {
    "none": (ORIGINAL, ORIGINAL),
    "masquerade": (ORIGINAL, TRANSLATED),
    "dnat": (tuple_of(SERVER, 40000, PUBLIC, 8080), tuple_of(SERVER, 40000, CLIENT, 80)),
    "both": (tuple_of(CLIENT, 40000, "10.77.1.1", 8080), tuple_of("10.77.1.1", 50001, "10.77.1.101", 80)),
}


def only_entry() -> conntrack.ConntrackEntry:
    (found,) = conntrack.dump()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("payload", [b"", b"odd", b"even", b"z" * 1299], ids=["empty", "odd", "even", "long"])
def test_block_becomes_entry_and_syn_is_as_it_was(plane: Plane, kind: str, payload: bytes) -> None:
    original, translated = KINDS[kind]
    ran = plane.run("adopt", handed(original, sealed(original, translated), payload))
    assert (ran.verdict, ran.why, ran.mark) == (TC_OK, {"ADOPT_NEW": 1}, 0x42)

    expected = handed(original, b"", payload)
    assert ran.raw == bytes(expected)
    assert checksums_right(ran.raw)

    found = only_entry()
    assert (found.original.source, found.original.source_port) == (str(original.source), original.source_port)
    assert (found.reply.source, found.reply.source_port) == (str(translated.destination), translated.destination_port)
    assert (found.reply.destination, found.reply.destination_port) == (str(translated.source), translated.source_port)
    assert found.mark == 0x1234
    assert bool(found.status & conntrack.Status.SRC_NAT) is (original.source_port != translated.source_port)
    assert bool(found.status & conntrack.Status.DST_NAT) is (original.destination != translated.destination)


def test_a_repeated_syn_finds_its_entry(plane: Plane) -> None:
    frame = handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED))
    first, again = plane.run("adopt", frame), plane.run("adopt", frame)
    assert again.why == {"ADOPT_AGAIN": 1}
    assert again.raw == first.raw
    assert len(conntrack.dump()) == 1


@pytest.mark.parametrize("state", ["TIME_WAIT", "CLOSE"])
def test_an_entry_that_has_ended_gives_way(plane: Plane, state: str) -> None:
    entry(ORIGINAL, tuple_of(SERVER, 80, PUBLIC, 50000), mark=1, state=state)
    assert plane.run("adopt", handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED))).why == {"ADOPT_NEW": 1}
    assert only_entry().mark == 0x1234


def test_an_entry_with_another_translation_gives_way(plane: Plane) -> None:
    entry(ORIGINAL, tuple_of(SERVER, 80, PUBLIC, 50009), mark=1, state="ESTABLISHED")
    assert plane.run("adopt", handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED))).why == {"ADOPT_NEW": 1}
    assert only_entry().reply.destination_port == 50000


@pytest.mark.parametrize("state", ["ESTABLISHED", "TIME_WAIT"])
def test_an_entry_that_has_its_nat_tuple_gives_way(plane: Plane, state: str) -> None:
    """The primary gives no tuple away twice: it is what is left of a session that has ended there."""
    entry(tuple_of("10.77.1.55", 1, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 50000), state=state)
    ran = plane.run("adopt", handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED)))
    assert (ran.verdict, ran.why) == (TC_OK, {"ADOPT_EVICTED": 1})
    assert (only_entry().original.source_port, only_entry().reply.destination_port) == (ORIGINAL.source_port, 50000)


def test_of_two_entries_in_the_way_both_go(plane: Plane) -> None:
    """One has the session's tuple, the other that of its answers."""
    entry(ORIGINAL, tuple_of(SERVER, 80, PUBLIC, 50009), state="ESTABLISHED")
    entry(tuple_of("10.77.1.55", 1, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 50000), state="ESTABLISHED")
    assert plane.run("adopt", handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED))).why == {"ADOPT_EVICTED": 1}
    assert only_entry().reply.destination_port == 50000
    assert len(conntrack.dump()) == 1


@dataclass(frozen=True)
class Case:
    description: str
    packet: Callable[[], Packet | bytes]
    reason: str


def block_with(**changes: int) -> bytes:
    return encode(block_for(ORIGINAL, TRANSLATED, **changes), KEY, ORIGINAL, 1000)


def patched(at: int, value: bytes) -> bytes:
    block = bytearray(sealed(ORIGINAL, TRANSLATED))
    block[at : at + len(value)] = value
    return bytes(block)


def moved(frame: Packet, **fields: object) -> Packet:
    for name, value in fields.items():
        layer, _, attribute = name.partition("_")
        setattr(frame[{"ip": IP, "tcp": TCP, "eth": Ether}[layer]], attribute, value)
    return frame


def valid() -> Packet:
    return handed(ORIGINAL, sealed(ORIGINAL, TRANSLATED))


REFUSED = (
    Case("another cluster's block", lambda: handed(ORIGINAL, block_with(cluster_id=8)), "BLOCK_CLUSTER"),
    Case("an older generation", lambda: handed(ORIGINAL, block_with(generation=GENERATION - 1)), "BLOCK_OLD"),
    Case("a newer generation", lambda: handed(ORIGINAL, block_with(generation=GENERATION + 1)), "BLOCK_OLD"),
    Case("an epoch before this node joined", lambda: handed(ORIGINAL, block_with(epoch=EPOCH - 1)), "BLOCK_OLD"),
    Case("another node's block", lambda: handed(ORIGINAL, block_with(owner=2)), "BLOCK_NODE"),
    Case("another interface's block", lambda: handed(ORIGINAL, block_with(ingress_slot=1)), "BLOCK_NODE"),
    Case("another family", lambda: handed(ORIGINAL, patched(4, b"\x06")), "BLOCK_MALFORMED"),
    Case("another protocol", lambda: handed(ORIGINAL, patched(5, b"\x11")), "BLOCK_MALFORMED"),
    Case("reserved bits", lambda: handed(ORIGINAL, patched(6, b"\x00\x01")), "BLOCK_MALFORMED"),
    Case("an address that is not IPv4", lambda: handed(ORIGINAL, patched(32, b"\x20\x01")), "BLOCK_MALFORMED"),
    Case("another version", lambda: handed(ORIGINAL, patched(68, b"\x02")), "BLOCK_VERSION"),
    Case("another kind", lambda: handed(ORIGINAL, patched(69, b"\x02")), "BLOCK_VERSION"),
    Case("another length", lambda: handed(ORIGINAL, patched(70, b"\x00\x58")), "BLOCK_VERSION"),
    Case("no magic", lambda: handed(ORIGINAL, patched(64, b"AAHC")), "GUARD_NO_BLOCK"),
    Case("a wrong tag", lambda: handed(ORIGINAL, patched(72, b"\0" * 8)), "BLOCK_TAG"),
    Case("a changed mark", lambda: handed(ORIGINAL, patched(16, b"\xff")), "BLOCK_TAG"),
    Case("a changed translation", lambda: handed(ORIGINAL, patched(28, b"\x00\x01")), "BLOCK_TAG"),
    Case("another key", lambda: handed(ORIGINAL, encode(block_for(ORIGINAL), b"k" * 16, ORIGINAL, 1000)), "BLOCK_TAG"),
    Case("another sequence number", lambda: moved(valid(), tcp_seq=1001), "BLOCK_TAG"),
    Case("another source", lambda: moved(valid(), ip_src="10.77.1.101"), "BLOCK_TAG"),
    Case("another port", lambda: moved(valid(), tcp_dport=81), "BLOCK_TAG"),
    Case("a SYN without a block", lambda: handed(ORIGINAL, b""), "GUARD_NO_BLOCK"),
    Case("a SYN with data instead of a block", lambda: handed(ORIGINAL, b"d" * 500), "GUARD_NO_BLOCK"),
    Case("a block beyond the IP length", lambda: moved(valid(), ip_len=20 + 24), "GUARD_NO_BLOCK"),
    Case("an IP length beyond the frame", lambda: moved(valid(), ip_len=300), "GUARD_MALFORMED"),
    Case("an IP length below the headers", lambda: moved(valid(), ip_len=30), "GUARD_MALFORMED"),
    Case("not from the primary", lambda: moved(valid(), eth_src=CLIENT_MAC), "GUARD_STRANGER"),
    Case("for another node's MAC", lambda: moved(valid(), eth_dst="02:00:00:01:00:02"), "GUARD_NOT_MINE"),
    Case("broadcast", lambda: moved(valid(), eth_dst="ff:ff:ff:ff:ff:ff"), "GUARD_NOT_MINE"),
    Case("in pieces", lambda: moved(valid(), ip_flags="MF"), "GUARD_NO_BLOCK"),
    Case("another IP header length", lambda: moved(valid(), ip_ihl=6), "GUARD_MALFORMED"),
    Case("inside a connection nobody adopted", lambda: handed(ORIGINAL, b"", flags="A"), "GUARD_NO_ENTRY"),
    Case("SYN/ACK of a connection nobody adopted", lambda: handed(ORIGINAL, b"", flags="SA"), "GUARD_NO_ENTRY"),
    Case("ICMP", lambda: Ether(src=VIRTUAL, dst=PHYSICAL) / IP(src=CLIENT, dst=SERVER) / ICMP(), "GUARD_NOT_TCP"),
    Case("a SYN over IPv6", lambda: Ether(src=VIRTUAL, dst=PHYSICAL) / IPv6() / TCP(), "GUARD_NO_BLOCK"),
    Case("neither family", lambda: Ether(src=VIRTUAL, dst=PHYSICAL, type=0x88CC) / bytes(60), "GUARD_NOT_IPV4"),
    Case("cut inside TCP", lambda: bytes(valid())[:50], "GUARD_MALFORMED"),
    Case("cut inside the block", lambda: bytes(valid())[:-1], "GUARD_MALFORMED"),
    Case(
        "ARP request on a data interface",
        lambda: arp(1, (CLIENT_MAC, CLIENT), ("00:00:00:00:00:00", "10.77.1.1"), ("ff:ff:ff:ff:ff:ff", CLIENT_MAC)),
        "GUARD_ARP",
    ),
    Case(
        "ARP reply on a data interface",
        lambda: arp(2, (CLIENT_MAC, CLIENT), (PHYSICAL, "10.77.1.1"), (PHYSICAL, CLIENT_MAC)),
        "GUARD_ARP",
    ),
    Case(
        "202 on a data interface",
        lambda: arp(202, (CLIENT_MAC, CLIENT), (PHYSICAL, "10.77.1.1"), (PHYSICAL, CLIENT_MAC)),
        "ARP_ON_DATA",
    ),
    Case(
        "201 on a data interface",
        lambda: arp(201, (CLIENT_MAC, CLIENT), (PHYSICAL, "10.77.1.1"), (PHYSICAL, CLIENT_MAC)),
        "ARP_ON_DATA",
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.description)
def test_refused_and_counted(plane: Plane, case: Case) -> None:
    ran = plane.run("adopt", case.packet())
    assert (ran.verdict, ran.why) == (TC_SHOT, {case.reason: 1})
    assert conntrack.dump() == []


def test_a_refused_block_is_told(plane: Plane) -> None:
    plane.run("adopt", handed(ORIGINAL, patched(72, b"\0" * 8)))
    (event,) = plane.events()
    assert (event.kind, event.address, event.slot) == ("refused_block", CLIENT, 0)


def test_no_configuration_adopts_nothing(plane: Plane) -> None:
    plane.maps["ports"].put(1, plane.maps["ports"].record())
    assert plane.run("adopt", valid()).why == {"GUARD_NOT_READY": 1}


@pytest.mark.parametrize(
    "which", [ORIGINAL, tuple_of(SERVER, 80, PUBLIC, 50000)], ids=["client to server", "server to client"]
)
@pytest.mark.parametrize("flags", ["A", "PA", "SA", "FA", "R"])
def test_packets_of_an_adopted_connection_are_let_in(plane: Plane, which: FlowTuple, flags: str) -> None:
    plane.run("adopt", valid())
    packet = segment(which, flags, b"data")
    packet.src, packet.dst = VIRTUAL, PHYSICAL
    ran = plane.run("adopt", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"GUARD_PASS": 1}, bytes(packet))


def test_an_accepted_arp_answer_is_let_in_without_its_mark(plane: Plane) -> None:
    answer = arp(2, (CLIENT_MAC, CLIENT), (PHYSICAL, "10.77.1.1"), (PHYSICAL, CLIENT_MAC))
    ran = plane.run("adopt", answer, mark=0x41415250)
    assert (ran.verdict, ran.why, ran.mark) == (TC_OK, {"ARP_TAKEN": 1}, 0)
