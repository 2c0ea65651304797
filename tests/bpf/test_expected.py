# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions that a helper of another node expects: where their SYN goes before, while and after they run."""

from __future__ import annotations

import struct
import time

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from aa_cluster.dataplane.flows import CLOSED, CLOSING, ESTABLISHED, SYN_SENT
from aa_cluster.netlink import conntrack, ct_create
from aa_cluster.wire import announcement as wire
from aa_cluster.wire import block
from aa_cluster.wire.block import FlowTuple
from tests.bpf.announcements import announced, with_block
from tests.bpf.harness import (
    CLIENT,
    OTHER,
    PUBLIC,
    SERVER,
    TC_OK,
    TC_SHOT,
    THIRD,
    XDP_PASS,
    XDP_TX,
    Plane,
    entry,
    handed,
    node_mac,
    reversed_tuple,
    sealed,
    segment,
    tuple_of,
)
from tests.bpf.test_helper import AFTER, ORIGINAL, SHARE, expect_soon, kernel_tuple
from tests.bpf.test_helper import entry as helped

pytestmark = pytest.mark.bpf

CONTROL = tuple_of(PUBLIC, 50000, SERVER, 21)
DATA = tuple_of(SERVER, 20, PUBLIC, 40001)
LEAVING = tuple_of(SERVER, 20, CLIENT, 40001)


@pytest.fixture
def plane(plane: Plane) -> Plane:
    plane.configure(features=SHARE)
    return plane


def expect(plane: Plane, node: int = OTHER) -> None:
    """Told with a packet of the control session; the source port is anything."""
    told = announced(tuple_of(SERVER, 0, PUBLIC, DATA.destination_port), kind=wire.KIND_EXPECT, flags=0, node=node)
    frame = with_block(CONTROL, told, "PA", b"PORT 10,77,2,1,156,65\r\n")
    frame[Ether].src = node_mac(node)
    assert plane.run("admit", frame).why == {"ADMIT_EXPECTED": 1}


def begin(plane: Plane) -> None:
    """Its SYN has been to the node, and leaves by way of the primary."""
    assert plane.run("admit", with_block(LEAVING, announced(DATA, flags=0))).why == {"ADMIT_NEW": 1}


def syn(plane: Plane, node: int = OTHER) -> tuple[int, dict[str, int]]:
    ran = plane.run("steer", segment(DATA, "S"))
    if ran.verdict == XDP_TX:
        assert ran.packet.dst == node_mac(node)
    return ran.verdict, ran.why


def expect_here(plane: Plane, original: FlowTuple) -> None:
    """As `announce` does it on the node whose helper it is."""
    addresses = block.pack_address(original.source) + block.pack_address(original.destination)
    key = addresses + struct.pack("!HBB", original.destination_port, original.protocol, original.family)
    until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 1_000_000_000
    plane.maps["expecting"].put(key, struct.pack("=Q", until))


TO_NODE, TO_STACK = (XDP_TX, {"STEER_EXPECTED": 1}), (XDP_PASS, {"STEER_SYN": 1})


def test_before_it_begins(plane: Plane) -> None:
    assert syn(plane) == TO_STACK
    expect(plane)
    assert syn(plane) == TO_NODE
    assert syn(plane) == TO_NODE, "repeated before the node has answered"


@pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED])
def test_a_repeated_syn_goes_where_the_session_is(plane: Plane, state: int) -> None:
    expect(plane)
    begin(plane)
    flow = plane.flow(DATA)
    assert flow is not None
    flow["state"] = state
    assert syn(plane) == TO_NODE


@pytest.mark.parametrize("state", [CLOSING, CLOSED])
def test_what_was_expected_once_is_not_expected_again(plane: Plane, state: int) -> None:
    expect(plane)
    begin(plane)
    flow = plane.flow(DATA)
    assert flow is not None
    flow["state"] = state
    assert conntrack.find(kernel_tuple(DATA)) is not None
    assert syn(plane) == TO_STACK
    assert conntrack.find(kernel_tuple(DATA)) is None, "so that netfilter sees what a helper of this node expects"
    expect(plane)
    assert syn(plane) == TO_NODE, "unless it is told anew"


def test_however_many_others_were_expected_since(plane: Plane) -> None:
    """What is expected is forgotten with time, or when there is too much of it; what a session is, is not."""
    expect(plane)
    begin(plane)
    flow = plane.flow(DATA)
    assert flow is not None
    expected = plane.maps["expected"]
    expected.delete_all(expected.read()[0])
    assert syn(plane) == TO_NODE, "repeated"
    flow["state"] = CLOSED
    assert syn(plane) == TO_STACK
    assert conntrack.find(kernel_tuple(DATA)) is None


def test_another_node_expects_that_tuple_next(plane: Plane) -> None:
    expect(plane)
    begin(plane)
    flow = plane.flow(DATA)
    assert flow is not None
    flow["state"] = CLOSED
    expect(plane, THIRD)
    assert syn(plane, THIRD) == TO_NODE
    assert len(plane.maps["expected"].read()[0]) == 1


