# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets the next new session (docs/scheduling.md): the table the dataplane reads, for each kind of schedule.

============== =========================================== ==============================================
kind           the table                                   how bpf/include/schedule.h reads it
============== =========================================== ==============================================
round-robin    each node once, repeated                    one after the other
weighted       smooth weighted round-robin, unrolled       one after the other
least-          each node once                             the fewest live sessions per weight
connections
source-hash    8191 slots by weighted rendezvous hashing   the client's address names a slot
random         as weighted                                 any place
============== =========================================== ==============================================

Smooth WRR (the algorithm of nginx' upstream balancer): each turn every node gains its weight, the richest is chosen
and pays the sum of all weights. One cycle of sum(weights) turns gives each node exactly its weight, spread evenly;
ties go to the lowest id. Whole cycles are what makes the shares exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import gcd
from typing import Literal, get_args

Kind = Literal["round-robin", "weighted", "least-connections", "source-hash", "random"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CAPACITY = 8192
"""Entries of the schedule table in the dataplane."""


def sequence(weights: Mapping[int, int], kind: Kind = "weighted", capacity: int = CAPACITY) -> tuple[int, ...]:
    """The table for these nodes: ids as the kind wants them, ``capacity`` at most.

    Weight 0 takes a node out; ``round-robin`` counts every other weight as 1. No weight above 0 → ``()``.
    A negative weight, or one cycle longer than ``capacity``, is a ``ValueError``.
    """
    shares = _reduced(weights, kind)
    if not shares:
        return ()
    if kind == "source-hash":
        from aa_cluster.core import rendezvous  # numpy comes with it, and the command line does without

        return rendezvous.table(tuple(shares.items()))
    if kind == "least-connections":
        return tuple(shares)
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
    """The fraction of new sessions each node gets, 0 to 1; all zero → everything 0.

    Of source-hash, clients rather than sessions; of least-connections, when sessions last equally long everywhere.
    """
    reduced = _reduced(weights, kind)
    total = sum(reduced.values())
    return {node: reduced.get(node, 0) / total if total else 0.0 for node in weights}


def least_loaded(
    nodes: Sequence[int],
    weights: Mapping[int, int],
    live: Mapping[int, int],
    turn: int,
    unusable: Collection[int] = (),
) -> int | None:
    """What the dataplane does with a least-connections table: the node for which one session more makes the fewest
    sessions per weight; of equals the first from place ``turn`` on. None when no node can be used.
    """
    best: int | None = None
    for step in range(len(nodes)):
        node = nodes[(turn + step) % len(nodes)]
        if node in unusable or not weights.get(node):
            continue
        if best is None or (live.get(node, 0) + 1) * weights[best] < (live.get(best, 0) + 1) * weights[node]:
            best = node
    return best
