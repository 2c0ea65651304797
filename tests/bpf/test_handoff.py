# SPDX-License-Identifier: GPL-2.0-or-later
"""handoff: what leaves, to whom, with which block; and when the session stays."""

from __future__ import annotations

import dataclasses
import subprocess
from collections import Counter
from ipaddress import IPv4Address, IPv4Network

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from aa_cluster.core.policy import NO_MARK, Mark, Policy, Ports, Rule
from aa_cluster.core.schedule import sequence
from aa_cluster.dataplane import decisions
from aa_cluster.dataplane.flows import CLOSED, CLOSING, ESTABLISHED, EXACT, REPLY, SETTLED, SYN_RECV, SYN_SENT
from aa_cluster.wire.block import LENGTH, FlowTuple, decode
from tests.bpf.harness import (
    CLIENT,
    CLUSTER,
    EPOCH,
    GENERATION,
    KEY,
    LOOPBACK,
    OTHER,
    PUBLIC,
    SELF,
    SERVER,
    TC_OK,
    TC_REDIRECT,
    TC_SHOT,
    THIRD,
    TIMEOUTS,
    VIRTUAL,
    Plane,
    Ran,
    checksums_right,
    entry,
    node_mac,
    reversed_tuple,
    segment,
    tuple_of,
)
from tests.bpf.packets import OPTIONS, WRITTEN, with_options

pytestmark = pytest.mark.bpf

SEQUENCE = 1000


def nat(kind: str, port: int = 40000) -> tuple[FlowTuple, FlowTuple]:
    """(original, reply) of a session under each kind of NAT, as on the wire."""
    kinds = {
        "none": (tuple_of(CLIENT, port, SERVER, 80), tuple_of(SERVER, 80, CLIENT, port)),
        "masquerade": (tuple_of(CLIENT, port, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, port + 9)),
        "dnat": (tuple_of(SERVER, port, PUBLIC, 8080), tuple_of(CLIENT, 80, SERVER, port)),
        "dnat and snat": (tuple_of(CLIENT, port, "10.77.1.1", 8080), tuple_of(SERVER, 80, PUBLIC, port + 9)),
        "hairpin": (tuple_of(CLIENT, port, "10.77.1.1", 8080), tuple_of("10.77.1.101", 80, "10.77.1.1", port + 9)),
    }
    return kinds[kind]


def leaving(reply: FlowTuple, flags: str = "S", payload: bytes = b"", **fields: object) -> Packet:
    """The packet as it stands at egress: translated, TTL one less, source MAC ours."""
    return segment(reversed_tuple(reply), flags, payload, ttl=63, **fields)


def hand_off(plane: Plane, kind: str = "masquerade", port: int = 40000, payload: bytes = b"", **fields: object) -> Ran:
    original, reply = nat(kind, port)
    entry(original, reply, mark=0x77)
    return plane.run("handoff", leaving(reply, payload=payload, **fields))


@pytest.mark.parametrize("kind", ["none", "masquerade", "dnat", "dnat and snat", "hairpin"])
@pytest.mark.parametrize("payload", [b"", b"odd", b"even", b"z" * 1299], ids=["empty", "odd", "even", "long"])
def test_an_auxiliarys_syn_is_as_it_arrived_plus_the_block(plane: Plane, kind: str, payload: bytes) -> None:
    original, reply = nat(kind)
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    entry(original, reply, mark=0x77)
    ran = plane.run("handoff", leaving(reply, payload=payload, options=options), mark=0x4711)

    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"HANDOFF_SENT": 1})
    assert (ran.packet.dst, ran.packet.src) == (node_mac(OTHER), VIRTUAL)
    block = decode(ran.raw[-LENGTH:], KEY, original, SEQUENCE)
    assert (block.cluster_id, block.generation, block.epoch) == (CLUSTER, GENERATION, EPOCH)
    assert (block.owner, block.ingress_slot, block.family, block.protocol) == (OTHER, 0, 4, 6)
    assert (block.connmark, block.mark) == (0x77, 0x4711)
    assert (block.source, block.source_port) == (reply.destination, reply.destination_port)
    assert (block.destination, block.destination_port) == (reply.source, reply.source_port)
    assert checksums_right(ran.raw)

    expected = segment(original, "S", payload, options=options)
    expected[IP].len += LENGTH
    stripped = Ether(ran.raw[:-LENGTH])
    for packet in (expected, stripped):
        packet.src = packet.dst = VIRTUAL
        packet[IP].chksum = packet[TCP].chksum = 0
    assert bytes(stripped) == bytes(expected)


