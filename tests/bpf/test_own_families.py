# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions an auxiliary begins itself over IPv6: announced, admitted, refused (test_announce, test_admit)."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from aa_cluster.netlink import conntrack
from aa_cluster.wire import announcement as wire
from aa_cluster.wire.block import FlowTuple
from tests.bpf.announcements import NEXT_HOP, announced, plain, right, with_block
from tests.bpf.families import PUBLIC, SERVER
from tests.bpf.harness import (
    KEY,
    OTHER,
    PHYSICAL,
    SELF,
    TC_OK,
    TC_REDIRECT,
    VIRTUAL,
    Plane,
    entry,
    reversed_tuple,
    tuple_of,
)

pytestmark = pytest.mark.bpf

OWN = 0
PROTOCOLS = pytest.mark.parametrize("protocol", [6, 17], ids=["TCP", "UDP"])
PAYLOADS = pytest.mark.parametrize("payload", [b"", b"odd", b"even"], ids=["empty", "odd", "even"])


def session(protocol: int) -> tuple[FlowTuple, FlowTuple]:
    """(as its socket has it, as it is on the wire)"""
    return (
        tuple_of(PUBLIC[6], 40000, SERVER[6], 53, protocol),
        tuple_of(PUBLIC[6], 50000, SERVER[6], 53, protocol),
    )


def sequence(protocol: int) -> int:
    return 1000 if protocol == 6 else 0


@PROTOCOLS
@PAYLOADS
def test_announced(plane: Plane, protocol: int, payload: bytes) -> None:
    own, wired = session(protocol)
    entry(own, reversed_tuple(wired), mark=9)
    ran = plane.run("announce", plain(wired, "S", payload), OWN)
    assert (ran.verdict, ran.why) == (TC_OK, {"ANNOUNCE_FLOW": 1})
    frame = Ether(ran.raw)
    assert (frame.dst, frame.src, frame.type) == (VIRTUAL, PHYSICAL, wire.ETHERTYPE)
    assert right(ran.raw)
    block = wire.decode(ran.raw[-80:], KEY, wired, sequence(protocol))
    assert (block.session, block.node, block.connmark, block.next_hop.hex(":")) == (own, SELF, 9, NEXT_HOP)


@PROTOCOLS
@PAYLOADS
def test_admitted(plane: Plane, protocol: int, payload: bytes) -> None:
    own, wired = session(protocol)
    ran = plane.run("admit", with_block(wired, announced(own), "S", payload))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"ADMIT_NEW": 1})
    expected = plain(wired, "S", payload)
    expected[Ether].src = VIRTUAL
    assert ran.raw == bytes(expected)
    assert plane.owner(reversed_tuple(wired)) == OTHER
    (held,) = conntrack.dump(6)
    assert (held.original.source, held.original.source_port) == (PUBLIC[6], 50000)


@PROTOCOLS
def test_refused_and_given_another_port(plane: Plane, protocol: int) -> None:
    own, wired = session(protocol)
    entry(tuple_of("fd77:1::100", 7, SERVER[6], 53, protocol), reversed_tuple(wired), state="ESTABLISHED")
    ran = plane.run("admit", with_block(wired, announced(own), "S", b"odd"))
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"ADMIT_CLASH": 1})
    assert right(ran.raw)
    plane.reset()
    entry(own, reversed_tuple(wired))
    back = with_block(wired, announced(own, kind=wire.KIND_REFUSED, node=SELF), "S", b"odd")
    back[Ether].src, back[Ether].dst = VIRTUAL, PHYSICAL
    ran = plane.run("adopt", back)
    assert ran.why == {"ADOPT_REFUSED" if protocol == 6 else "ADOPT_ANOTHER_PORT": 1}
    (now,) = conntrack.dump(6)
    assert now.original.source_port == 40000
    assert now.reply.destination_port != 50000
    if protocol == 17:
        again = tuple_of(PUBLIC[6], now.reply.destination_port, SERVER[6], 53, protocol)
        assert wire.decode(ran.raw[-80:], KEY, again).session == own
        assert right(ran.raw)
        assert ran.raw[14 + len(IPv6()) + 8 : -80] == b"odd"