def test_a_session_that_is_refused_is_still_expected(plane: Plane) -> None:
    """Its tuple is another's: its node lets the entry go, and the SYN comes again."""
    expect(plane)
    entry(DATA, reversed_tuple(LEAVING), state="ESTABLISHED")
    assert plane.run("admit", with_block(LEAVING, announced(DATA, flags=0))).why == {"ADMIT_CLASH": 1}
    assert syn(plane) == TO_NODE


def test_the_primarys_own_flow_keeps_its_entry(plane: Plane) -> None:
    expect(plane)
    begin(plane)
    plane.nodes(n1=1, n2=1)  # taken over since
    flow = plane.flow(DATA)
    assert flow is not None
    flow["state"] = CLOSED
    assert syn(plane) == TO_STACK
    assert conntrack.find(kernel_tuple(DATA)) is not None


def test_the_next_one_of_that_tuple_has_other_answers(plane: Plane) -> None:
    """The same port of another client, on another node: its translation is the same, the session inside is not."""
    expect(plane)
    begin(plane)
    other = tuple_of(SERVER, 20, "10.77.1.101", 40001)
    frame = with_block(other, announced(DATA, flags=0, node=THIRD))
    frame[Ether].src = node_mac(THIRD)
    assert plane.run("admit", frame).why == {"ADMIT_FULL": 1}, "while the first lives"
    flow = plane.flow(DATA)
    assert flow is not None
    flow["state"] = CLOSED
    assert plane.run("admit", frame).why == {"ADMIT_NEW": 1}
    assert (plane.owner(DATA), plane.owner(reversed_tuple(other)), plane.owner(reversed_tuple(LEAVING))) == (3, 3, 0)


@pytest.mark.parametrize("payload", [b"", b"x" * 200], ids=["short", "longer than a block"])
def test_the_node_lets_it_in_without_a_block_only(plane: Plane, payload: bytes) -> None:
    original = tuple_of(CLIENT, 33000, SERVER, 40001)
    without = handed(original, b"", payload)
    assert plane.run("adopt", without).verdict == TC_SHOT
    told = announced(tuple_of(CLIENT, 0, SERVER, 40001), kind=wire.KIND_EXPECT, flags=0)
    assert plane.run("admit", with_block(CONTROL, told, "PA", b"PASV\r\n")).why == {"ADMIT_EXPECTED": 1}
    assert plane.run("adopt", without).verdict == TC_SHOT, "what the primary knows of all nodes' is another thing"
    expect_here(plane, original)
    ran = plane.run("adopt", without)
    assert (ran.verdict, ran.why) == (TC_OK, {"GUARD_EXPECTED": 1})
    ran = plane.run("adopt", handed(original, sealed(original), payload))
    assert (ran.verdict, ran.why) == (TC_OK, {"ADOPT_NEW": 1})
    assert bytes(ran.packet[TCP].payload) == payload, "the block is taken off"


@pytest.mark.parametrize("helper", ["ftp", "irc"])
@pytest.mark.parametrize("way", [reversed_tuple(ORIGINAL), AFTER], ids=["the answer to PASV", "PORT"])
def test_what_the_primary_expects_itself_another_node_does_no_more(plane: Plane, helper: str, way: FlowTuple) -> None:
    """Another node's helper expected it, and it never began: its tuple would lead there for five minutes."""
    said = segment(way, "PA", b"227 Entering Passive Mode")
    expect(plane)
    assert ct_create.create(helped(helper))
    assert plane.run("handoff", said).why == {"HANDOFF_OTHER": 1}
    assert syn(plane) == TO_NODE, "nothing is expected here"
    expect_soon(DATA, ORIGINAL)
    assert plane.run("handoff", said).why == {"HANDOFF_OTHER": 1}
    assert syn(plane) == TO_NODE, "and this is not known for a session with a helper"
    plane.run("handoff", segment(AFTER, "S", ttl=63))
    assert plane.run("handoff", segment(way, "A")).why == {"HANDOFF_OTHER": 1}
    assert syn(plane) == TO_NODE, "nothing is said"
    ran = plane.run("handoff", said)
    assert (ran.verdict, ran.why, ran.raw) == (TC_OK, {"HANDOFF_OTHER": 1}, bytes(said))
    assert syn(plane) == TO_STACK


def test_without_shared_helpers_nobody_looks(plane: Plane) -> None:
    expect(plane)
    assert ct_create.create(helped("ftp"))
    expect_soon(DATA, ORIGINAL)
    plane.configure(features=0)
    plane.run("handoff", segment(AFTER, "S", ttl=63))
    plane.run("handoff", segment(AFTER, "PA", b"PORT 10,77,2,1,156,65"))
    plane.configure(features=SHARE)
    assert syn(plane) == TO_NODE
