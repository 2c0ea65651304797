# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions that a helper of another node expects: where their SYN goes before, while and after they run."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from aa_cluster.dataplane.flows import CLOSED, CLOSING, ESTABLISHED, SYN_SENT
from aa_cluster.netlink import conntrack
from aa_cluster.wire import announcement as wire
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
    handed,
    node_mac,
    reversed_tuple,
    sealed,
    segment,
    tuple_of,
)
from tests.bpf.test_helper import SHARE, kernel_tuple

pytestmark = pytest.mark.bpf

CONTROL = tuple_of(PUBLIC, 50000, SERVER, 21)
DATA = tuple_of(SERVER, 20, PUBLIC, 40001)
LEAVING = tuple_of(SERVER, 20, CLIENT, 40001)


@pytest.fixture
def plane(plane: Plane) -> Plane:
    plane.configure(features=SHARE)
    return plane


def expect(plane: Plane) -> None:
    """Told with a packet of the control session; the source port is anything."""
    told = announced(tuple_of(SERVER, 0, PUBLIC, DATA.destination_port), kind=wire.KIND_EXPECT, flags=0)
    assert plane.run("admit", with_block(CONTROL, told, "PA", b"PORT 10,77,2,1,156,65\r\n")).why == {
        "ADMIT_EXPECTED": 1
    }


def begin(plane: Plane) -> None:
    """Its SYN has been to the node, and leaves by way of the primary."""
    assert plane.run("admit", with_block(LEAVING, announced(DATA, flags=0))).why == {"ADMIT_NEW": 1}


def syn(plane: Plane) -> tuple[int, dict[str, int]]:
    ran = plane.run("steer", segment(DATA, "S"))
    if ran.verdict == XDP_TX:
        assert ran.packet.dst == node_mac(OTHER)
    return ran.verdict, ran.why


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
    ran = plane.run("adopt", without)
    assert (ran.verdict, ran.why) == (TC_OK, {"GUARD_EXPECTED": 1})
    ran = plane.run("adopt", handed(original, sealed(original), payload))
    assert (ran.verdict, ran.why) == (TC_OK, {"ADOPT_NEW": 1})
    assert bytes(ran.packet[TCP].payload) == payload, "the block is taken off"