def test_the_flow_is_recorded_under_both_tuples(plane: Plane) -> None:
    original, reply = nat("masquerade")
    hand_off(plane)
    record = plane.flow(original)
    assert record is not None
    assert (int(record["owner"]), int(record["state"]), int(record["mark"])) == (OTHER, SYN_SENT, 0x77)
    assert (plane.owner(original), plane.owner(reply)) == (OTHER, OTHER)
    assert plane.word(original) & REPLY == 0
    assert plane.word(reply) & REPLY
    assert plane.word(original) >> 10 & 0x3FFFFF == plane.word(reply) >> 10 & 0x3FFFFF == 1


def test_a_repeated_syn_is_the_same_decision(plane: Plane) -> None:
    plane.schedule(OTHER, THIRD)
    first = hand_off(plane)
    again = plane.run("handoff", leaving(nat("masquerade")[1]))
    assert again.why == {"HANDOFF_AGAIN": 1}
    assert again.raw == first.raw
    assert (plane.flow_count(), plane.entry_count()) == (1, 2)
    assert int(plane.maps["turns"].get(0)) == 1


@pytest.mark.parametrize("large", [False, True])
def test_a_syn_inside_a_running_session_changes_nothing(plane: Plane, large: bool) -> None:
    """A late one, or a forged one, with or without so much data that the block finds no room: owner, state and the
    primary's conntrack entry are as they were, so that also a session which is silent afterwards goes on."""
    original, reply = nat("masquerade")
    plane.schedule(THIRD)
    entry(original, reply)
    plane.add_flow(original, reply, OTHER, ESTABLISHED)
    packet = leaving(reply, payload=b"d" * 1460 if large else b"")
    ran = plane.run("handoff", packet)
    if large:
        assert (ran.verdict, ran.raw, ran.why) == (TC_OK, bytes(packet), {"HANDOFF_NO_ROOM": 1})
    else:
        assert (ran.packet.dst, ran.why) == (node_mac(OTHER), {"HANDOFF_AGAIN": 1})
    flow = plane.flow(original)
    assert flow is not None
    assert (int(flow["owner"]), int(flow["state"])) == (OTHER, ESTABLISHED)
    assert (plane.owner(original), plane.owner(reply)) == (OTHER, OTHER)
    assert plane.word(original) & plane.word(reply) & SETTLED
    assert (decisions.read_live(plane.maps), decisions.read_half_open(plane.maps)) == ({OTHER: 1}, 0)
    assert TIMEOUTS[ESTABLISHED] - 5 < remaining(original) <= TIMEOUTS[ESTABLISHED]


def remaining(original: FlowTuple) -> int:
    """Seconds until this namespace's conntrack lets go of the entry."""
    command = ["conntrack", "-L", "-p", "tcp", "-s", str(original.source), "--sport", str(original.source_port)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(listed.split()[2])


@pytest.mark.parametrize(("state", "left"), [(SYN_SENT, 2), (SYN_RECV, 2), (CLOSING, 0), (CLOSED, 0)])
def test_a_syn_without_room_on_a_recorded_tuple(plane: Plane, state: int, left: int) -> None:
    """What is under way keeps its owner, what has ended gives way to the session that stays here."""
    original, reply = nat("masquerade")
    entry(original, reply)
    plane.add_flow(original, reply, OTHER, state)
    assert plane.run("handoff", leaving(reply, payload=b"d" * 1460)).why == {"HANDOFF_NO_ROOM": 1}
    assert plane.entry_count() == left
    assert not left or (plane.owner(original), plane.owner(reply)) == (OTHER, OTHER)


def test_a_new_syn_on_a_closed_flow_is_a_new_decision(plane: Plane) -> None:
    original, reply = nat("masquerade")
    plane.schedule(THIRD)
    entry(original, reply)
    plane.add_flow(original, reply, OTHER, CLOSED)
    ran = plane.run("handoff", leaving(reply))
    assert (ran.packet.dst, ran.why) == (node_mac(THIRD), {"HANDOFF_SENT": 1})
    assert (plane.flow_count(), plane.entry_count()) == (1, 2)
    assert plane.owner(reply) == THIRD


@pytest.mark.parametrize("owner", [OTHER, SELF])
@pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED])
@pytest.mark.parametrize("large", [False, True])
def test_a_syn_that_was_given_another_translation_begins_another_session(
    plane: Plane, large: bool, state: int, owner: int
) -> None:
    """Nobody has ended the first one, and conntrack has let go of it: its NAT would lead the new one astray."""
    original, reply = nat("masquerade")
    before = dataclasses.replace(reply, destination_port=reply.destination_port + 1)
    plane.schedule(THIRD)
    entry(original, reply)
    plane.add_flow(original, before, owner, state)
    ran = plane.run("handoff", leaving(reply, payload=b"d" * 1460 if large else b""))
    assert not plane.owner(before)
    if large:
        assert (ran.why, plane.entry_count()) == ({"HANDOFF_NO_ROOM": 1}, 0)
        return
    assert (ran.packet.dst, ran.why) == (node_mac(THIRD), {"HANDOFF_SENT": 1})
    assert (plane.flow_count(), plane.entry_count()) == (1, 2)
    assert (plane.owner(original), plane.owner(reply)) == (THIRD, THIRD)


