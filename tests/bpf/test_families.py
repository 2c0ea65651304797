# SPDX-License-Identifier: GPL-2.0-or-later
"""A session of each family and protocol, packet by packet: steered, handed off, adopted, followed."""

from __future__ import annotations

import struct
import subprocess
import time

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from aa_cluster.dataplane.flows import ESTABLISHED, SETTLED, SYN_SENT, TOUCHED
from aa_cluster.netlink import conntrack
from aa_cluster.wire import announcement as wire
from aa_cluster.wire.block import LENGTH, FlowTuple, decode
from tests.bpf.announcements import announced, plain, right, with_block
from tests.bpf.families import DATAGRAMS, EXTENSIONS, SHARED, carried, echo, error, extended, pieces, session
from tests.bpf.harness import (
    KEY,
    OTHER,
    PHYSICAL,
    SELF,
    TC_OK,
    TC_REDIRECT,
    TC_SHOT,
    THIRD,
    TIMEOUTS,
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

LASTS = 8
WHOLE = 2
"""BLOCK_WHOLE of bpf/include/block.h."""
FAMILIES = pytest.mark.parametrize("kind", SHARED.values(), ids=SHARED)
UDP_ONLY = pytest.mark.parametrize("kind", DATAGRAMS.values(), ids=DATAGRAMS)
NATS = pytest.mark.parametrize("nat", ["none", "masquerade", "dnat", "both"])
PAYLOADS = pytest.mark.parametrize("payload", [b"", b"odd", b"even", b"z" * 1299], ids=["empty", "odd", "even", "long"])
STEERED = {6: "STEER_TX", 17: "STEER_DATAGRAM"}

Kind = tuple[int, int]


def leaving(reply: FlowTuple, flags: str = "S", payload: bytes = b"", **fields: object) -> Packet:
    return segment(reversed_tuple(reply), flags, payload, ttl=63, **fields)


def inward(packet: Packet) -> Packet:
    """As the primary sends it on to an auxiliary."""
    packet.src, packet.dst = VIRTUAL, PHYSICAL
    return packet


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


# -------------------------------------------------------------------------------- the life of a UDP flow


def remaining(kind: Kind) -> int:
    (found,) = conntrack.dump(kind[0])
    return found.timeout


@UDP_ONLY
def test_an_answer_settles_and_holds_the_entry(plane: Plane, kind: Kind) -> None:
    both = session(kind)
    entry(*both)
    plane.add_flow(*both, OTHER, SYN_SENT)
    plane.run("steer", segment(both[0], ""))
    record = plane.flow(both[0])
    assert record is not None
    assert (int(record["state"]), plane.word(both[0]) & SETTLED) == (SYN_SENT, 0)
    assert plane.run("steer", segment(both[1], "")).why == {"STEER_DATAGRAM": 1}
    assert (int(record["state"]), plane.word(both[0]) & SETTLED, plane.word(both[1]) & SETTLED) == (
        ESTABLISHED,
        SETTLED,
        SETTLED,
    )
    (found,) = conntrack.dump(kind[0])
    assert found.status & conntrack.Status.ASSURED
    assert TIMEOUTS[7] - 5 < found.timeout <= TIMEOUTS[7]


@UDP_ONLY
@pytest.mark.parametrize(("owner", "why"), [(SELF, "HANDOFF_LOCAL"), (OTHER, "HANDOFF_AGAIN")])
def test_a_datagram_of_a_known_flow(plane: Plane, kind: Kind, owner: int, why: str) -> None:
    """One that `steer` did not see in time: of this node's own it leaves as it is, of another's it goes there again."""
    both = session(kind)
    entry(*both)
    plane.add_flow(*both, owner, SYN_SENT)
    ran = plane.run("handoff", leaving(both[1], payload=b"second"))
    assert ran.why == {why: 1}
    assert plane.flow_count() == 1


@UDP_ONLY
@pytest.mark.parametrize("owner", [SELF, OTHER])
def test_an_answer_in_the_stack_leaves_as_it_is(plane: Plane, kind: Kind, owner: int) -> None:
    """Untranslated already, so its tuple is the original one, turned round."""
    original, reply = session(kind)
    entry(original, reply)
    plane.add_flow(original, reply, owner, SYN_SENT)
    packet = segment(reversed_tuple(original), "", b"answer", ttl=63)
    ran = plane.run("handoff", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_OTHER": 1}, bytes(packet))


@UDP_ONLY
def test_a_port_that_comes_again_is_a_session_of_its_own(plane: Plane, kind: Kind) -> None:
    """A flow of this node's own outlives its conntrack entry for a moment, and netfilter gives the port away."""
    _, reply = session(kind)
    plane.add_flow(session(kind, port=39_000)[0], reply, SELF, ESTABLISHED)
    original = session(kind)[0]
    entry(original, reply)
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_SENT": 1}
    assert (plane.owner(original), plane.owner(reply)) == (OTHER, OTHER)
    assert not plane.owner(session(kind, port=39_000)[0])


@UDP_ONLY
def test_without_room_the_next_one_takes_the_block(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind)
    entry(original, reply)
    large = leaving(reply, payload=b"d" * 1400)
    ran = plane.run("handoff", large)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_NO_ROOM": 1}, bytes(large))
    assert plane.flow_count() == 0
    assert plane.run("handoff", leaving(reply, payload=b"small")).why == {"HANDOFF_SENT": 1}


@UDP_ONLY
def test_what_goes_to_a_group_is_no_session(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind, "none")
    entry(original, reply)
    packet = leaving(reply)
    packet.dst = "01:00:5e:01:02:03" if kind[0] == 4 else "33:33:00:01:02:03"
    ran = plane.run("handoff", packet)
    assert (ran.verdict, ran.why, plane.flow_count()) == (TC_OK, {"HANDOFF_OTHER": 1}, 0)


@UDP_ONLY
def test_one_that_was_answered_here_stays_here(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind)
    entry(original, reply, state="ESTABLISHED")
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_UNDER_WAY": 1}
    assert (plane.owner(original), plane.owner(reply)) == (SELF, SELF), "the others know of it"


@UDP_ONLY
def test_none_begins_while_another_node_becomes_primary(plane: Plane, kind: Kind) -> None:
    original, reply = session(kind)
    entry(original, reply)
    plane.configure(heir=OTHER)
    ran = plane.run("handoff", leaving(reply))
    assert (ran.verdict, ran.why, plane.flow_count()) == (TC_SHOT, {"HANDOFF_HANDING_OVER": 1}, 0)
    plane.add_flow(original, reply, THIRD, ESTABLISHED)
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_AGAIN": 1}, "a known one goes on"


@UDP_ONLY
def test_a_flow_without_an_answer_goes_after_conntracks_time(plane: Plane, kind: Kind) -> None:
    both = session(kind)
    for idle, left in ((TIMEOUTS[0] - 2, 1), (TIMEOUTS[0] + 1, 0)):
        plane.reset()
        entry(*both)
        plane.add_flow(*both, OTHER, ESTABLISHED, seen_ns=now() - idle * 10**9)
        plane.sweep()
        assert (plane.flow_count(), len(conntrack.dump(kind[0]))) == (left, left)


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@UDP_ONLY
def test_a_stream_lives_longer(plane: Plane, kind: Kind) -> None:
    """Answered, and still there two seconds later (nf_conntrack_proto_udp.c): a touch tells that a packet came since
    the last look, not when."""
    both = session(kind)
    entry(*both)
    plane.add_flow(*both, OTHER, ESTABLISHED, seen_ns=now() - 8 * 10**9)
    record = plane.flow(both[0])
    assert record is not None
    for last_look, lasts in ((0, False), (4, True)):
        record["seen_ns"] = record["created_ns"] + last_look * 10**9
        plane.run("steer", segment(both[0], ""))
        plane.sweep()
        assert bool(record["ended"] & LASTS) is lasts
    assert remaining(kind) > TIMEOUTS[7] - 5 >= TIMEOUTS[0]
    record["seen_ns"] = now() - (TIMEOUTS[0] + 5) * 10**9
    plane.sweep()
    assert plane.flow_count() == 1


@UDP_ONLY
def test_the_entry_of_a_session_nobody_answers_is_renewed(plane: Plane, kind: Kind) -> None:
    """The primary's stack sees none of its datagrams, and would give its NAT away."""
    both = session(kind)
    entry(*both)
    update = ["conntrack", "-U", "-p", "udp", "-s", str(both[0].source), "--timeout", "3"]
    subprocess.run(update, capture_output=True, check=True)
    index = plane.add_flow(*both, OTHER, SYN_SENT, seen_ns=now() - 9 * 10**9)
    plane.maps["records"].view()["held_ns"][index] = now() - 9 * 10**9
    plane.run("steer", segment(both[0], ""))
    plane.sweep()
    assert remaining(kind) > TIMEOUTS[0] - 5


# ------------------------------------------------------------------------------------------- IPv6 that is not plain

TCP6, UDP6 = (6, 6), (6, 17)
IPV6 = pytest.mark.parametrize("kind", [TCP6, UDP6], ids=["TCP", "UDP"])
HEADERS = pytest.mark.parametrize("headers", EXTENSIONS.values(), ids=EXTENSIONS)


@IPV6
@HEADERS
def test_extension_headers_are_walked(plane: Plane, kind: Kind, headers: tuple[Packet, ...]) -> None:
    both = session(kind)
    plane.add_flow(*both, OTHER, ESTABLISHED)
    packet = extended(both[0], "A", headers, b"data")
    ran = plane.run("steer", packet)
    assert (ran.verdict, ran.why, ran.raw[12:]) == (XDP_TX, {"STEER_OPTIONS_TX": 1}, bytes(packet)[12:])
    plane.run("adopt", handed(both[0], sealed(both[0], reversed_tuple(both[1]))))
    assert plane.run("adopt", inward(packet)).verdict == TC_OK


@IPV6
@HEADERS
def test_a_first_packet_with_them_stays(plane: Plane, kind: Kind, headers: tuple[Packet, ...]) -> None:
    original, reply = session(kind)
    entry(original, reply)
    packet = extended(reversed_tuple(reply), "S", headers, ttl=63)
    ran = plane.run("handoff", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_OPTIONS": 1}, bytes(packet))
    assert plane.flow_count() == 0


@pytest.mark.parametrize("cut", range(55, 75, 4))
def test_extension_headers_that_end_too_early(plane: Plane, cut: int) -> None:
    packet = bytes(extended(session(TCP6)[0], "A", EXTENSIONS["all three"]))[:cut]
    ran = plane.run("steer", packet)
    assert (ran.verdict, set(ran.why)) == (XDP_PASS, {"STEER_EXTENSIONS"} if cut < 72 else set(ran.why))
    assert plane.run("adopt", VIRTUAL_TO_PHYSICAL + packet[12:]).verdict == TC_SHOT


VIRTUAL_TO_PHYSICAL = bytes.fromhex((PHYSICAL + VIRTUAL).replace(":", ""))


def test_more_than_four_are_the_stacks(plane: Plane) -> None:
    both = session(TCP6)
    plane.add_flow(*both, OTHER, ESTABLISHED)
    many = EXTENSIONS["destination options, 24 bytes"] * 5
    assert plane.run("steer", extended(both[0], "A", many)).why == {"STEER_EXTENSIONS": 1}


@IPV6
def test_pieces_follow_their_first(plane: Plane, kind: Kind) -> None:
    both = session(kind)
    plane.add_flow(*both, OTHER, ESTABLISHED)
    plane.run("adopt", handed(both[0], sealed(both[0], reversed_tuple(both[1]))))
    first, *later = pieces(both[0])
    assert plane.run("steer", first).why == {"STEER_FRAGMENT_FIRST": 1}
    for piece in later:
        ran = plane.run("steer", piece)
        assert (ran.verdict, ran.why) == (XDP_TX, {"STEER_FRAGMENT_LATER": 1})
    for piece in (first, *later):
        assert plane.run("adopt", inward(piece)).why == {"GUARD_FRAGMENT": 1}


@IPV6
def test_pieces_of_no_flow_are_the_stacks(plane: Plane, kind: Kind) -> None:
    first, *later = pieces(session(kind)[0])
    assert plane.run("steer", first).why == {"STEER_MISS": 1}
    assert {*plane.run("steer", later[0]).why} == {"STEER_FRAGMENT"}
    assert plane.run("adopt", inward(first)).why == {"GUARD_NO_ENTRY": 1}


ERRORS = (ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, ICMPv6ParamProblem)


@IPV6
@pytest.mark.parametrize("kind_of_error", ERRORS)
@pytest.mark.parametrize("headers", [(), EXTENSIONS["hop by hop"]], ids=["plain", "with an extension header"])
def test_an_error_goes_to_the_owner_of_what_it_is_about(
    plane: Plane, kind: Kind, kind_of_error: type[Packet], headers: tuple[Packet, ...]
) -> None:
    """It is about a packet that left with the translated tuple; those that come take the answers'."""
    original, reply = session(kind)
    plane.add_flow(original, reply, OTHER, ESTABLISHED)
    packet = error(carried(reversed_tuple(reply), headers), kind_of_error)
    ran = plane.run("steer", packet)
    assert (ran.verdict, ran.why) == (XDP_TX, {"STEER_ICMP": 1})
    assert plane.run("adopt", inward(packet)).why == {"GUARD_ICMP_NO_ENTRY": 1}
    plane.run("adopt", handed(original, sealed(original, reversed_tuple(reply))))
    assert plane.run("adopt", inward(packet)).why == {"GUARD_ICMP": 1}


def test_other_icmpv6_is_the_primarys(plane: Plane) -> None:
    assert plane.run("steer", echo()).why == {"STEER_NOT_TCP": 1}
    assert plane.run("adopt", inward(echo())).why == {"GUARD_NOT_TCP": 1}
    assert plane.run("steer", error(carried(session(TCP6)[0]), ICMPv6EchoRequest)).why == {"STEER_NOT_TCP": 1}


@IPV6
@pytest.mark.parametrize("cut", [55, 56, 61])
def test_cut_short(plane: Plane, kind: Kind, cut: int) -> None:
    raw = bytes(segment(session(kind)[0], "S"))[:cut]
    assert plane.run("steer", raw).verdict == XDP_PASS
    assert plane.run("handoff", raw).why == {"HANDOFF_OTHER": 1}
    assert plane.run("adopt", VIRTUAL_TO_PHYSICAL + raw[12:]).verdict == TC_SHOT


def test_checksums_can_be_wrong() -> None:
    frame = segment(session(TCP6)[0], "S")
    assert checksums_right(bytes(frame))
    frame[TCP].chksum ^= 1
    assert not checksums_right(bytes(frame))
    assert struct.unpack_from("!H", bytes(frame), 14 + 4)[0] == len(frame) - 14 - len(IPv6())
