# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedules against an independent oracle: the nginx formulation, kept as fractions."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.core import schedule

WEIGHTS = st.dictionaries(st.integers(1, 63), st.integers(0, 100), max_size=12)


def oracle(weights: dict[int, int], turns: int) -> list[int]:
    """Smooth WRR by definition: everybody gains its fraction, the richest pays one."""
    total = sum(weights.values())
    gain = {node: Fraction(weight, total) for node, weight in weights.items() if weight}
    credit = {node: Fraction(0) for node in gain}
    chosen = []
    for _ in range(turns):
        credit = {node: value + gain[node] for node, value in credit.items()}
        best = min(credit, key=lambda node: (-credit[node], node))
        credit[best] -= 1
        chosen.append(best)
    return chosen


@given(WEIGHTS)
def test_equals_the_oracle(weights: dict[int, int]) -> None:
    sequence = schedule.sequence(weights)
    if not any(weights.values()):
        assert sequence == ()
        return
    turns = min(len(sequence), 300)
    assert list(sequence[:turns]) == oracle(weights, turns)


@given(WEIGHTS, st.sampled_from(("weighted", "round-robin")))
def test_shares_are_exact(weights: dict[int, int], kind: schedule.Kind) -> None:
    sequence = schedule.sequence(weights, kind)
    assert len(sequence) <= schedule.CAPACITY
    counted = Counter(sequence)
    assert set(counted) == {node for node, weight in weights.items() if weight}
    for node, share in schedule.shares(weights, kind).items():
        assert counted[node] == pytest.approx(share * len(sequence))


@pytest.mark.parametrize(
    ("weights", "kind", "cycle"),
    [
        ({1: 1, 2: 1, 3: 1}, "round-robin", (1, 2, 3)),
        ({1: 5, 2: 0, 3: 9}, "round-robin", (1, 3)),
        ({1: 2, 2: 4, 3: 2}, "weighted", (2, 1, 3, 2)),
        ({1: 5, 2: 1, 3: 1}, "weighted", (1, 1, 2, 1, 3, 1, 1)),
        ({1: 0, 2: 3}, "weighted", (2,)),
        ({1: 7}, "weighted", (1,)),
    ],
)
def test_known_cycles(weights: dict[int, int], kind: schedule.Kind, cycle: tuple[int, ...]) -> None:
    sequence = schedule.sequence(weights, kind)
    assert sequence[: len(cycle)] == cycle
    assert len(sequence) == schedule.CAPACITY // len(cycle) * len(cycle)


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        schedule.sequence({1: -1})
    with pytest.raises(ValueError, match="holds 10"):
        schedule.sequence({1: 100, 2: 1}, capacity=10)


def test_all_weights_zero_share_nothing() -> None:
    assert schedule.shares({1: 0, 2: 0}) == {1: 0.0, 2: 0.0}