@pytest.mark.parametrize(
    "weights",
    [{1: 1, 2: 1, 3: 1}, {1: 1, 2: 2, 3: 3}, {1: 0, 2: 1, 3: 1}, {1: 1}, {1: 5, 2: 3, 3: 7}],
    ids=str,
)
def test_the_schedule_is_followed_to_the_letter(plane: Plane, weights: dict[int, int]) -> None:
    turns = sequence(weights)
    plane.schedule(*turns)
    by_mac = {node_mac(OTHER): OTHER, node_mac(THIRD): THIRD, VIRTUAL: SELF}
    count = 30 * sum(weights.values())
    got = []
    for port in range(20000, 20000 + count):
        ran = hand_off(plane, port=port)
        got.append(by_mac[ran.packet.dst])
    assert got == [turns[index % len(turns)] for index in range(count)]
    assert Counter(got) == {node: 30 * weight for node, weight in weights.items() if weight}


def test_the_primarys_own_turn(plane: Plane) -> None:
    plane.schedule(SELF)
    original, reply = nat("masquerade")
    entry(original, reply)
    packet = leaving(reply)
    ran = plane.run("handoff", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_LOCAL": 1}, bytes(packet))
    assert plane.owner(original) == SELF


def test_an_owner_that_left_since_the_schedule_was_made(plane: Plane) -> None:
    plane.schedule(9)
    ran = hand_off(plane)
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_LOCAL": 1})


def test_a_repeated_syn_whose_owner_left(plane: Plane) -> None:
    original, reply = nat("masquerade")
    entry(original, reply)
    plane.add_flow(original, reply, 9, SYN_SENT)
    ran = plane.run("handoff", leaving(reply))
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_NO_OWNER": 1})
    assert (plane.owner(original), plane.owner(reply)) == (SELF, SELF)


@pytest.mark.parametrize(("size", "fits"), [(1380, True), (1381, False), (1460, False)])
def test_no_room_under_the_mtu(plane: Plane, size: int, fits: bool) -> None:
    original, reply = nat("none")
    entry(original, reply)
    packet = leaving(reply, payload=b"d" * size)
    ran = plane.run("handoff", packet)
    assert (20 + 20 + size + LENGTH <= 1500) is fits
    if fits:
        assert ran.why == {"HANDOFF_SENT": 1}
    else:
        assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_NO_ROOM": 1}, bytes(packet))


def test_untracked_sessions_stay(plane: Plane) -> None:
    packet = leaving(nat("masquerade")[1])
    ran = plane.run("handoff", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_NO_ENTRY": 1}, bytes(packet))


def test_an_entry_of_the_opposite_direction_is_not_this_session(plane: Plane) -> None:
    """Simultaneous sessions between the same ports: the packet's own tuple as somebody's original is not asked for."""
    original, reply = nat("none")
    entry(reversed_tuple(reply), reversed_tuple(original))
    ran = plane.run("handoff", leaving(original))
    assert ran.why == {"HANDOFF_NO_ENTRY": 1}


def test_made_by_this_node(plane: Plane) -> None:
    assert plane.run("handoff", leaving(nat("none")[1]), ingress=0).why == {"HANDOFF_OWN": 1}


def test_not_from_a_data_interface(plane: Plane) -> None:
    plane.maps["ports"].put(LOOPBACK, plane.maps["ports"].record())
    assert plane.run("handoff", leaving(nat("none")[1])).why == {"HANDOFF_NOT_DATA": 1}


def test_the_handed_off_syn_is_let_out(plane: Plane) -> None:
    ran = hand_off(plane)
    again = plane.run("handoff", ran.raw, cb=0x41415357)
    assert (again.verdict, again.why, again.raw) == (TC_OK, {"HANDOFF_ON_ITS_WAY": 1}, ran.raw)


@pytest.mark.parametrize("flags", ["A", "SA", "FA", "R", "SF", "SR"])
def test_only_a_syn_opens(plane: Plane, flags: str) -> None:
    original, reply = nat("none")
    entry(original, reply)
    assert plane.run("handoff", leaving(reply, flags)).why == {"HANDOFF_OTHER": 1}


def test_other_protocols_pass(plane: Plane) -> None:
    packet = Ether(dst=VIRTUAL) / IP(src=CLIENT, dst=SERVER) / UDP()
    assert plane.run("handoff", packet).why == {"HANDOFF_OTHER": 1}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", ["none", "masquerade", "dnat and snat"])
@pytest.mark.parametrize("payload", [b"", b"odd"], ids=["empty", "odd"])
def test_ip_options_go_along(plane: Plane, options: bytes, kind: str, payload: bytes) -> None:
    original, reply = nat(kind)
    entry(original, reply)
    ran = plane.run("handoff", with_options(reversed_tuple(reply), "S", options, payload, ttl=63))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"HANDOFF_SENT": 1})
    assert checksums_right(ran.raw)
    decode(ran.raw[-LENGTH:], KEY, original, SEQUENCE)
    expected = with_options(original, "S", options, payload)
    expected[IP].len += LENGTH
    stripped = Ether(ran.raw[:-LENGTH])
    for packet in (expected, stripped):
        packet.src = packet.dst = VIRTUAL
        packet[IP].chksum = packet[TCP].chksum = 0
    assert bytes(stripped) == bytes(expected)


