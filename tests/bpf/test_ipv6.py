# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv6 that is not plain: extension headers, pieces, ICMPv6 errors, frames cut short."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
)
from scapy.packet import Packet

from aa_cluster.dataplane.flows import ESTABLISHED
from tests.bpf.families import (
    EXTENSIONS,
    Kind,
    carried,
    echo,
    error,
    extended,
    inward,
    pieces,
    session,
)
from tests.bpf.harness import (
    OTHER,
    PHYSICAL,
    TC_OK,
    TC_SHOT,
    VIRTUAL,
    XDP_PASS,
    XDP_TX,
    Plane,
    entry,
    handed,
    reversed_tuple,
    sealed,
    segment,
)

pytestmark = pytest.mark.bpf


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
