# SPDX-License-Identifier: GPL-2.0-or-later
"""admit: what an announcement leaves on the primary, which are refused, and how the packet goes on."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from aa_cluster.dataplane.flows import CLOSED, CLOSING, ESTABLISHED, SYN_SENT
from aa_cluster.netlink import conntrack
from aa_cluster.wire import announcement as wire
from aa_cluster.wire.block import FlowTuple
from tests.bpf.announcements import NEXT_HOP, SEQUENCE, announced, plain, right, with_block
from tests.bpf.harness import (
    CLIENT_MAC,
    KEY,
    OTHER,
    PUBLIC,
    SERVER,
    TC_OK,
    TC_REDIRECT,
    TC_SHOT,
    THIRD,
    VIRTUAL,
    XDP_PASS,
    XDP_TX,
    Plane,
    entry,
    node_mac,
    reversed_tuple,
    segment,
    tuple_of,
)

pytestmark = pytest.mark.bpf

SESSION = tuple_of(PUBLIC, 40000, SERVER, 80)
CARRIER = tuple_of(PUBLIC, 50000, SERVER, 80)
REPLY = reversed_tuple(CARRIER)
QUERY = FlowTuple(SESSION.source, SESSION.destination, 40000, 53, 17)
ON_ITS_WAY = 0x41415357


def cb(context: bytes) -> int:
    return int(struct.unpack_from("=I", context, 48)[0])


@pytest.mark.parametrize("payload", [b"", b"odd", b"even"], ids=["empty", "odd", "even"])
def test_the_session_is_recorded_and_its_packet_goes_on(plane: Plane, payload: bytes) -> None:
    ran = plane.run("admit", with_block(CARRIER, announced(SESSION), "S", payload))
    assert (ran.verdict, ran.why, cb(ran.context)) == (TC_REDIRECT, {"ADMIT_NEW": 1}, ON_ITS_WAY)
    expected = plain(CARRIER, "S", payload)
    expected[Ether].src = VIRTUAL
    assert ran.raw == bytes(expected)
    flow = plane.flow(REPLY)
    assert flow is not None
    assert (plane.owner(REPLY), flow["state"], flow["mark"]) == (OTHER, SYN_SENT, 0x77)
    assert plane.owner(CARRIER) == OTHER
    (held,) = conntrack.dump()
    assert (held.original.source_port, held.reply.destination_port, held.mark) == (50000, 50000, 0x77)


def test_of_an_expected_session_both_tuples_are_held(plane: Plane) -> None:
    client = tuple_of("10.77.1.100", 33000, SERVER, 80)
    assert plane.run("admit", with_block(CARRIER, announced(client, flags=0))).why == {"ADMIT_NEW": 1}
    assert (plane.owner(client), plane.owner(REPLY)) == (OTHER, OTHER)
    (held,) = conntrack.dump()
    assert (held.original.source, held.reply.destination_port) == ("10.77.1.100", 50000)


def test_two_nodes_sockets_with_one_tuple(plane: Plane) -> None:
    """Their NAT made two of it."""
    plane.run("admit", with_block(CARRIER, announced(SESSION)))
    other = tuple_of(PUBLIC, 50001, SERVER, 80)
    frame = with_block(other, announced(SESSION, node=THIRD))
    frame[Ether].src = node_mac(THIRD)
    assert plane.run("admit", frame).why == {"ADMIT_NEW": 1}
    assert (plane.owner(REPLY), plane.owner(reversed_tuple(other))) == (OTHER, THIRD)


def test_its_answers_are_steered_and_complete_the_handshake(plane: Plane) -> None:
    plane.run("admit", with_block(CARRIER, announced(SESSION)))
    ran = plane.run("steer", segment(REPLY, "SA"))
    assert (ran.verdict, ran.packet.dst) == (XDP_TX, node_mac(OTHER))
    assert plane.flow(REPLY)["state"] == ESTABLISHED
    (held,) = conntrack.dump()
    assert held.timeout > 400_000
    assert held.status & conntrack.Status.ASSURED
    assert plane.run("steer", segment(REPLY, "A", b"data")).why == {"STEER_TX": 1}


def test_none_begins_while_another_node_becomes_primary(plane: Plane) -> None:
    """The heir would not know of it. What runs goes on."""
    plane.run("admit", with_block(CARRIER, announced(SESSION)))
    plane.configure(heir=OTHER)
    other = tuple_of(PUBLIC, 50001, SERVER, 80)
    ran = plane.run("admit", with_block(other, announced(SESSION)))
    assert (ran.verdict, ran.why, plane.flow_count()) == (TC_SHOT, {"ADMIT_HANDING_OVER": 1}, 1)
    assert not conntrack.dump()[1:]
    assert plane.run("admit", with_block(CARRIER, announced(SESSION), "A")).why == {"ADMIT_AGAIN": 1}


def test_its_end_is_followed(plane: Plane) -> None:
    plane.run("admit", with_block(CARRIER, announced(SESSION)))
    plane.run("steer", segment(REPLY, "SA"))
    assert plane.run("admit", with_block(CARRIER, announced(SESSION), "FA")).why == {"ADMIT_AGAIN": 1}
    assert plane.flow(REPLY)["state"] == CLOSING
    plane.run("steer", segment(REPLY, "FA"))
    assert plane.flow(REPLY)["state"] == CLOSED
    (held,) = conntrack.dump()
    assert held.timeout <= 120


def test_a_reset_ends_it_at_once(plane: Plane) -> None:
    plane.run("admit", with_block(CARRIER, announced(SESSION)))
    plane.run("admit", with_block(CARRIER, announced(SESSION), "R"))
    assert plane.flow(REPLY)["state"] == CLOSED


def test_a_repeated_syn_changes_nothing(plane: Plane) -> None:
    for why in ("ADMIT_NEW", "ADMIT_AGAIN", "ADMIT_AGAIN"):
        assert plane.run("admit", with_block(CARRIER, announced(SESSION))).why == {why: 1}
    assert (plane.flow_count(), len(conntrack.dump())) == (1, 1)


def test_a_syn_behind_the_end_begins_anew(plane: Plane) -> None:
    plane.run("admit", with_block(CARRIER, announced(SESSION)))
    plane.run("admit", with_block(CARRIER, announced(SESSION), "R"))
    assert plane.run("admit", with_block(CARRIER, announced(SESSION))).why == {"ADMIT_NEW": 1}
    assert plane.flow(REPLY)["state"] == SYN_SENT
    assert len(conntrack.dump()) == 1


def test_a_packet_of_no_known_session_goes_on_unrecorded(plane: Plane) -> None:
    assert plane.run("admit", with_block(CARRIER, announced(SESSION), "FA")).why == {"ADMIT_AGAIN": 1}
    assert plane.flow_count() == 0


@pytest.mark.parametrize("payload", [b"", b"odd", b"x" * 1200], ids=["empty", "odd", "long"])
@pytest.mark.parametrize("checksum", [True, False], ids=["checksum", "none"])
def test_datagrams(plane: Plane, payload: bytes, checksum: bool) -> None:
    ran = plane.run("admit", with_block(QUERY, announced(QUERY), "", payload, checksum=checksum))
    assert ran.why == {"ADMIT_NEW": 1}
    assert right(ran.raw)
    assert Ether(ran.raw)[UDP].payload.build() == payload
    assert (Ether(ran.raw).dst, Ether(ran.raw)[UDP].chksum == 0) == (NEXT_HOP, not checksum)
    answer = reversed_tuple(QUERY)
    frame = Ether(src=CLIENT_MAC, dst=VIRTUAL) / IP(src=str(answer.source), dst=str(answer.destination))
    steered = plane.run("steer", frame / UDP(sport=53, dport=40000) / b"answer")
    assert (steered.verdict, steered.packet.dst, steered.why) == (XDP_TX, node_mac(OTHER), {"STEER_DATAGRAM": 1})
    stray = plane.run("steer", frame / UDP(sport=53, dport=40001) / b"answer")
    assert (stray.verdict, stray.why) == (XDP_PASS, {"STEER_MISS": 1})
    assert plane.run("admit", with_block(QUERY, announced(QUERY), "", payload)).why == {"ADMIT_AGAIN": 1}


def test_a_taken_tuple_is_refused_and_the_node_told(plane: Plane) -> None:
    """Held by a session that the primary's netfilter has, which is another's."""
    other = tuple_of("10.77.1.100", 33000, SERVER, 80)
    entry(other, REPLY, state="ESTABLISHED")
    ran = plane.run("admit", with_block(CARRIER, announced(SESSION)))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"ADMIT_CLASH": 1})
    back = Ether(ran.raw)
    assert (back.dst, back.src, back.type) == (node_mac(OTHER), VIRTUAL, wire.ETHERTYPE)
    assert wire.decode(ran.raw[-80:], KEY, CARRIER, SEQUENCE).kind == wire.KIND_REFUSED
    assert right(ran.raw)
    assert (plane.flow_count(), len(conntrack.dump())) == (0, 1)


def test_another_auxiliarys_tuple_is_refused(plane: Plane) -> None:
    plane.run("admit", with_block(CARRIER, announced(SESSION)))
    frame = with_block(CARRIER, announced(SESSION, node=THIRD))
    frame[Ether].src = node_mac(THIRD)
    assert plane.run("admit", frame).why == {"ADMIT_CLASH": 1}
    assert plane.owner(REPLY) == OTHER


def test_what_has_ended_gives_its_tuple(plane: Plane) -> None:
    entry(tuple_of("10.77.1.100", 33000, SERVER, 80), REPLY, state="TIME_WAIT")
    assert plane.run("admit", with_block(CARRIER, announced(SESSION))).why == {"ADMIT_NEW": 1}
    (held,) = conntrack.dump()
    assert held.original.source == PUBLIC


def test_a_full_table(plane: Plane) -> None:
    plane.configure(flow_limit=0)
    ran = plane.run("admit", with_block(CARRIER, announced(SESSION)))
    assert (ran.verdict, ran.why) == (TC_SHOT, {"ADMIT_FULL": 1})
    assert conntrack.dump() == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cluster_id": 8}, "ADMIT_BLOCK"),
        ({"generation": 2}, "ADMIT_BLOCK"),
        ({"node": THIRD}, "ADMIT_STRANGER"),
        ({"node": 9}, "ADMIT_STRANGER"),
        ({"slot": 1}, "ADMIT_STRANGER"),
        ({"kind": wire.KIND_REFUSED}, "ADMIT_BLOCK"),
    ],
    ids=lambda value: str(value),
)
def test_not_admitted(plane: Plane, changes: dict[str, int], why: str) -> None:
    ran = plane.run("admit", with_block(CARRIER, announced(SESSION, **changes)))
    assert (ran.verdict, ran.why) == (TC_SHOT, {why: 1})
    assert (plane.flow_count(), conntrack.dump()) == (0, [])


def test_another_key(plane: Plane) -> None:
    assert plane.run("admit", with_block(CARRIER, announced(SESSION), key=bytes(16))).why == {"ADMIT_TAG": 1}


def test_cut_short(plane: Plane) -> None:
    frame = bytes(with_block(CARRIER, announced(SESSION)))
    for length in range(34, len(frame)):
        assert plane.run("admit", frame[:length]).verdict == TC_SHOT
    assert plane.flow_count() == 0


def test_all_else_is_the_stacks(plane: Plane) -> None:
    """To the virtual MAC it is accepted even while the interface has another one (a test run's device never has it)."""
    ran = plane.run("admit", segment(CARRIER, "S"))
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"ADMIT_LATE": 1}, bytes(segment(CARRIER, "S")))
    for mac in ("ff:ff:ff:ff:ff:ff", "02:de:ad:00:00:01"):
        ran = plane.run("admit", Ether(dst=mac, src=segment(CARRIER, "S").src) / segment(CARRIER, "S")[IP])
        assert (ran.verdict, ran.why) == (TC_OK, {"ADMIT_OTHER": 1})


def test_an_expectation_leads_its_session_to_the_node(plane: Plane) -> None:
    plane.configure(features=2)
    expected = tuple_of(SERVER, 0, PUBLIC, 1234)
    control = plain(CARRIER, "PA", b"PORT 10,77,2,1,4,210\r\n")
    ran = plane.run(
        "admit",
        with_block(CARRIER, announced(expected, kind=wire.KIND_EXPECT, flags=0), "PA", control[TCP].payload.build()),
    )
    assert ran.why == {"ADMIT_EXPECTED": 1}
    control[Ether].src = VIRTUAL
    assert ran.raw == bytes(control)
    data = tuple_of(SERVER, 20, PUBLIC, 1234)
    steered = plane.run("steer", segment(data, "S"))
    assert (steered.verdict, steered.packet.dst, steered.why) == (XDP_TX, node_mac(OTHER), {"STEER_EXPECTED": 1})
    elsewhere = plane.run("steer", segment(tuple_of(SERVER, 20, PUBLIC, 1235), "S"))
    assert elsewhere.why == {"STEER_SYN": 1}
    plane.configure(features=0)
    assert plane.run("steer", segment(data, "S")).why == {"STEER_SYN": 1}