@pytest.mark.parametrize("size", range(4, 44, 4))
def test_options_take_of_the_room(plane: Plane, size: int) -> None:
    original, reply = nat("none")
    entry(original, reply)
    fits = 1500 - LENGTH - 40 - size
    for data, why in ((fits + 1, "HANDOFF_NO_ROOM"), (fits, "HANDOFF_SENT")):
        packet = with_options(reversed_tuple(reply), "S", b"\x01" * size, b"d" * data, ttl=63)
        assert plane.run("handoff", packet).why == {why: 1}


@pytest.mark.parametrize("options", WRITTEN.values(), ids=WRITTEN)
def test_options_that_routers_write_into_stay(plane: Plane, options: bytes) -> None:
    original, reply = nat("masquerade")
    entry(original, reply)
    packet = with_options(reversed_tuple(reply), "S", options, ttl=63)
    ran = plane.run("handoff", packet)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_OPTIONS": 1}, bytes(packet))
    assert plane.flow_count() == 0


@pytest.mark.parametrize(("state", "left"), [(CLOSED, 0), (CLOSING, 0), (ESTABLISHED, 2), (SYN_SENT, 2)])
def test_a_session_that_stays_is_not_led_away_by_an_earlier_one(plane: Plane, state: int, left: int) -> None:
    """… and a lone SYN takes no running flow from its owner."""
    original, reply = nat("masquerade")
    entry(original, reply)
    plane.add_flow(original, reply, OTHER, state)
    ran = plane.run("handoff", with_options(reversed_tuple(reply), "S", WRITTEN["record route"], ttl=63))
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_OPTIONS": 1})
    assert plane.entry_count() == left
    assert not left or plane.owner(original) == OTHER


def test_not_ready_without_an_identity(plane: Plane) -> None:
    plane.configure(self=0)
    assert plane.run("handoff", leaving(nat("none")[1])).why == {"HANDOFF_NOT_READY": 1}


def test_full_table_keeps_sessions_on_the_primary_and_tells(plane: Plane) -> None:
    limit = plane.maps["records"].info.entries - 1
    plane.maps["watermark"].put(0, np.array(limit, "<u8"))
    ran = hand_off(plane)
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_TABLE_FULL": 1})
    (event,) = plane.events()
    assert (event.kind, event.address) == ("table_full", str(IPv4Address(CLIENT)))
    assert plane.entry_count() == 0
    assert int(plane.maps["turns"].get(0)) == 0, "no turn was spent"
    assert int(plane.maps["watermark"].get(0)) == limit


