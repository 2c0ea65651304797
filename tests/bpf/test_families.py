# SPDX-License-Identifier: GPL-2.0-or-later
"""A session of each family and protocol, packet by packet: steered, handed off, adopted."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
)
from scapy.layers.l2 import Ether

from aa_cluster.dataplane.flows import ESTABLISHED, SYN_SENT, TOUCHED
from aa_cluster.netlink import conntrack
from aa_cluster.wire import announcement as wire
from aa_cluster.wire.block import LENGTH, decode
from tests.bpf.announcements import announced, plain, right, with_block
from tests.bpf.families import (
    FAMILIES,
    UDP_ONLY,
    Kind,
    inward,
    leaving,
    now,
    session,
)
from tests.bpf.harness import (
    KEY,
    OTHER,
    PHYSICAL,
    SELF,
    TC_OK,
    TC_REDIRECT,
    TC_SHOT,
    THIRD,
    VIRTUAL,
    XDP_PASS,
    XDP_TX,
    Plane,
    checksums_right,
    entry,
    handed,
    node_mac,
    reversed_tuple,
    sealed,
    segment,
    sequence_of,
)

pytestmark = pytest.mark.bpf


WHOLE = 2
"""BLOCK_WHOLE of bpf/include/block.h."""
NATS = pytest.mark.parametrize("nat", ["none", "masquerade", "dnat", "both"])
PAYLOADS = pytest.mark.parametrize("payload", [b"", b"odd", b"even", b"z" * 1299], ids=["empty", "odd", "even", "long"])
STEERED = {6: "STEER_TX", 17: "STEER_DATAGRAM"}


@FAMILIES
@pytest.mark.parametrize("direction", [0, 1], ids=["client to server", "server to client"])
def test_steered_by_mac_alone(plane: Plane, kind: Kind, direction: int) -> None:
    both = session(kind)
    plane.add_flow(*both, OTHER, ESTABLISHED)
    packet = segment(both[direction], "A", b"payload")
    ran = plane.run("steer", packet)
    assert (ran.verdict, ran.why) == (XDP_TX, {STEERED[kind[1]]: 1})
    assert (ran.packet.dst, ran.packet.src, ran.raw[12:]) == (node_mac(OTHER), VIRTUAL, bytes(packet)[12:])
    assert [plane.word(which) & TOUCHED for which in both] == [TOUCHED * (direction == 0), TOUCHED * (direction == 1)]


@FAMILIES
def test_no_flow_and_own_flows_are_the_stacks(plane: Plane, kind: Kind) -> None:
    packet = segment(session(kind)[0], "A")
    assert plane.run("steer", packet).why == {"STEER_MISS": 1}
    plane.add_flow(*session(kind), SELF, ESTABLISHED)
    ran = plane.run("steer", packet)
    assert (ran.verdict, ran.why, ran.raw) == (XDP_PASS, {"STEER_LOCAL": 1}, bytes(packet))


def test_the_same_ports_of_another_protocol_or_family_are_another_session(plane: Plane) -> None:
    plane.add_flow(*session((4, 6)), OTHER, ESTABLISHED)
    for kind in ((4, 17), (6, 6), (6, 17)):
        assert plane.run("steer", segment(session(kind)[0], "A")).why == {"STEER_MISS": 1}


@FAMILIES
@NATS
@PAYLOADS
def test_a_first_packet_is_handed_off_as_it_came_plus_the_block(
    plane: Plane, kind: Kind, nat: str, payload: bytes
) -> None:
    original, reply = session(kind, nat)
    entry(original, reply, mark=0x77)
    ran = plane.run("handoff", leaving(reply, payload=payload), mark=0x4711)
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"HANDOFF_SENT": 1})
    assert (ran.packet.dst, ran.packet.src) == (node_mac(OTHER), VIRTUAL)
    block = decode(ran.raw[-LENGTH:], KEY, original, sequence_of(original))
    assert (block.family, block.protocol, block.connmark, block.mark) == (*kind, 0x77, 0x4711)
    assert (block.source, block.source_port) == (reply.destination, reply.destination_port)
    assert (block.destination, block.destination_port) == (reply.source, reply.source_port)
    expected = segment(original, "S", payload + ran.raw[-LENGTH:])
    expected.src, expected.dst = VIRTUAL, node_mac(OTHER)
    assert ran.raw == bytes(expected), "checksums and lengths included"
    assert (plane.owner(original), plane.owner(reply)) == (OTHER, OTHER)
    record = plane.flow(reply)
    assert record is not None
    assert (record["original_family"], record["original_protocol"], record["state"]) == (*kind, SYN_SENT)


@FAMILIES
@NATS
@PAYLOADS
def test_the_block_becomes_an_entry_and_the_packet_is_as_it_was(
    plane: Plane, kind: Kind, nat: str, payload: bytes
) -> None:
    original, reply = session(kind, nat)
    ran = plane.run("adopt", handed(original, sealed(original, reversed_tuple(reply)), payload))
    assert (ran.verdict, ran.why, ran.mark) == (TC_OK, {"ADOPT_NEW": 1}, 0x42)
    assert ran.raw == bytes(handed(original, b"", payload))
    (found,) = conntrack.dump(kind[0])
    assert (found.original.protocol, found.original.source_port) == (kind[1], original.source_port)
    assert (found.reply.source, found.reply.source_port) == (str(reply.source), reply.source_port)
    assert (found.reply.destination, found.reply.destination_port) == (str(reply.destination), reply.destination_port)
    assert found.mark == 0x1234
    again = plane.run("adopt", handed(original, sealed(original, reversed_tuple(reply)), payload))
    assert (again.why, again.raw) == ({"ADOPT_AGAIN": 1}, ran.raw)


@FAMILIES
@pytest.mark.parametrize("direction", [0, 1], ids=["client to server", "server to client"])
def test_packets_of_an_adopted_session_are_let_in(plane: Plane, kind: Kind, direction: int) -> None:
    both = session(kind)
    packet = inward(segment(both[direction], "A", b"data"))
    refused = plane.run("adopt", packet)
    assert refused.why == {"GUARD_NO_ENTRY" if kind[1] == 6 else "GUARD_UNKNOWN": 1}
    plane.run("adopt", handed(both[0], sealed(both[0], reversed_tuple(both[1]))))
    ran = plane.run("adopt", packet)
    assert (ran.verdict, ran.raw) == (TC_OK, bytes(packet))
    assert ran.why == {"GUARD_PASS" if kind[1] == 6 else "GUARD_DATAGRAM": 1}


@FAMILIES
def test_an_entry_with_the_answers_tuple_gives_way(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind)
    stranger = session(kind, "none", port=41)[0]
    entry(stranger, reply, state="ESTABLISHED")
    ran = plane.run("adopt", handed(original, sealed(original, reversed_tuple(reply))))
    assert ran.why == {"ADOPT_EVICTED": 1}
    assert [one.original.source_port for one in conntrack.dump(kind[0])] == [original.source_port]


@FAMILIES
@pytest.mark.parametrize(
    ("at", "value", "why"),
    [(4, b"\x05", "BLOCK_MALFORMED"), (5, b"\x01", "BLOCK_MALFORMED"), (72, bytes(8), "BLOCK_TAG")],
    ids=["another family", "another protocol", "a wrong tag"],
)
def test_blocks_that_are_refused(plane: Plane, kind: Kind, at: int, value: bytes, why: str) -> None:
    original, reply = session(kind)
    block = bytearray(sealed(original, reversed_tuple(reply)))
    block[at : at + len(value)] = value
    ran = plane.run("adopt", handed(original, bytes(block)))
    assert (ran.verdict, ran.why, conntrack.dump(kind[0])) == (TC_SHOT, {why: 1}, [])


@UDP_ONLY
def test_what_looks_like_a_block_in_a_session_is_the_sessions(plane: Plane, kind: Kind) -> None:
    """Anybody may send those four bytes: they stay in the datagram."""
    original, reply = session(kind)
    plane.run("adopt", handed(original, sealed(original, reversed_tuple(reply))))
    forged = bytearray(sealed(original, reversed_tuple(reply)))
    forged[-1] ^= 1
    packet = inward(segment(original, "", b"data" + bytes(forged)))
    ran = plane.run("adopt", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"GUARD_DATAGRAM": 1}, bytes(packet))


@UDP_ONLY
@pytest.mark.parametrize("payload", [b"", b"odd", b"z" * 1420], ids=["empty", "odd", "too long"])
@pytest.mark.parametrize("direction", [0, 1], ids=["client to server", "server to client"])
def test_a_datagram_without_an_entry_is_reported(plane: Plane, kind: Kind, payload: bytes, direction: int) -> None:
    """Its first one was lost, or the entry went before the flow: else no other would ever get in."""
    which = session(kind)[direction]
    ran = plane.run("adopt", inward(segment(which, "", payload)))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"GUARD_UNKNOWN": 1})
    assert (ran.raw[:6].hex(":"), ran.raw[6:12].hex(":"), ran.raw[12:14]) == (VIRTUAL, PHYSICAL, b"\x88\xb5")
    told = wire.decode(ran.raw[-LENGTH:], KEY, which)
    assert (told.kind, told.node, told.session) == (wire.KIND_UNKNOWN, SELF, which)
    whole = len(payload) < 1400
    assert told.flags == (WHOLE if whole else 0)
    assert len(ran.raw) == 14 + (20 if kind[0] == 4 else 40) + 8 + LENGTH + (len(payload) if whole else 0)
    assert not whole or right(ran.raw)


@UDP_ONLY
@pytest.mark.parametrize(
    ("owner", "age_ms", "left"),
    [(OTHER, 500, 0), (OTHER, 20, 1), (THIRD, 500, 1), (SELF, 500, 1)],
    ids=["its flow", "the block may be on its way", "another's flow", "the primary's flow"],
)
@pytest.mark.parametrize("direction", [0, 1], ids=["client to server", "server to client"])
def test_a_report_ends_the_flow(plane: Plane, kind: Kind, owner: int, age_ms: int, left: int, direction: int) -> None:
    both = session(kind)
    entry(*both)
    plane.add_flow(*both, owner, ESTABLISHED, seen_ns=now() - age_ms * 10**6)
    report = announced(both[direction], kind=wire.KIND_UNKNOWN, flags=WHOLE)
    ran = plane.run("admit", with_block(both[direction], report, "", b"odd"))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"ADMIT_UNKNOWN": 1})
    again = plain(both[direction], "", b"odd")
    again.src, again.dst = node_mac(OTHER), VIRTUAL
    assert ran.raw == bytes(again), "it comes in once more"
    assert (plane.flow_count(), plane.entry_count()) == (left, 2 * left)
    assert len(conntrack.dump(kind[0])) == left
    if not left:
        entry(*both)
        assert plane.run("handoff", leaving(both[1])).why == {"HANDOFF_SENT": 1}


def test_nobody_reports_a_tcp_flow(plane: Plane) -> None:
    both = session((6, 6))
    plane.add_flow(*both, OTHER, ESTABLISHED, seen_ns=now() - 10**9)
    plane.run("admit", with_block(both[0], announced(both[0], kind=wire.KIND_UNKNOWN), "A"))
    assert plane.flow_count() == 1


@pytest.mark.parametrize("program", ["handoff", "adopt"])
def test_a_checksum_that_is_not_there_stays_away(plane: Plane, program: str) -> None:
    """UDP over IPv4 with a checksum of zero (RFC 768)."""
    original, reply = session((4, 17))
    if program == "handoff":
        entry(original, reply)
        ran = plane.run("handoff", leaving(reply, payload=b"odd", chksum=0))
        assert ran.why == {"HANDOFF_SENT": 1}
    else:
        frame = handed(original, sealed(original, reversed_tuple(reply)), b"odd")
        frame[UDP].chksum = 0
        ran = plane.run("adopt", frame)
        assert ran.why == {"ADOPT_NEW": 1}
    assert ran.packet[UDP].chksum == 0
    again = ran.packet.copy()
    del again[IP].chksum
    assert Ether(bytes(again))[IP].chksum == ran.packet[IP].chksum


def test_checksums_can_be_wrong() -> None:
    frame = segment(session((6, 6))[0], "S")
    assert checksums_right(bytes(frame))
    frame[TCP].chksum ^= 1
    assert not checksums_right(bytes(frame))
    assert struct.unpack_from("!H", bytes(frame), 14 + 4)[0] == len(frame) - 14 - len(IPv6())
