# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows that change hands: record, entries and counters follow, what a node began itself ends, all else stays."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest

from aa_cluster.dataplane import flow_fill
from aa_cluster.dataplane.flow_fill import Hasher
from aa_cluster.dataplane.flows import CLOSING, DEAD, ESTABLISHED, FLOW_ROW, ONE_SIDED, SYN_SENT, TAKEN, owned
from aa_cluster.dataplane.reassigner import Reassigner
from aa_cluster.netlink import conntrack
from aa_cluster.wire.block import FlowTuple
from tests.bpf.harness import CLIENT, OTHER, PUBLIC, SELF, SERVER, TABLE_KEY, THIRD, Plane, entry, tuple_of

pytestmark = pytest.mark.bpf


@pytest.fixture
def mover(plane: Plane) -> Iterator[Reassigner]:
    mover = Reassigner(os.dup(plane.fds["reassign"]), plane.maps["moving"], plane.maps["watermark"])
    yield mover
    mover.close()


def flow(plane: Plane, number: int, owner: int, state: int = ESTABLISHED) -> tuple[FlowTuple, FlowTuple]:
    original = tuple_of(CLIENT, 40000 + number, SERVER, 80)
    reply = tuple_of(SERVER, 80, PUBLIC, 50000 + number)
    plane.add_flow(original, reply, owner, state)
    return original, reply


def owners(plane: Plane, both: tuple[FlowTuple, FlowTuple]) -> tuple[int, int, int]:
    """As both entries and the record say."""
    record = plane.flow(both[0])
    return plane.owner(both[0]), plane.owner(both[1]), 0 if record is None else int(record["owner"])


def live(plane: Plane) -> dict[int, int]:
    counts = plane.maps["tallies"].view()["live"][0]
    return {owner: int(counts[owner]) for owner in np.flatnonzero(counts)}


@pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED, CLOSING])
def test_record_and_entries_change_hands(plane: Plane, mover: Reassigner, state: int) -> None:
    theirs, others = flow(plane, 1, OTHER, state), flow(plane, 2, THIRD)
    before = plane.word(theirs[0]), plane.word(theirs[1])
    assert mover.move(OTHER, SELF) == 1
    assert owners(plane, theirs) == (SELF, SELF, SELF)
    record = plane.flow(theirs[0])
    assert record is not None
    assert int(record["ended"]) == TAKEN
    assert owners(plane, others) == (THIRD, THIRD, THIRD)
    mask = ~(63 << 4)
    assert (plane.word(theirs[0]) & mask, plane.word(theirs[1]) & mask) == (before[0] & mask, before[1] & mask)
    assert live(plane) == ({THIRD: 1} if state == CLOSING else {SELF: 1, THIRD: 1})


def test_a_dead_record_is_left(plane: Plane, mover: Reassigner) -> None:
    both = flow(plane, 1, OTHER)
    record = plane.flow(both[0])
    assert record is not None
    record["state"] = DEAD
    assert mover.move(OTHER, SELF) == 0
    assert int(record["owner"]) == OTHER


def test_what_the_node_began_itself_ends(plane: Plane, mover: Reassigner) -> None:
    """With the primary's entry that held its tuple."""
    both = flow(plane, 1, OTHER)
    entry(*both, state="ESTABLISHED")
    record = plane.flow(both[0])
    assert record is not None
    record["ended"] |= ONE_SIDED
    assert mover.move(OTHER, SELF) == 0
    assert plane.word(both[0]) == plane.word(both[1]) == 0
    assert int(record["state"]) == DEAD
    assert live(plane) == {}
    assert conntrack.dump() == []


def test_whose_flows_are_whose(plane: Plane) -> None:
    first, _, third = (flow(plane, number, owner) for number, owner in ((1, OTHER), (2, SELF), (3, THIRD)))
    found = owned(plane.maps["records"], plane.maps["watermark"], [OTHER, THIRD])
    assert found.numbers.tolist() == [1, 3]
    assert found.rows["sport"].tolist() == [first[0].source_port, third[0].source_port]
    assert not found.one_sided.any()


def test_a_whole_table(plane: Plane, mover: Reassigner) -> None:
    room = plane.maps["records"].info.entries - 1
    rows = np.zeros(min(100_000, room), FLOW_ROW)
    rows["family"], rows["protocol"], rows["state"], rows["owner"] = 4, 6, ESTABLISHED, OTHER
    number = np.arange(len(rows))
    rows["saddr"][:, 13], rows["saddr"][:, 14], rows["saddr"][:, 15] = 10, number >> 8 & 255, number & 255
    rows["reply_daddr"][:, 13], rows["reply_saddr"][:, 13] = 1, 2
    rows["sport"], rows["reply_dport"] = number >> 16, number & 0xFFFF
    rows["dport"] = rows["reply_sport"] = 80 + (number >> 16)
    placed = int(flow_fill.insert(plane.maps, Hasher(TABLE_KEY), rows).sum())
    start = time.perf_counter()
    assert mover.move(OTHER, SELF) == placed
    took = time.perf_counter() - start
    print(f"{placed} flows change hands in {1000 * took:.1f} ms, {1e9 * took / placed:.0f} ns each")
    assert live(plane) == {SELF: placed}