def test_the_last_record_is_given_out(plane: Plane) -> None:
    limit = plane.maps["records"].info.entries - 1
    plane.maps["watermark"].put(0, np.array(limit - 1, "<u8"))
    assert hand_off(plane, port=1).why == {"HANDOFF_SENT": 1}
    assert hand_off(plane, port=2).why == {"HANDOFF_TABLE_FULL": 1}


def test_a_repeated_syn_while_the_table_is_full_keeps_its_owner(plane: Plane) -> None:
    original, reply = nat("masquerade")
    entry(original, reply)
    plane.add_flow(original, reply, OTHER, SYN_SENT)
    plane.maps["watermark"].put(0, np.array(plane.maps["records"].info.entries - 1, "<u8"))
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_AGAIN": 1}


@pytest.mark.parametrize("half", ["original", "reply"])
def test_no_free_place_in_either_bucket(plane: Plane, half: str) -> None:
    """Nothing of the flow stays behind: no entry, and its record is given out again."""
    plane.schedule(THIRD, OTHER)
    original, reply = nat("masquerade")
    fingerprint, bucket = plane.hashes(original if half == "original" else reply)
    table = plane.maps["buckets"].view()["word"]
    for line in (bucket, (bucket ^ (fingerprint | 1)) & (len(table) - 1)):
        table[line] = [(number + 1) << 32 | 1 << 10 for number in range(8)]
    ran = hand_off(plane)
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_UNPLACED": 1})
    assert plane.entry_count() == 16
    assert plane.flow_count() == 0
    assert int(plane.maps["turns"].get(0)) == 0, "no turn was spent"
    table[:] = 0
    ran = plane.run("handoff", leaving(reply))
    assert (ran.packet.dst, ran.why) == (node_mac(THIRD), {"HANDOFF_SENT": 1})
    assert int(plane.maps["watermark"].get(0)) == 1


def test_a_full_first_bucket_leaves_the_other(plane: Plane) -> None:
    original, _ = nat("masquerade")
    _, bucket = plane.hashes(original)
    table = plane.maps["buckets"].view()["word"]
    table[bucket] = [(number + 1) << 32 | 1 << 10 for number in range(8)]
    assert hand_off(plane).why == {"HANDOFF_SENT": 1}
    assert plane.owner(original) == OTHER


def test_a_taken_fingerprint_keeps_the_later_session_here(plane: Plane) -> None:
    original, _ = nat("masquerade")
    index = plane.add_flow(tuple_of("10.77.1.7", 7, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 7), THIRD, ESTABLISHED)
    plane.put_entry(original, index, THIRD, SETTLED)
    ran = hand_off(plane)
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_UNPLACED": 1})
    assert plane.word(original) & EXACT
    assert decisions.read_live(plane.maps) == {THIRD: 1}
    assert int(plane.maps["turns"].get(0)) == 0, "no turn was spent"


@pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED, CLOSED])
def test_a_reply_tuple_used_again_is_the_new_sessions(plane: Plane, state: int) -> None:
    """The old session is over for netfilter, which gave its NAT port to another client; its flow was not swept yet."""
    original, reply = nat("masquerade")
    plane.schedule(THIRD)
    plane.add_flow(tuple_of("10.77.1.7", 7, SERVER, 80), reply, OTHER, state)
    entry(original, reply)
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_SENT": 1}
    assert (plane.owner(original), plane.owner(reply)) == (THIRD, THIRD)
    assert (plane.flow_count(), plane.entry_count()) == (1, 2)


CLIENTS = IPv4Network("10.77.1.0/24")


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (Policy((Rule("keep", source=CLIENTS),)), "HANDOFF_KEPT_BY_RULE"),
        (Policy((Rule("keep", ports=(Ports(8080, 8080),)),)), "HANDOFF_KEPT_BY_RULE"),
        (Policy((Rule("keep", interface="int", mark=Mark(0x77, 0xFF)),)), "HANDOFF_KEPT_BY_RULE"),
        (Policy((Rule("share", interface="ext"),), "keep"), "HANDOFF_KEPT_BY_DEFAULT"),
        (Policy((Rule("share"),), "share", Mark(0x70, 0xF0)), "HANDOFF_KEPT_BY_MARK"),
        (Policy((Rule("share"),), "share", Mark(0x4000, 0x4000)), "HANDOFF_KEPT_BY_MARK"),
        (Policy((Rule("share", destination=IPv4Network("10.77.1.1/32")), Rule("keep"))), "HANDOFF_SENT"),
        (Policy((Rule("keep", ports=(Ports(80, 80),)),), "share", NO_MARK), "HANDOFF_SENT"),
    ],
    ids=str,
)
def test_the_policy_sees_the_session_as_it_arrived_and_both_marks(plane: Plane, policy: Policy, why: str) -> None:
    """Destination 10.77.1.1:8080 is translated to the server's port 80; connmark 0x77, packet mark 0x4711."""
    original, reply = nat("dnat and snat")
    decisions.write_policy(plane.maps, policy, {"int": 0, "ext": 1})
    entry(original, reply, mark=0x77)
    packet = leaving(reply)
    ran = plane.run("handoff", packet, mark=0x4711)
    assert ran.why == {why: 1}
    if why != "HANDOFF_SENT":
        assert (ran.verdict, ran.raw) == (TC_OK, bytes(packet))
        assert (plane.flow_count(), plane.entry_count()) == (0, 0)
        assert int(plane.maps["turns"].get(0)) == 0, "no turn was spent"


