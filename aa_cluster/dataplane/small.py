# SPDX-License-Identifier: GPL-2.0-or-later
"""Bindings of persistence and expectations of helpers, out of one node's maps and into another's, by age."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aa_cluster.dataplane.maps import Map

BindingRow = tuple[bytes, int, int]
"""Address (16 bytes), node, idle in ms."""
ExpectationRow = tuple[bytes, int, int]
"""Key, node, good for so many ms."""

COARSE_NS = 20_000_000
"""The programs' clock moves with the timer's tick, 10 ms at most: what they set now may look so much older."""


@dataclass(frozen=True, slots=True)
class Small:
    """``taken_ns``: what to ask from next time (CLOCK_MONOTONIC). ``all_bindings``: how many there are, new or not."""

    taken_ns: int
    bindings: tuple[BindingRow, ...]
    expectations: tuple[ExpectationRow, ...]
    all_bindings: int


def since(maps: Mapping[str, Map], since_ns: int, idle_ns: int) -> Small:
    """Bindings that were set after that time, all expectations; ``idle_ns``: how long bindings are good, 0: none."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    keys, values = maps["bindings"].read()
    seen = values["seen_ns"].astype(np.int64)
    good = now - seen < idle_ns
    new = good & (seen >= since_ns)
    rows = zip(keys["address"][new], values["node"][new], seen[new], strict=True)
    bindings = tuple((key.tobytes(), int(node), max(0, now - int(at)) // 1_000_000) for key, node, at in rows)
    return Small(now - COARSE_NS, bindings, _expectations(maps["expected"], now), int(good.sum()))


def _expectations(expected: Map, now: int) -> tuple[ExpectationRow, ...]:
    keys, values = expected.read()
    until = values["until_ns"].astype(np.int64)
    good = until > now
    rows = zip(keys[good], values["owner"][good], until[good], strict=True)
    return tuple((key.tobytes(), int(node), (int(end) - now) // 1_000_000) for key, node, end in rows)


def take_bindings(bindings: Map, rows: Iterable[BindingRow], whole: bool) -> None:
    """``whole``: there are no others."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    if whole:
        bindings.delete_all(bindings.read()[0])
    for address, node, idle_ms in rows:
        value = bindings.record()
        value["seen_ns"], value["node"] = max(1, now - idle_ms * 1_000_000), node
        bindings.put(address, value)


def take_expectations(expected: Map, rows: Iterable[ExpectationRow], whole: bool) -> None:
    """``whole``: there are no others."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    if whole:
        expected.delete_all(expected.read()[0])
    for key, node, left_ms in rows:
        value = expected.record()
        value["until_ns"], value["owner"] = now + left_ms * 1_000_000, node
        expected.put(key, value)
