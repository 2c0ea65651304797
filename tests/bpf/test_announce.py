# SPDX-License-Identifier: GPL-2.0-or-later
"""announce: what of an auxiliary's packets takes the way through the primary, and what it then carries."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether

from aa_cluster.netlink import conntrack
from aa_cluster.wire import announcement as wire
from aa_cluster.wire.block import FlowTuple
from tests.bpf.announcements import NEXT_HOP, SEQUENCE, announced, plain, right, with_block
from tests.bpf.harness import (
    KEY,
    LOOPBACK,
    PHYSICAL,
    PUBLIC,
    SELF,
    SERVER,
    TC_OK,
    TC_REDIRECT,
    TC_SHOT,
    VIRTUAL,
    Plane,
    Ran,
    entry,
    reversed_tuple,
    tuple_of,
)

pytestmark = pytest.mark.bpf

SESSION = tuple_of(PUBLIC, 40000, SERVER, 80)
CARRIER = tuple_of(PUBLIC, 50000, SERVER, 80)
QUERY = FlowTuple(SESSION.source, SESSION.destination, 40000, 53, 17)
ANSWERED = FlowTuple(SESSION.source, SESSION.destination, 50000, 53, 17)
OWN = 0
"""Not received on any interface: made by this node."""


def udp_entry(original: FlowTuple, reply: FlowTuple) -> None:
    command = ["conntrack", "-I", "-p", "udp", "--timeout", "30", "-s", str(original.source)]
    command += ["-d", str(original.destination), "--sport", str(original.source_port)]
    command += ["--dport", str(original.destination_port), "-r", str(reply.source), "-q", str(reply.destination)]
    command += ["--reply-port-src", str(reply.source_port), "--reply-port-dst", str(reply.destination_port)]
    subprocess.run(command, check=True, capture_output=True)


def decoded(ran: Ran, carrier: FlowTuple) -> wire.Announcement:
    return wire.decode(ran.raw[-80:], KEY, carrier, SEQUENCE if carrier.protocol == 6 else 0)


def send(plane: Plane, carrier: FlowTuple, flags: str = "S", payload: bytes = b"", **options: int) -> Ran:
    return plane.run("announce", plain(carrier, flags, payload, bool(options.pop("checksum", 1))), OWN)


@pytest.mark.parametrize("payload", [b"", b"odd", b"even"], ids=["empty", "odd", "even"])
def test_an_own_syn_goes_to_the_primary_with_a_block(plane: Plane, payload: bytes) -> None:
    entry(SESSION, reversed_tuple(CARRIER), mark=9)
    ran = send(plane, CARRIER, "S", payload)
    assert (ran.verdict, ran.why) == (TC_OK, {"ANNOUNCE_FLOW": 1})
    ethernet = Ether(ran.raw)
    assert (ethernet.dst, ethernet.src, ethernet.type) == (VIRTUAL, PHYSICAL, wire.ETHERTYPE)
    assert right(ran.raw)
    block = decoded(ran, CARRIER)
    assert (block.kind, block.node, block.slot, block.flags, block.connmark) == (wire.KIND_FLOW, SELF, 0, wire.OWN, 9)
    assert (block.session, block.next_hop.hex(":")) == (SESSION, NEXT_HOP)


@pytest.mark.parametrize("flags", ["FA", "R", "RA"])
def test_so_do_the_packets_that_end_it(plane: Plane, flags: str) -> None:
    entry(SESSION, reversed_tuple(CARRIER), state="ESTABLISHED")
    assert send(plane, CARRIER, flags).why == {"ANNOUNCE_FLOW": 1}


@pytest.mark.parametrize("flags", ["A", "PA", "SA"])
def test_all_others_leave_as_they_are(plane: Plane, flags: str) -> None:
    entry(SESSION, reversed_tuple(CARRIER), state="ESTABLISHED")
    ran = send(plane, CARRIER, flags, b"data")
    assert (ran.verdict, ran.why) == (TC_OK, {"ANNOUNCE_OUT": 1})
    assert ran.raw == bytes(plain(CARRIER, flags, b"data"))


@pytest.mark.parametrize("flags", ["S", "FA", "R"])
def test_a_forwarded_packet_leaves_as_it_is(plane: Plane, flags: str) -> None:
    entry(SESSION, reversed_tuple(CARRIER))
    assert plane.run("announce", plain(CARRIER, flags), LOOPBACK).why == {"ANNOUNCE_OUT": 1}


def test_of_expected_sessions_only_where_helpers_are_shared(plane: Plane) -> None:
    plane.configure(features=2)
    entry(SESSION, reversed_tuple(CARRIER))
    assert plane.run("announce", plain(CARRIER), LOOPBACK).why == {"ANNOUNCE_OUT": 1}  # forwarded, not expected


def test_without_an_entry_it_leaves_unannounced(plane: Plane) -> None:
    assert send(plane, CARRIER).why == {"ANNOUNCE_NO_ENTRY": 1}


def test_no_room_under_the_mtu(plane: Plane) -> None:
    entry(SESSION, reversed_tuple(CARRIER))
    plane.port(mtu=1500)
    assert send(plane, CARRIER, "S", b"x" * (1500 - 44 - 80)).why == {"ANNOUNCE_FLOW": 1}
    ran = send(plane, CARRIER, "S", b"x" * (1500 - 44 - 80 + 1))
    assert (ran.why, ran.raw) == ({"ANNOUNCE_NO_ROOM": 1}, bytes(plain(CARRIER, "S", b"x" * (1500 - 44 - 80 + 1))))


@pytest.mark.parametrize("payload", [b"", b"odd", b"even", b"x" * 1200], ids=["empty", "odd", "even", "long"])
@pytest.mark.parametrize("checksum", [1, 0], ids=["checksum", "none"])
def test_an_own_datagram_goes_to_the_primary_once(plane: Plane, payload: bytes, checksum: int) -> None:
    carrier = FlowTuple(ANSWERED.source, ANSWERED.destination, 50000 + len(payload) * 2 + checksum, 53, 17)
    udp_entry(QUERY, reversed_tuple(carrier))
    ran = send(plane, carrier, payload=payload, checksum=checksum)
    assert (ran.verdict, ran.why) == (TC_OK, {"ANNOUNCE_FLOW": 1})
    assert right(ran.raw)
    assert decoded(ran, carrier).session == QUERY
    assert send(plane, carrier, payload=payload, checksum=checksum).why == {"ANNOUNCE_OUT": 1}


def test_what_is_not_ip_or_whole_leaves_as_it_is(plane: Plane) -> None:
    for frame in (
        Ether(src=PHYSICAL, dst=NEXT_HOP) / ARP(),
        Ether(src=PHYSICAL, dst=NEXT_HOP) / IP(src=PUBLIC, dst=SERVER, proto=47) / (b"x" * 40),
        Ether(src=PHYSICAL, dst=NEXT_HOP) / IP(src=PUBLIC, dst=SERVER, flags="MF") / TCP(flags="S"),
    ):
        assert plane.run("announce", frame, OWN).why == {"ANNOUNCE_OUT": 1}


def refused(
    carrier: FlowTuple, session: FlowTuple, payload: bytes = b"", checksum: bool = True, **changes: int
) -> bytes:
    """The frame as the primary sends it back to this node."""
    values = {"kind": wire.KIND_REFUSED, "node": SELF} | changes
    frame = with_block(carrier, announced(session, **values), "S", payload, checksum=checksum)
    frame[Ether].src, frame[Ether].dst = VIRTUAL, PHYSICAL
    return bytes(frame)


def test_a_refused_syn_gets_another_port_for_its_next_attempt(plane: Plane) -> None:
    entry(SESSION, reversed_tuple(CARRIER))
    ran = plane.run("adopt", refused(CARRIER, SESSION))
    assert (ran.verdict, ran.why) == (TC_SHOT, {"ADOPT_REFUSED": 1})
    (now,) = conntrack.dump()
    assert (now.original.source_port, now.reply.source, now.reply.destination) == (40000, SERVER, PUBLIC)
    assert now.reply.destination_port not in (40000, 50000)
    again = tuple_of(PUBLIC, now.reply.destination_port, SERVER, 80)
    assert decoded(send(plane, again), again).session == SESSION


@pytest.mark.parametrize("payload", [b"", b"odd", b"even", b"x" * 1200], ids=["empty", "odd", "even", "long"])
@pytest.mark.parametrize("checksum", [True, False], ids=["checksum", "none"])
def test_a_refused_datagram_goes_out_again_with_another_port(plane: Plane, payload: bytes, checksum: bool) -> None:
    udp_entry(QUERY, reversed_tuple(ANSWERED))
    ran = plane.run("adopt", refused(ANSWERED, QUERY, payload, checksum))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"ADOPT_ANOTHER_PORT": 1})
    ethernet = Ether(ran.raw)
    assert (ethernet.dst, ethernet.src, ethernet.type) == (VIRTUAL, PHYSICAL, wire.ETHERTYPE)
    assert right(ran.raw)
    (now,) = conntrack.dump()
    carrier = replace(ANSWERED, source_port=now.reply.destination_port)
    assert carrier != ANSWERED
    block = decoded(ran, carrier)
    assert (block.kind, block.session, block.tries) == (wire.KIND_FLOW, QUERY, 1)
    assert ran.raw[42:-80] == payload


def test_not_for_ever(plane: Plane) -> None:
    assert plane.run("adopt", refused(ANSWERED, QUERY, tries=15)).why == {"ADOPT_ANOTHER_PORT": 1}
    assert plane.run("adopt", refused(ANSWERED, QUERY, tries=16)).why == {"ADOPT_REFUSED": 1}


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"node": 3}, "BLOCK_NODE"), ({"generation": 2}, "BLOCK_NODE"), ({"kind": wire.KIND_FLOW}, "BLOCK_VERSION")],
)
def test_a_refusal_that_is_none(plane: Plane, changes: dict[str, int], why: str) -> None:
    entry(SESSION, reversed_tuple(CARRIER))
    assert plane.run("adopt", refused(CARRIER, SESSION, **changes)).why == {why: 1}
    assert len(conntrack.dump()) == 1


def test_a_refusal_with_another_key(plane: Plane) -> None:
    frame = with_block(CARRIER, announced(SESSION, kind=wire.KIND_REFUSED, node=SELF), key=bytes(16))
    frame[Ether].src, frame[Ether].dst = VIRTUAL, PHYSICAL
    assert plane.run("adopt", frame).why == {"BLOCK_TAG": 1}
