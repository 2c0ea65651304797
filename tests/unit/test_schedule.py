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


@given(WEIGHTS, st.sampled_from(("weighted", "round-robin", "random")))
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


SOME = st.dictionaries(st.integers(1, 63), st.integers(1, 100), min_size=2, max_size=8)


@given(SOME, st.data())
def test_source_hash_moves_only_what_a_node_had(weights: dict[int, int], data: st.DataObject) -> None:
    """… when it goes; and read backwards, a node that comes takes only what it gets."""
    before = schedule.sequence(weights, "source-hash")
    gone = data.draw(st.sampled_from(sorted(weights)))
    after = schedule.sequence({node: weight for node, weight in weights.items() if node != gone}, "source-hash")
    assert len(before) == len(after) == 8191
    assert all(old in (new, gone) for old, new in zip(before, after, strict=True))
    assert gone not in after


@given(SOME, st.data())
def test_source_hash_moves_only_towards_a_weight_that_rises(weights: dict[int, int], data: st.DataObject) -> None:
    raised = data.draw(st.sampled_from(sorted(weights)))
    before = schedule.sequence(weights, "source-hash")
    after = schedule.sequence({**weights, raised: weights[raised] + 10}, "source-hash")
    assert all(new in (old, raised) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "weights", [dict.fromkeys(range(1, 6), 1), {1: 1, 2: 10, 3: 5}, dict.fromkeys(range(1, 64), 3)]
)
def test_source_hash_shares_follow_the_weights(weights: dict[int, int]) -> None:
    """A slot goes to a node with probability p, independent of the others: 5 σ of a binomial count of 8191."""
    counted = Counter(schedule.sequence(weights, "source-hash"))
    for node, share in schedule.shares(weights, "source-hash").items():
        assert abs(counted[node] - 8191 * share) < 5 * (8191 * share * (1 - share)) ** 0.5


def test_least_connections_names_each_node_once() -> None:
    assert schedule.sequence({3: 5, 1: 2, 2: 0}, "least-connections") == (1, 3)


@given(SOME, st.integers(1, 400))
def test_least_connections_fills_as_the_largest_divisor_method(weights: dict[int, int], sessions: int) -> None:
    """Sessions that stay spread as seats by D'Hondt: nobody can gain by another order, and no share is off by one."""
    nodes = schedule.sequence(weights, "least-connections")
    live: dict[int, int] = dict.fromkeys(nodes, 0)
    for turn in range(sessions):
        chosen = schedule.least_loaded(nodes, weights, live, turn)
        assert chosen is not None
        live[chosen] += 1
    highest = max(Fraction(live[node], weights[node]) for node in nodes)
    assert all(Fraction(live[node] + 1, weights[node]) >= highest for node in nodes)


def test_equally_loaded_nodes_take_turns() -> None:
    nodes, weights = (1, 2, 3), dict.fromkeys((1, 2, 3), 1)
    assert [schedule.least_loaded(nodes, weights, {}, turn) for turn in range(4)] == [1, 2, 3, 1]
    assert schedule.least_loaded(nodes, weights, {2: 1, 3: 1}, 1) == 1
    assert schedule.least_loaded(nodes, weights, {}, 0, unusable={1}) == 2
    assert schedule.least_loaded(nodes, weights, {}, 0, unusable={1, 2, 3}) is None
