# SPDX-License-Identifier: GPL-2.0-or-later
"""The sweep and the primary's conntrack: entries live as long as the flows that others own, and go with them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from aa_cluster.dataplane.flows import CLOSING, ESTABLISHED, SYN_SENT, TAKEN, TOUCHED
from aa_cluster.netlink import conntrack
from tests.bpf.harness import CLIENT, OTHER, PUBLIC, SELF, SERVER, Plane, entry, tuple_of

pytestmark = pytest.mark.bpf

ORIGINAL = tuple_of(CLIENT, 40000, SERVER, 80)
REPLY = tuple_of(SERVER, 80, PUBLIC, 50000)
HOUR = 3600


def flow(plane: Plane, owner: int, state: int, idle_s: float, held_s: float = 0.0) -> np.ndarray:
    """A flow idle so long, with its conntrack entry, which has 120 s left."""
    entry(ORIGINAL, REPLY, state="ESTABLISHED")
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    index = plane.add_flow(ORIGINAL, REPLY, owner, state, seen_ns=max(1, now - int(idle_s * 1e9)))
    record: np.ndarray = plane.maps["records"].view()[index : index + 1]
    record["held_ns"] = max(0, now - int(held_s * 1e9))
    return record


def touch(plane: Plane, record: np.ndarray) -> None:
    place = int(record["place"][0][0])
    plane.maps["buckets"].view()["word"][place // 8, place % 8] |= np.uint64(TOUCHED)


def timeouts(plane: Plane, seconds: int) -> None:
    """Short ones, since the clock starts at boot and a flow cannot be older than the machine."""
    plane.maps["config"].view()["timeout_s"][0][1:6] = seconds


@pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED, CLOSING])
def test_the_entry_goes_with_the_flow(plane: Plane, state: int) -> None:
    timeouts(plane, 30)
    flow(plane, OTHER, state, idle_s=31)
    plane.sweep()
    assert plane.flow_count() == 0
    assert conntrack.dump() == []


def test_an_own_sessions_entry_is_the_stacks_affair(plane: Plane) -> None:
    timeouts(plane, 30)
    flow(plane, SELF, ESTABLISHED, idle_s=31)
    plane.sweep()
    assert plane.flow_count() == 0
    assert len(conntrack.dump()) == 1


def test_a_session_that_goes_on_keeps_its_entry(plane: Plane) -> None:
    timeouts(plane, HOUR)
    touch(plane, flow(plane, OTHER, ESTABLISHED, idle_s=11, held_s=HOUR / 4 + 1))
    plane.sweep()
    (kept,) = conntrack.dump()
    assert HOUR - 5 <= kept.timeout <= HOUR


def test_a_session_taken_over_keeps_its_entry(plane: Plane) -> None:
    """Each time a packet has come: conntrack gives it 300 s, since it has seen no window."""
    timeouts(plane, HOUR)
    record = flow(plane, SELF, ESTABLISHED, idle_s=11)
    record["ended"] |= TAKEN
    touch(plane, record)
    plane.sweep()
    (kept,) = conntrack.dump()
    assert HOUR - 5 <= kept.timeout <= HOUR


def test_the_entry_of_a_session_taken_over_goes_with_it(plane: Plane) -> None:
    timeouts(plane, 30)
    flow(plane, SELF, ESTABLISHED, idle_s=31)["ended"] |= TAKEN
    plane.sweep()
    assert conntrack.dump() == []


@pytest.mark.parametrize(
    ("owner", "state", "held_s"),
    [(SELF, ESTABLISHED, HOUR), (OTHER, SYN_SENT, HOUR), (OTHER, ESTABLISHED, HOUR / 8)],
    ids=["own session", "half-open", "renewed not long ago"],
)
def test_not_renewed(plane: Plane, owner: int, state: int, held_s: float) -> None:
    timeouts(plane, HOUR)
    touch(plane, flow(plane, owner, state, idle_s=11, held_s=held_s))
    plane.sweep()
    (same,) = conntrack.dump()
    assert same.timeout <= 120


def test_an_idle_session_is_not_renewed(plane: Plane) -> None:
    timeouts(plane, HOUR)
    flow(plane, OTHER, ESTABLISHED, idle_s=11, held_s=HOUR)
    plane.sweep()
    (same,) = conntrack.dump()
    assert same.timeout <= 120
