# SPDX-License-Identifier: GPL-2.0-or-later
"""Bindings and expectations, out of one node's maps and into another's."""

from __future__ import annotations

import time

import pytest

from aa_cluster.dataplane import small
from tests.bpf.harness import Plane

pytestmark = pytest.mark.bpf

HOUR_NS = 3600 * 10**9
KEYS = [bytes([number]) * 36 for number in range(3)]
ADDRESSES = [bytes([number]) * 16 for number in range(3)]


def expect(plane: Plane, key: bytes, node: int, left_ns: int) -> None:
    value = plane.maps["expected"].record()
    value["until_ns"], value["owner"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + left_ns, node
    plane.maps["expected"].put(key, value)


def bind(plane: Plane, address: bytes, node: int, seen_ns: int) -> None:
    value = plane.maps["bindings"].record()
    value["seen_ns"], value["node"] = seen_ns, node
    plane.maps["bindings"].put(address, value)


def test_what_is_expected_still(plane: Plane) -> None:
    expect(plane, KEYS[0], 2, 10**10)
    expect(plane, KEYS[1], 3, -1)
    ((key, node, left_ms),) = small.since(plane.maps, 0, 0).expectations
    assert (key, node) == (KEYS[0], 2)
    assert 9_000 < left_ms <= 10_000


def test_expectations_are_taken_whole_or_in_part(plane: Plane) -> None:
    expected = plane.maps["expected"]
    small.take_expectations(expected, [(KEYS[0], 2, 10_000), (KEYS[1], 3, 10_000)], whole=True)
    small.take_expectations(expected, [(KEYS[2], 3, 10_000), (KEYS[1], 2, 10_000)], whole=False)
    told = small.since(plane.maps, 0, 0).expectations
    assert sorted((key, node) for key, node, _ in told) == [(KEYS[0], 2), (KEYS[1], 2), (KEYS[2], 3)]
    small.take_expectations(expected, [(KEYS[2], 3, 10_000)], whole=True)
    assert [row[0] for row in small.since(plane.maps, 0, 0).expectations] == [KEYS[2]]
    small.take_expectations(expected, [], whole=True)
    assert small.since(plane.maps, 0, 0).expectations == ()


def test_no_binding_falls_between_two_looks(plane: Plane) -> None:
    """Programs stamp with the clock of the last tick, which a look before may have gone past already."""
    looked = small.since(plane.maps, 0, HOUR_NS)
    coarse = time.clock_gettime_ns(6)  # CLOCK_MONOTONIC_COARSE
    bind(plane, ADDRESSES[0], 2, min(coarse, looked.taken_ns + small.COARSE_NS - 1))
    assert [row[:2] for row in small.since(plane.maps, looked.taken_ns, HOUR_NS).bindings] == [(ADDRESSES[0], 2)]
    bind(plane, ADDRESSES[1], 3, looked.taken_ns - 1)
    assert len(small.since(plane.maps, looked.taken_ns, HOUR_NS).bindings) == 1, "told before"
    assert small.since(plane.maps, 0, HOUR_NS).all_bindings == 2
