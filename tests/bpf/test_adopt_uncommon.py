# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard and adopt, all that is not a plain segment. The kernel takes a frame's outer VLAN tag off before
TC sees it, so one tag in a frame here is the inner one of two."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Dot1AD, Dot1Q
from scapy.packet import Packet, Raw

from aa_cluster.netlink import conntrack
from aa_cluster.wire.block import FlowTuple
from tests.bpf.harness import (
    CLIENT,
    PHYSICAL,
    PUBLIC,
    SERVER,
    TC_OK,
    TC_SHOT,
    VIRTUAL,
    Plane,
    Ran,
    checksums_right,
    entry,
    reversed_tuple,
    sealed,
    segment,
    tuple_of,
)
from tests.bpf.packets import ERRORS, OPTIONS, OTHER_ICMP, WRITTEN, carried, error, frame, pieces, steered, with_options
from tests.bpf.test_steer_uncommon import KINDS, UNTOLD

pytestmark = pytest.mark.bpf

ORIGINAL, REPLY = KINDS["masquerade"]
TRANSLATED = reversed_tuple(REPLY)
INNER = pytest.mark.parametrize("tags", [(), (Dot1Q(vlan=5),), (Dot1AD(vlan=5),)], ids=["no tag", "802.1Q", "802.1ad"])


def let_in(ran: Ran, packet: Packet | bytes, why: str) -> None:
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {why: 1}, bytes(packet))


def refused(ran: Ran, why: str) -> None:
    assert (ran.verdict, ran.why) == (TC_SHOT, {why: 1})


def adopted(kind: str = "masquerade") -> tuple[FlowTuple, FlowTuple]:
    flow = KINDS[kind]
    entry(*flow, state="ESTABLISHED")
    return flow


# -- ICMP errors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [0, 1], ids=["about the reply", "about the original"])
@pytest.mark.parametrize(("icmp", "code"), ERRORS)
def test_an_error_about_an_adopted_connection(plane: Plane, kind: str, side: int, icmp: int, code: int) -> None:
    flow = adopted(kind)
    packet = steered(error(carried(reversed_tuple(flow[side])), icmp, code))
    let_in(plane.run("adopt", packet), packet, "GUARD_ICMP")


@pytest.mark.parametrize("icmp", OTHER_ICMP)
def test_other_icmp_is_refused(plane: Plane, icmp: int) -> None:
    adopted()
    refused(plane.run("adopt", steered(error(carried(TRANSLATED), icmp, 0))), "GUARD_NOT_TCP")


@pytest.mark.parametrize("inner", [0, 4, 40])
@pytest.mark.parametrize("outer", [0, 4, 40])
@INNER
def test_options_in_either_header(plane: Plane, inner: int, outer: int, tags: tuple[Packet, ...]) -> None:
    adopted()
    about = carried(TRANSLATED, options=b"\x01" * inner)
    packet = steered(error(about, options=b"\x01" * outer), tags)
    let_in(plane.run("adopt", packet), packet, "GUARD_ICMP")


@pytest.mark.parametrize("name", UNTOLD)
def test_an_error_about_nothing_adopted(plane: Plane, name: str) -> None:
    entry(ORIGINAL, REPLY, state="ESTABLISHED")
    refused(plane.run("adopt", steered(error(UNTOLD[name]))), "GUARD_ICMP_NO_ENTRY")


@pytest.mark.parametrize("keep", range(28))
def test_an_error_cut_short(plane: Plane, keep: int) -> None:
    adopted()
    packet = steered(error(carried(TRANSLATED)[:keep]))
    ran = plane.run("adopt", packet)
    if keep >= 24:
        let_in(ran, packet, "GUARD_ICMP")
    else:
        refused(ran, "GUARD_ICMP_NO_ENTRY")


def test_a_long_error_is_read_where_it_matters(plane: Plane) -> None:
    adopted()
    packet = steered(error(carried(TRANSLATED, keep=20) + b"q" * 1300))
    let_in(plane.run("adopt", packet), packet, "GUARD_ICMP")


def test_about_udp(plane: Plane) -> None:
    """The protocol inside is asked for: a TCP entry does not answer for UDP."""
    adopted()
    refused(plane.run("adopt", steered(error(carried(TRANSLATED, 17)))), "GUARD_ICMP_NO_ENTRY")


def test_a_fragment_of_an_error(plane: Plane) -> None:
    adopted()
    inner = IP(src=SERVER, dst=PUBLIC, flags="MF") / ICMP(type=3, code=4) / Raw(carried(TRANSLATED))
    refused(plane.run("adopt", frame(inner, (), PHYSICAL, VIRTUAL)), "GUARD_NOT_TCP")


def test_not_from_the_primary(plane: Plane) -> None:
    adopted()
    refused(plane.run("adopt", frame(error(carried(TRANSLATED))[IP], (), PHYSICAL)), "GUARD_STRANGER")


# -- tags