def test_a_session_that_conntrack_sees_running_is_not_moved(plane: Plane) -> None:
    """One kept here, or older than the cluster, and a SYN inside it: a stray one, a forged one."""
    original, reply = nat("masquerade")
    entry(original, reply, state="ESTABLISHED")
    ran = plane.run("handoff", leaving(reply))
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_UNDER_WAY": 1})
    assert (plane.flow_count(), plane.owner(original), plane.owner(reply)) == (1, SELF, SELF), "the others know of it"
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_LOCAL": 1}


@pytest.mark.parametrize(("owner", "why"), [(OTHER, "HANDOFF_SENT"), (SELF, "HANDOFF_UNDER_WAY")])
def test_a_flow_that_ended_elsewhere_is_over_whatever_conntrack_says(plane: Plane, owner: int, why: str) -> None:
    """The primary has an entry for every flow, to go on with it, and does not see another node's session end. Of its
    own it knows better than a flag that anybody can send."""
    original, reply = nat("masquerade")
    entry(original, reply, state="ESTABLISHED")
    plane.add_flow(original, reply, owner, CLOSED)
    ran = plane.run("handoff", leaving(reply))
    assert ran.why == {why: 1}
    assert (plane.flow_count(), plane.owner(original)) == (1, OTHER if why == "HANDOFF_SENT" else SELF)


@pytest.mark.parametrize("state", ["TIME_WAIT", "CLOSE", "SYN_SENT"])
def test_one_that_ended_there_is_a_new_session(plane: Plane, state: str) -> None:
    original, reply = nat("masquerade")
    entry(original, reply, state=state)
    assert plane.run("handoff", leaving(reply)).why == {"HANDOFF_SENT": 1}


def test_no_session_begins_while_another_node_becomes_primary(plane: Plane) -> None:
    """The one that the stack already had when it began: the heir would not know of it. TCP sends the SYN again."""
    plane.configure(heir=OTHER)
    assert plane.run("steer", segment(nat("masquerade")[0], "S")).why == {"STEER_HANDING_OVER": 1}
    ran = hand_off(plane)
    assert (ran.verdict, ran.why) == (TC_SHOT, {"HANDOFF_HANDING_OVER": 1})
    assert plane.flow_count() == 0
    plane.configure()
    assert plane.run("handoff", leaving(nat("masquerade")[1])).why == {"HANDOFF_SENT": 1}


def test_half_open_flows_keep_to_their_share(plane: Plane) -> None:
    plane.configure(half_open_limit=2)
    assert [hand_off(plane, port=port).why for port in (1, 2, 3)] == [
        {"HANDOFF_SENT": 1},
        {"HANDOFF_SENT": 1},
        {"HANDOFF_HALF_OPEN": 1},
    ]
    assert plane.flow_count() == 2
    assert plane.run("handoff", leaving(nat("masquerade", 2)[1])).why == {"HANDOFF_AGAIN": 1}
    assert plane.run("handoff", leaving(nat("masquerade", 3)[1])).why == {"HANDOFF_HALF_OPEN": 1}


def test_a_session_that_stays_after_all_counts_for_this_node(plane: Plane) -> None:
    original, reply = nat("masquerade")
    entry(original, reply)
    plane.add_flow(original, reply, 9, SYN_SENT)
    assert decisions.read_live(plane.maps) == {9: 1}
    plane.run("handoff", leaving(reply))
    assert decisions.read_live(plane.maps) == {SELF: 1}
