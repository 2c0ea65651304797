# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of the source-hash schedule: weighted rendezvous hashing over a fixed number of slots.

After Schindelhauer and Schomaker, "Weighted Distributed Hash Tables" (2005): in each slot every node has the score
−weight / ln(u), where u in (0, 1) is a hash of slot and node, and the highest score has the slot. A score depends on
nobody else, so a node that goes, comes or changes its weight moves slots from or to itself and no others.
"""

from __future__ import annotations

import functools

import numpy as np

SLOTS = 8191
"""A prime, so that no pattern of hash values meets a pattern of slots; the dataplane's table holds 8192."""


@functools.lru_cache(maxsize=8)
def table(shares: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """The node of each slot. ``shares``: (node id, weight above 0), in any order."""
    ids = np.array([node for node, _ in shares], "<u8")
    weights = np.array([weight for _, weight in shares], float)
    slots = np.arange(SLOTS, dtype="<u8")
    mixed = _mix(_mix(slots)[:, None] ^ _mix(ids + np.uint64(1 << 32))[None, :])
    uniform = ((mixed >> np.uint64(11)).astype(float) + 0.5) / (1 << 53)
    winners = np.argmax(-weights / np.log(uniform), axis=1)
    return tuple(ids[winners].tolist())


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