@INNER
@pytest.mark.parametrize("which", [ORIGINAL, REPLY], ids=["client to server", "server to client"])
def test_a_segment_inside_a_second_tag(plane: Plane, tags: tuple[Packet, ...], which: FlowTuple) -> None:
    adopted()
    packet = steered(segment(which, "PA", b"data"), tags)
    let_in(plane.run("adopt", packet), packet, "GUARD_PASS")


def test_tagged_and_refused(plane: Plane) -> None:
    block = sealed(ORIGINAL, TRANSLATED)
    tag = (Dot1Q(vlan=5),)
    refused(plane.run("adopt", steered(segment(ORIGINAL, "A"), tag)), "GUARD_NO_ENTRY")
    refused(plane.run("adopt", steered(segment(ORIGINAL, "S", block), tag)), "GUARD_NO_BLOCK")
    refused(plane.run("adopt", steered(segment(ORIGINAL, "A"), tag * 2)), "GUARD_NOT_IPV4")
    refused(plane.run("adopt", bytes(steered(segment(ORIGINAL, "A"), tag))[:16]), "GUARD_MALFORMED")
    assert conntrack.dump() == []


# -- options


@pytest.mark.parametrize("options", [*OPTIONS.values(), *WRITTEN.values()], ids=[*OPTIONS, *WRITTEN])
def test_a_segment_with_options(plane: Plane, options: bytes) -> None:
    adopted()
    packet = steered(with_options(ORIGINAL, "A", options, b"data"))
    let_in(plane.run("adopt", packet), packet, "GUARD_PASS")


@pytest.mark.parametrize("size", range(4, 44, 4))
@pytest.mark.parametrize("payload", [b"", b"odd", b"z" * 1200], ids=["empty", "odd", "long"])
def test_a_block_behind_options(plane: Plane, size: int, payload: bytes) -> None:
    options = b"\x01" * (size - 4) + b"\x94\x04\0\0"
    packet = steered(with_options(ORIGINAL, "S", options, payload + sealed(ORIGINAL, TRANSLATED)))
    ran = plane.run("adopt", packet)
    assert (ran.verdict, ran.why, ran.mark) == (TC_OK, {"ADOPT_NEW": 1}, 0x42)
    assert ran.raw == bytes(steered(with_options(ORIGINAL, "S", options, payload)))
    assert checksums_right(ran.raw)
    (found,) = conntrack.dump()
    assert (found.reply.destination, found.reply.destination_port) == (PUBLIC, 50000)


def test_options_beyond_the_packet(plane: Plane) -> None:
    adopted()
    whole = bytes(steered(with_options(ORIGINAL, "A", b"\x01" * 40)))
    for length in range(35, 34 + 40 + 20):
        refused(plane.run("adopt", whole[:length]), "GUARD_MALFORMED")


def test_an_ip_length_that_ends_in_the_options(plane: Plane) -> None:
    packet = steered(with_options(ORIGINAL, "S", b"\x01" * 40, sealed(ORIGINAL, TRANSLATED)))
    packet[IP].len = 70
    refused(plane.run("adopt", packet), "GUARD_MALFORMED")


# -- fragments


@INNER
def test_the_pieces_of_an_adopted_connection(plane: Plane, tags: tuple[Packet, ...]) -> None:
    adopted()
    for piece in pieces(REPLY):
        packet = steered(piece, tags)
        let_in(plane.run("adopt", packet), packet, "GUARD_FRAGMENT")


def test_a_later_piece_may_overtake_the_first(plane: Plane) -> None:
    adopted()
    for piece in reversed(pieces(REPLY)):
        packet = steered(piece)
        let_in(plane.run("adopt", packet), packet, "GUARD_FRAGMENT")


def test_the_first_piece_of_nothing_adopted_stays_out(plane: Plane) -> None:
    refused(plane.run("adopt", steered(pieces(ORIGINAL)[0])), "GUARD_NO_ENTRY")


@pytest.mark.parametrize("size", [8, 16])
def test_a_first_piece_without_flags(plane: Plane, size: int) -> None:
    adopted()
    refused(plane.run("adopt", steered(pieces(ORIGINAL, (size, 64))[0])), "GUARD_MALFORMED")


def test_no_connection_begins_in_pieces(plane: Plane) -> None:
    adopted()
    refused(plane.run("adopt", steered(pieces(ORIGINAL, (40, 64), "S")[0])), "GUARD_NO_BLOCK")


def test_pieces_from_a_stranger(plane: Plane) -> None:
    adopted()
    for piece in pieces(ORIGINAL, (64, 64)):
        refused(plane.run("adopt", frame(piece[IP], (), PHYSICAL)), "GUARD_STRANGER")


def test_nothing_here_makes_an_entry(plane: Plane) -> None:
    plane.run("adopt", steered(error(carried(tuple_of(CLIENT, 1, SERVER, 2)))))
    plane.run("adopt", frame(IP(src=CLIENT, dst=SERVER, flags="MF") / TCP(flags="A"), (), PHYSICAL, VIRTUAL))
    assert conntrack.dump() == []
