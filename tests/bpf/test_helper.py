# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions with a conntrack helper, and those it expects: kept or handed off, and with which block."""

from __future__ import annotations

import struct

import pytest

from aa_cluster.netlink import ct_create
from aa_cluster.netlink.conntrack import Tuple
from aa_cluster.netlink.ct_create import NewEntry
from aa_cluster.wire.block import LENGTH, FlowTuple, decode
from tests.bpf.harness import (
    CLIENT,
    KEY,
    PUBLIC,
    SERVER,
    TC_OK,
    TC_REDIRECT,
    Plane,
    Ran,
    reversed_tuple,
    segment,
    tuple_of,
)

pytestmark = pytest.mark.bpf

SHARE = 2
CTA_TUPLE_MASTER = 14
NFNL_SUBSYS_CTNETLINK_EXP, CTA_EXPECT_MASTER, CTA_EXPECT_TUPLE, CTA_EXPECT_MASK, CTA_EXPECT_TIMEOUT = 2, 1, 2, 3, 4
ORIGINAL, AFTER = tuple_of(CLIENT, 40000, SERVER, 21), tuple_of(PUBLIC, 50000, SERVER, 21)


def kernel_tuple(flow: FlowTuple) -> Tuple:
    return Tuple(4, flow.protocol, str(flow.source), flow.source_port, str(flow.destination), flow.destination_port)


def entry(helper: str, original: FlowTuple = ORIGINAL, after: FlowTuple = AFTER) -> NewEntry:
    return NewEntry(kernel_tuple(original), kernel_tuple(after), mark=0x11, helper=helper, timeout=60)


def leaves(plane: Plane, after: FlowTuple = AFTER) -> Ran:
    return plane.run("handoff", segment(after, "S", ttl=63))


@pytest.mark.parametrize("helper", ["ftp", "irc", "sane"])
def test_kept_by_default(plane: Plane, helper: str) -> None:
    assert ct_create.create(entry(helper))
    ran = leaves(plane)
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_HELPER": 1})
    assert plane.flow_count() == 0


def test_shared_with_its_helper_in_the_block(plane: Plane) -> None:
    plane.configure(features=SHARE)
    assert ct_create.create(entry("ftp"))
    ran = leaves(plane)
    assert (ran.verdict, ran.why) == (TC_REDIRECT, {"HANDOFF_SENT": 1})
    block = decode(ran.raw[-LENGTH:], KEY, ORIGINAL, 1000)
    assert (block.helper, block.source_port, block.connmark) == (1, 50000, 0x11)


def test_only_helpers_with_a_number_are_shared(plane: Plane) -> None:
    plane.configure(features=SHARE)
    assert ct_create.create(entry("irc"))
    assert leaves(plane).why == {"HANDOFF_HELPER": 1}


def test_without_a_helper_the_block_names_none(plane: Plane) -> None:
    plane.configure(features=SHARE)
    assert ct_create.create(entry(""))
    assert decode(leaves(plane).raw[-LENGTH:], KEY, ORIGINAL, 1000).helper == 0


@pytest.mark.parametrize("features", [0, SHARE])
def test_what_a_helper_of_this_node_expected_stays(plane: Plane, features: int) -> None:
    plane.configure(features=features)
    assert ct_create.create(entry("ftp"))
    original, after = tuple_of(CLIENT, 40001, SERVER, 30000), tuple_of(PUBLIC, 50001, SERVER, 30000)
    expect(entry("", original, after), kernel_tuple(ORIGINAL))
    ran = leaves(plane, after)
    assert (ran.verdict, ran.why) == (TC_OK, {"HANDOFF_EXPECTED": 1})
    assert plane.flow_count() == 0
    assert plane.run("handoff", segment(reversed_tuple(after), "S")).why == {"HANDOFF_NO_ENTRY": 1}


def expect(wanted: NewEntry, master: Tuple) -> None:
    """The entry with CTA_TUPLE_MASTER: as netfilter makes one for a session that was expected."""
    message = bytearray(ct_create.encode(wanted)) + attribute(CTA_TUPLE_MASTER, master)
    struct.pack_into("=I", message, 0, len(message))
    assert ct_create.converse(bytes(message)) == 0


def expect_soon(coming: FlowTuple, master: FlowTuple) -> None:
    """A helper's expectation, as it makes one when it reads a packet of ``master``. Any source port."""
    everything = Tuple(4, coming.protocol, "255.255.255.255", 0, "255.255.255.255", 65535)
    body = attribute(CTA_EXPECT_MASTER, kernel_tuple(master)) + attribute(CTA_EXPECT_TUPLE, kernel_tuple(coming))
    body += attribute(CTA_EXPECT_MASK, everything) + struct.pack("=HH", 8, CTA_EXPECT_TIMEOUT) + struct.pack("!I", 60)
    header = ct_create.encode(NewEntry(kernel_tuple(master), kernel_tuple(master), 0, "", 1))[:20]
    message = bytearray(header + body)
    struct.pack_into("=IH", message, 0, len(message), NFNL_SUBSYS_CTNETLINK_EXP << 8)
    assert ct_create.converse(bytes(message)) == 0


def attribute(kind: int, which: Tuple) -> bytes:
    """A nested one with that tuple."""
    as_original = ct_create.encode(NewEntry(which, which, 0, "", 1))[20:]
    size = struct.unpack_from("=H", as_original)[0]
    return struct.pack("=HH", size, kind | 0x8000) + as_original[4:size]
