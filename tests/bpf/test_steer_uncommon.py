# SPDX-License-Identifier: GPL-2.0-or-later
"""steer, all that is not a plain segment: ICMP errors, VLAN tags, IPv4 options, fragments."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q
from scapy.packet import Packet, Raw

from aa_cluster.dataplane.flows import CLOSED, CLOSING, ESTABLISHED, EXACT, SETTLED, SYN_SENT, TOUCHED
from aa_cluster.wire.block import FlowTuple
from tests.bpf.harness import (
    CLIENT,
    OTHER,
    PUBLIC,
    SELF,
    SERVER,
    THIRD,
    VIRTUAL,
    XDP_PASS,
    XDP_TX,
    Plane,
    Ran,
    mapped,
    node_mac,
    reversed_tuple,
    segment,
    tuple_of,
)
from tests.bpf.packets import ERRORS, OPTIONS, OTHER_ICMP, TAGS, WRITTEN, carried, error, frame, pieces, tagged
from tests.bpf.packets import with_options as optioned

pytestmark = pytest.mark.bpf

KINDS = {
    "no NAT": (tuple_of(CLIENT, 40000, SERVER, 80), tuple_of(SERVER, 80, CLIENT, 40000)),
    "masquerade": (tuple_of(CLIENT, 40000, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 50000)),
    "DNAT": (tuple_of(SERVER, 40000, PUBLIC, 8080), tuple_of(CLIENT, 80, SERVER, 40000)),
    "both": (tuple_of(CLIENT, 40000, "10.77.1.1", 8080), tuple_of(SERVER, 80, PUBLIC, 50001)),
}
ORIGINAL, REPLY = KINDS["masquerade"]
SIDES = pytest.mark.parametrize("side", [0, 1], ids=["about the reply", "about the original"])


def sent_on(ran: Ran, packet: Packet | bytes, why: str, owner: int = OTHER) -> None:
    """By MAC rewrite, to that owner, all else as it came."""
    assert (ran.verdict, ran.why) == (XDP_TX, {why: 1})
    assert (ran.packet.dst, ran.packet.src) == (node_mac(owner), VIRTUAL)
    assert ran.raw[12:] == bytes(packet)[12:]


def passed(ran: Ran, packet: Packet | bytes, why: str) -> None:
    assert (ran.verdict, ran.why, ran.raw) == (XDP_PASS, {why: 1}, bytes(packet))


def snapshot(plane: Plane) -> bytes:
    return plane.maps["buckets"].view().tobytes() + plane.maps["records"].view().tobytes()


# -- ICMP errors


@pytest.mark.parametrize("kind", KINDS)
@SIDES
@pytest.mark.parametrize(("icmp", "code"), ERRORS)
def test_an_error_goes_to_the_owner_of_what_it_is_about(
    plane: Plane, kind: str, side: int, icmp: int, code: int
) -> None:
    """The packet inside went the other way: it left as the inverse of a tuple that comes in."""
    flow = KINDS[kind]
    plane.add_flow(*flow, OTHER, ESTABLISHED)
    packet = error(carried(reversed_tuple(flow[side])), icmp, code)
    before = snapshot(plane)
    sent_on(plane.run("steer", packet), packet, "STEER_ICMP")
    assert snapshot(plane) == before, "nothing is touched"


@pytest.mark.parametrize("icmp", OTHER_ICMP)
def test_other_icmp_is_the_stacks(plane: Plane, icmp: int) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = error(carried(reversed_tuple(REPLY)), icmp, 0)
    passed(plane.run("steer", packet), packet, "STEER_NOT_TCP")


@pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED, CLOSING, CLOSED])
def test_in_every_state_of_the_flow(plane: Plane, state: int) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, state)
    packet = error(carried(reversed_tuple(REPLY)))
    before = snapshot(plane)
    sent_on(plane.run("steer", packet), packet, "STEER_ICMP")
    assert snapshot(plane) == before


@pytest.mark.parametrize("inner", [0, 4, 20, 40])
@pytest.mark.parametrize("outer", [0, 4, 40])
@pytest.mark.parametrize("tags", [(), *TAGS.values()], ids=["untagged", *TAGS])
def test_options_in_either_header_and_tags(plane: Plane, inner: int, outer: int, tags: tuple[Packet, ...]) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    about = carried(reversed_tuple(REPLY), options=b"\x01" * inner)
    packet = error(about, options=b"\x01" * outer, tags=tags)
    sent_on(plane.run("steer", packet), packet, "STEER_ICMP")


@pytest.mark.parametrize("protocol", [6, 17])
def test_the_protocol_inside_is_part_of_the_tuple(plane: Plane, protocol: int) -> None:
    original, reply = replace(ORIGINAL, protocol=protocol), replace(REPLY, protocol=protocol)
    plane.add_flow(original, reply, OTHER, ESTABLISHED)
    right = error(carried(reversed_tuple(reply), protocol))
    wrong = error(carried(reversed_tuple(reply), 23 - protocol))
    sent_on(plane.run("steer", right), right, "STEER_ICMP")
    passed(plane.run("steer", wrong), wrong, "STEER_ICMP_MISS")


def test_about_a_first_fragment(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = error(carried(reversed_tuple(REPLY), flags="MF"))
    sent_on(plane.run("steer", packet), packet, "STEER_ICMP")


WHOLE = carried(reversed_tuple(REPLY), keep=20)
UNTOLD = {
    "a flow nobody knows": carried(tuple_of(PUBLIC, 50001, SERVER, 80)),
    "the tuple not inverted": carried(REPLY),
    "a later fragment": carried(reversed_tuple(REPLY), frag=20),
    "GRE": carried(reversed_tuple(REPLY))[:9] + b"\x2f" + carried(reversed_tuple(REPLY))[10:],
    "another version": b"\x65" + WHOLE[1:],
    "a header of 16 bytes": b"\x44" + WHOLE[1:],
    "options up to the end": b"\x4a" + WHOLE[1:],
    "options beyond the end": b"\x4f" + WHOLE[1:],
}


@pytest.mark.parametrize("name", UNTOLD)
def test_an_error_about_nothing_known_is_the_stacks(plane: Plane, name: str) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = error(UNTOLD[name])
    passed(plane.run("steer", packet), packet, "STEER_ICMP_MISS")


@pytest.mark.parametrize("keep", range(29))
def test_an_error_cut_short(plane: Plane, keep: int) -> None:
    """Four bytes of ports are enough, however little there is."""
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = error(carried(reversed_tuple(REPLY))[:keep])
    ran = plane.run("steer", packet)
    if keep >= 24:
        sent_on(ran, packet, "STEER_ICMP")
    else:
        passed(ran, packet, "STEER_ICMP_MISS")


def test_cut_inside_its_own_header(plane: Plane) -> None:
    raw = bytes(error(b""))[:-1]
    passed(plane.run("steer", raw), raw, "STEER_ICMP_MISS")


def test_a_fragment_of_an_error_is_the_stacks(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = frame(IP(src=SERVER, dst=PUBLIC, flags="MF") / ICMP(type=3, code=4) / Raw(carried(reversed_tuple(REPLY))))
    passed(plane.run("steer", packet), packet, "STEER_NOT_TCP")


def test_about_a_flow_of_this_node(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, SELF, ESTABLISHED)
    packet = error(carried(reversed_tuple(REPLY)))
    passed(plane.run("steer", packet), packet, "STEER_ICMP_LOCAL")


def test_about_a_flow_whose_owner_left(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, 9, ESTABLISHED)
    packet = error(carried(reversed_tuple(REPLY)))
    passed(plane.run("steer", packet), packet, "STEER_NO_OWNER")


def test_the_whole_tuple_is_compared(plane: Plane) -> None:
    """A shared fingerprint, even of a settled flow, leads no error astray; and an error marks nothing exact."""
    index = plane.add_flow(tuple_of("10.77.1.7", 7, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 7), OTHER, ESTABLISHED)
    plane.put_entry(REPLY, index, OTHER, SETTLED)
    packet = error(carried(reversed_tuple(REPLY)))
    passed(plane.run("steer", packet), packet, "STEER_ICMP_MISS")
    assert not plane.word(REPLY) & EXACT


# -- VLAN tags


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("which", [ORIGINAL, REPLY], ids=["client to server", "server to client"])
def test_a_tagged_segment_is_steered_inside_its_tags(plane: Plane, tags: tuple[Packet, ...], which: FlowTuple) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = tagged(segment(which, "PA", b"data"), tags)
    sent_on(plane.run("steer", packet), packet, "STEER_TAGGED")
    assert plane.word(which) & TOUCHED


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_flags_inside_a_tag_are_followed(plane: Plane, tags: tuple[Packet, ...]) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    assert plane.run("steer", tagged(segment(REPLY, "R"), tags)).verdict == XDP_TX
    record = plane.flow(ORIGINAL)
    assert record is not None
    assert int(record["state"]) == CLOSED


PASSED_TAGGED = {
    "a SYN": (segment(ORIGINAL, "S"), "STEER_SYN"),
    "an unknown flow": (segment(tuple_of(CLIENT, 1, SERVER, 80), "A"), "STEER_MISS"),
    "UDP": (frame(IP(src=CLIENT, dst=SERVER) / UDP()), "STEER_MISS"),
    "IPv6 of no flow": (frame(IPv6() / TCP(flags="A")), "STEER_MISS"),
}


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("name", PASSED_TAGGED)
def test_what_a_tag_does_not_change(plane: Plane, tags: tuple[Packet, ...], name: str) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    plain, why = PASSED_TAGGED[name]
    packet = tagged(plain, tags)
    passed(plane.run("steer", packet), packet, why)


def test_a_tagged_segment_of_this_nodes_flow(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, SELF, ESTABLISHED)
    packet = tagged(segment(ORIGINAL, "A"), TAGS["802.1Q"])
    passed(plane.run("steer", packet), packet, "STEER_LOCAL")


def test_three_tags_are_the_stacks(plane: Plane) -> None:
    packet = tagged(segment(ORIGINAL, "A"), (Dot1AD(vlan=1), Dot1Q(vlan=2), Dot1Q(vlan=3)))
    passed(plane.run("steer", packet), packet, "STEER_NOT_IPV4")


@pytest.mark.parametrize("length", [*range(15, 18), *range(18, 22), 30, 37, 41, 50, 61])
def test_a_tagged_frame_cut_short(plane: Plane, length: int) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    raw = bytes(tagged(segment(ORIGINAL, "A"), TAGS["802.1ad over 802.1Q"]))[:length]
    passed(plane.run("steer", raw), raw, "STEER_MALFORMED")


# -- options


@pytest.mark.parametrize("options", [*OPTIONS.values(), *WRITTEN.values()], ids=[*OPTIONS, *WRITTEN])
@pytest.mark.parametrize("tags", [(), TAGS["802.1Q"], TAGS["802.1Q twice"]], ids=["untagged", "one tag", "two"])
def test_options_change_nothing_about_the_owner(plane: Plane, options: bytes, tags: tuple[Packet, ...]) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = tagged(optioned(ORIGINAL, "A", options, b"data"), tags)
    sent_on(plane.run("steer", packet), packet, "STEER_OPTIONS_TX")


@pytest.mark.parametrize("size", range(4, 44, 4))
@pytest.mark.parametrize("flags", ["S", "R", "A"])
def test_every_size_of_options(plane: Plane, size: int, flags: str) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    packet = optioned(ORIGINAL, flags, b"\x01" * size)
    ran = plane.run("steer", packet)
    if flags == "S":
        passed(ran, packet, "STEER_SYN")
    else:
        sent_on(ran, packet, "STEER_OPTIONS_TX")
    record = plane.flow(ORIGINAL)
    assert record is not None
    assert int(record["state"]) == (CLOSED if flags == "R" else ESTABLISHED)


@pytest.mark.parametrize("size", [4, 40])
def test_cut_inside_options_or_behind(plane: Plane, size: int) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    whole = bytes(optioned(ORIGINAL, "A", b"\x01" * size))
    for length in range(35, 34 + size + 20):
        passed(plane.run("steer", whole[:length]), whole[:length], "STEER_MALFORMED")


# -- fragments


def remembered(plane: Plane) -> int:
    return len(plane.maps["fragments"].read()[0])


@pytest.mark.parametrize("which", [ORIGINAL, REPLY], ids=["client to server", "server to client"])
@pytest.mark.parametrize("tags", [(), *TAGS.values()], ids=["untagged", *TAGS])
def test_all_pieces_go_to_the_owner(plane: Plane, which: FlowTuple, tags: tuple[Packet, ...]) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, *later = (tagged(piece, tags) for piece in pieces(which))
    sent_on(plane.run("steer", first), first, "STEER_FRAGMENT_FIRST")
    for piece in [*later, *reversed(later)]:
        sent_on(plane.run("steer", piece), piece, "STEER_FRAGMENT_LATER")
    assert remembered(plane) == 1


@pytest.mark.parametrize("size", range(8, 48, 8))
@pytest.mark.parametrize("flags", ["A", "FA", "R", "S"])
def test_a_first_piece_as_small_as_may_be(plane: Plane, size: int, flags: str) -> None:
    """With the flags in it, it is followed like any segment. Without, a SYN could hide: the stack puts it together."""
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, later = pieces(ORIGINAL, (size, 64), flags)
    record = plane.flow(ORIGINAL)
    assert record is not None
    if size < 20 or flags == "S":
        passed(plane.run("steer", first), first, "STEER_MALFORMED" if size < 20 else "STEER_SYN")
        passed(plane.run("steer", later), later, "STEER_FRAGMENT")
        assert int(record["state"]) == ESTABLISHED
        return
    sent_on(plane.run("steer", first), first, "STEER_FRAGMENT_FIRST")
    sent_on(plane.run("steer", later), later, "STEER_FRAGMENT_LATER")
    assert int(record["state"]) == {"FA": CLOSING, "R": CLOSED}.get(flags, ESTABLISHED)


@pytest.mark.parametrize("length", [35, 37, 41, 42, 53])
def test_a_first_piece_cut_short(plane: Plane, length: int) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    raw = bytes(pieces(ORIGINAL)[0])[:length]
    passed(plane.run("steer", raw), raw, "STEER_MALFORMED")


def test_this_nodes_own(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, SELF, ESTABLISHED)
    for piece in pieces(ORIGINAL):
        passed(plane.run("steer", piece), piece, "STEER_FRAGMENT_LOCAL")


def test_of_no_known_flow(plane: Plane) -> None:
    first, *later = pieces(ORIGINAL)
    passed(plane.run("steer", first), first, "STEER_MISS")
    assert remembered(plane) == 0, "what nobody steers takes no place"
    for piece in later:
        passed(plane.run("steer", piece), piece, "STEER_FRAGMENT")


def test_out_of_order_they_all_meet_in_the_stack(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, second, third = pieces(ORIGINAL)
    passed(plane.run("steer", third), third, "STEER_FRAGMENT")
    passed(plane.run("steer", first), first, "STEER_FRAGMENT_EARLY")
    passed(plane.run("steer", second), second, "STEER_FRAGMENT")


def test_out_of_order_among_the_later_ones(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, second, third = pieces(ORIGINAL)
    sent_on(plane.run("steer", first), first, "STEER_FRAGMENT_FIRST")
    sent_on(plane.run("steer", third), third, "STEER_FRAGMENT_LATER")
    sent_on(plane.run("steer", second), second, "STEER_FRAGMENT_LATER")


@pytest.mark.parametrize("fate", ["this node's", "nobody's", "a SYN", "another's fingerprint", "cut short"])
def test_an_identification_used_again_follows_its_own_first(plane: Plane, fate: str) -> None:
    """Two flows between the same hosts: what the first packet left behind must not lead the second astray."""
    other_original, other_reply = tuple_of(CLIENT, 40001, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 50001)
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, later = pieces(ORIGINAL, (64, 64))
    sent_on(plane.run("steer", first), first, "STEER_FRAGMENT_FIRST")
    again, behind = pieces(other_original, (64, 64), {"a SYN": "S", "another's fingerprint": "R"}.get(fate, "A"))
    raw = bytes(again)
    if fate == "this node's":
        plane.add_flow(other_original, other_reply, SELF, ESTABLISHED)
        passed(plane.run("steer", raw), raw, "STEER_FRAGMENT_LOCAL")
        passed(plane.run("steer", behind), behind, "STEER_FRAGMENT_LOCAL")
        return
    why = "STEER_MISS"
    if fate == "a SYN":
        plane.add_flow(other_original, other_reply, THIRD, ESTABLISHED)
        why = "STEER_SYN"
    elif fate == "another's fingerprint":
        index = plane.add_flow(
            tuple_of("10.77.1.7", 7, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 7), THIRD, ESTABLISHED
        )
        plane.put_entry(other_original, index, THIRD, SETTLED)
        why = "STEER_COLLISION"
    elif fate == "cut short":
        raw, why = raw[:37], "STEER_MALFORMED"
    passed(plane.run("steer", raw), raw, why)
    passed(plane.run("steer", behind), behind, "STEER_FRAGMENT")
    assert bytes(later) == bytes(behind)


def test_two_flows_with_one_identification_in_turn(plane: Plane) -> None:
    flows = [
        (tuple_of(CLIENT, port, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, port), owner)
        for port, owner in ((1, OTHER), (2, THIRD))
    ]
    for original, reply, owner in flows:
        plane.add_flow(original, reply, owner, ESTABLISHED)
    for original, _, owner in flows * 2:
        first, later = pieces(original, (64, 64))
        sent_on(plane.run("steer", first), first, "STEER_FRAGMENT_FIRST", owner)
        sent_on(plane.run("steer", later), later, "STEER_FRAGMENT_LATER", owner)


@pytest.mark.parametrize("changed", ["source", "destination", "ident", "protocol"])
def test_another_packets_later_piece(plane: Plane, changed: str) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, later = pieces(ORIGINAL, (64, 64))
    plane.run("steer", first)
    field, value = {
        "source": ("src", PUBLIC),
        "destination": ("dst", PUBLIC),
        "ident": ("id", 9),
        "protocol": ("proto", 17),
    }[changed]
    setattr(later[IP], field, value)
    passed(plane.run("steer", later), later, "STEER_FRAGMENT")


def test_what_is_remembered_ends_after_seconds(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, later = pieces(ORIGINAL, (64, 64))
    plane.run("steer", first)
    age(plane, 1.8)
    sent_on(plane.run("steer", later), later, "STEER_FRAGMENT_LATER")
    age(plane, 2.1)
    passed(plane.run("steer", later), later, "STEER_FRAGMENT")
    age(plane, 0.3)
    sent_on(plane.run("steer", first), first, "STEER_FRAGMENT_FIRST")


def age(plane: Plane, seconds: float) -> None:
    """What is remembered was written so long ago."""
    keys, values = plane.maps["fragments"].read()
    for key, value in zip(keys, values.copy(), strict=True):
        value["seen_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(seconds * 1e9)
        plane.maps["fragments"].put(key.tobytes(), value)


def test_what_is_remembered(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    plane.run("steer", pieces(ORIGINAL)[0])
    keys, values = plane.maps["fragments"].read()
    assert (bytes(keys[0]["saddr"]), bytes(keys[0]["daddr"])) == (mapped(CLIENT), mapped(SERVER))
    assert (int(keys[0]["id"]), int(keys[0]["protocol"]), int(keys[0]["family"])) == (
        4711 >> 8 | (4711 & 255) << 8,
        6,
        4,
    )
    assert (int(values[0]["owner"]), int(values[0]["early"])) == (OTHER, 0)


def test_a_taken_over_owners_pieces(plane: Plane) -> None:
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    first, later = pieces(ORIGINAL, (64, 64))
    plane.run("steer", first)
    plane.nodes(n1=1, n2=1)
    passed(plane.run("steer", later), later, "STEER_FRAGMENT_LOCAL")


def test_any_order_of_any_pieces_ends_in_one_place(plane: Plane) -> None:
    """Whatever comes first, the pieces of a packet all go to the same node: so somebody can put it together."""
    dice = random.Random(4)
    plane.add_flow(ORIGINAL, REPLY, OTHER, ESTABLISHED)
    for ident in range(200):
        parts = pieces(ORIGINAL, (*(8 * dice.randint(3, 40) for _ in range(dice.randint(2, 6))), 30), ident=ident + 1)
        dice.shuffle(parts)
        verdicts = {plane.run("steer", part).verdict for part in parts}
        assert len(verdicts) == 1
