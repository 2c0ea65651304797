# SPDX-License-Identifier: GPL-2.0-or-later
"""The order in which nodes get new sessions: smooth weighted round-robin, unrolled.

Smooth WRR (the algorithm of nginx' upstream balancer): each turn every node gains its weight, the richest is chosen
and pays the sum of all weights. One cycle of sum(weights) turns gives each node exactly its weight, spread evenly;
ties go to the lowest id. The BPF side only walks the sequence, so whole cycles are what makes the shares exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Literal

Kind = Literal["weighted", "round-robin"]
CAPACITY = 8192
"""Entries of the schedule table in the dataplane."""


def sequence(weights: Mapping[int, int], kind: Kind = "weighted", capacity: int = CAPACITY) -> tuple[int, ...]:
    """Node ids in turn: the largest whole number of cycles that fits ``capacity`` entries.

    Weight 0 takes a node out; ``round-robin`` counts every other weight as 1. No weight above 0 → ``()``.
    A negative weight, or one cycle longer than ``capacity``, is a ``ValueError``.
    """
    shares = _reduced(weights, kind)
    if not shares:
        return ()
    turns = sum(shares.values())
    if turns > capacity:
        raise ValueError(f"one schedule cycle has {turns} turns, the table holds {capacity}")
    return _cycle(shares, turns) * (capacity // turns)


def _reduced(weights: Mapping[int, int], kind: Kind) -> dict[int, int]:
    for node, weight in weights.items():
        if weight < 0:
            raise ValueError(f"weight of node {node} is {weight}, expected 0 or more")
    positive = {node: weight for node, weight in sorted(weights.items()) if weight}
    if kind == "round-robin":
        return dict.fromkeys(positive, 1)
    divisor = gcd(*positive.values())
    return {node: weight // divisor for node, weight in positive.items()}


def _cycle(shares: Mapping[int, int], turns: int) -> tuple[int, ...]:
    credit = dict.fromkeys(shares, 0)
    chosen: list[int] = []
    for _ in range(turns):
        for node, share in shares.items():
            credit[node] += share
        richest = max(credit, key=lambda node: (credit[node], -node))
        credit[richest] -= turns
        chosen.append(richest)
    return tuple(chosen)


def shares(weights: Mapping[int, int], kind: Kind = "weighted") -> dict[int, float]:
    """The fraction of new sessions each node gets, 0 to 1; all zero → everything 0."""
    reduced = _reduced(weights, kind)
    total = sum(reduced.values())
    return {node: reduced.get(node, 0) / total if total else 0.0 for node in weights}
