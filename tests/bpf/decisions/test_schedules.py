# SPDX-License-Identifier: GPL-2.0-or-later
"""Which node has the next turn."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from aa_cluster.core import schedule
from aa_cluster.dataplane import decisions
from aa_cluster.wire.siphash import siphash24
from tests.bpf.decisions.sessions import (
    FIVE,
    KINDS,
    RST,
    SENT,
    SESSIONS,
    UNEQUAL,
    WHY,
    clients,
    counted,
    fresh,
    opening,
    owners,
    packets,
    recounted,
    run,
    use,
)
from tests.bpf.harness import SOURCE_KEY, Plane

pytestmark = pytest.mark.bpf


class TestSchedules:
    @pytest.mark.parametrize("kind", ["round-robin", "weighted"])
    @pytest.mark.parametrize("weights", [FIVE, UNEQUAL, {1: 0, 2: 1, 3: 2}], ids=str)
    def test_in_turn_is_exact(self, plane: Plane, kind: schedule.Kind, weights: dict[int, int]) -> None:
        sequence = use(plane, kind, weights)
        assert owners(plane) == [sequence[turn % len(sequence)] for turn in range(SESSIONS)]
        assert counted(plane) == recounted(plane)

    @pytest.mark.parametrize("weights", [FIVE, UNEQUAL], ids=str)
    def test_least_connections_is_exact(self, plane: Plane, weights: dict[int, int]) -> None:
        """Sessions begin and end at random, those of node 2 seldom end: each owner is the oracle's."""
        nodes = use(plane, "least-connections", weights)
        dice = random.Random(4)
        live: dict[int, int] = dict.fromkeys(nodes, 0)
        open_: list[tuple[np.ndarray, int]] = []
        turn = 0
        for start in range(0, SESSIONS, 100):
            begun = opening(plane, *fresh(100, first=start))
            done = run(plane, begun)
            for one in done:
                expected = schedule.least_loaded(nodes, weights, live, turn)
                assert (int(one["owner"]), int(one["why"])) == (expected, SENT)
                turn += 1
                live[int(one["owner"])] += 1
                open_.append((one, int(one["owner"])))
            ending = [at for at, (_, owner) in enumerate(open_) if dice.random() < (0.05 if owner == 2 else 0.4)]
            for _, owner in (open_[at] for at in ending):
                live[owner] -= 1
            if ending:
                run(plane, packets(np.array([open_[at][0] for at in ending], begun.dtype), RST))
            gone = set(ending)
            open_ = [each for at, each in enumerate(open_) if at not in gone]
        assert counted(plane)[0] == {node: number for node, number in live.items() if number}
        assert counted(plane) == recounted(plane)

    def test_source_hash_is_the_table(self, plane: Plane) -> None:
        table = use(plane, "source-hash", UNEQUAL)
        expected = []
        for address in clients(np.arange(SESSIONS)):
            digest = siphash24(SOURCE_KEY, address.tobytes())
            expected.append(table[int.from_bytes(digest, "little") % len(table)])
        assert owners(plane) == expected

    def test_source_hash_gives_a_client_the_same_node(self, plane: Plane) -> None:
        use(plane, "source-hash", FIVE)
        got = owners(plane, 4000, clients_=200)
        assert got[200:] == got[:-200]

    @pytest.mark.parametrize(("family", "protocol"), KINDS)
    def test_every_kind_takes_its_turn(self, plane: Plane, family: int, protocol: int) -> None:
        """One sequence for all; and by source hash a client has one node, whatever it speaks."""
        sequence = use(plane, "weighted", UNEQUAL)
        done = run(plane, opening(plane, *fresh(1000), family, protocol))
        assert done["owner"].tolist() == [sequence[turn % len(sequence)] for turn in range(1000)]
        assert counted(plane) == recounted(plane)
        table = use(plane, "source-hash", UNEQUAL)
        done = run(plane, opening(plane, *fresh(1000, first=1 << 20), family, protocol))
        expected = []
        for address in clients(np.arange(1000), family):
            digest = siphash24(SOURCE_KEY, address.tobytes())
            expected.append(table[int.from_bytes(digest, "little") % len(table)])
        assert done["owner"].tolist() == expected

    @pytest.mark.parametrize("way", ["left", "drains"])
    def test_a_node_that_goes_moves_only_its_clients(self, plane: Plane, way: str) -> None:
        """One of five: a fifth of the clients, ±2 %, spread over the others; also while the table still names it."""
        use(plane, "source-hash", FIVE)
        before = owners(plane)
        if way == "left":
            use(plane, "source-hash", {node: 1 for node in FIVE if node != 3})
        else:
            decisions.write_draining(plane.maps, {3})
        after = owners(plane, first=1 << 20)
        moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert {old for old, _ in moved} == {3}
        assert 3 not in after
        assert abs(len(moved) / SESSIONS - 0.2) < 0.02
        assert all(abs(number / len(moved) - 0.25) < 0.05 for number in Counter(new for _, new in moved).values())

    @pytest.mark.parametrize("weights", [FIVE, UNEQUAL], ids=str)
    def test_random_follows_the_weights(self, plane: Plane, weights: dict[int, int]) -> None:
        """Each count is binomial: 5 σ is passed by chance once in two million. And it is not the sequence."""
        sequence = use(plane, "random", weights)
        got = owners(plane)
        for node, share in schedule.shares(weights, "random").items():
            assert abs(got.count(node) - SESSIONS * share) < 5 * (SESSIONS * share * (1 - share)) ** 0.5
        same = sum(owner == sequence[turn % len(sequence)] for turn, owner in enumerate(got))
        chance = sum(share**2 for share in schedule.shares(weights, "random").values())
        assert abs(same - SESSIONS * chance) < 5 * (SESSIONS * chance * (1 - chance)) ** 0.5

    @pytest.mark.parametrize("kind", schedule.KINDS)
    def test_a_draining_node_gets_nothing(self, plane: Plane, kind: schedule.Kind) -> None:
        use(plane, kind, FIVE)
        decisions.write_draining(plane.maps, {2, 4})
        assert set(owners(plane, 1000)) == {1, 3, 5}
        decisions.write_draining(plane.maps, ())
        assert set(owners(plane, 1000, first=5000)) == set(FIVE)

    @pytest.mark.parametrize("kind", schedule.KINDS)
    def test_nobody_left_is_the_primary(self, plane: Plane, kind: schedule.Kind) -> None:
        use(plane, kind, {2: 1, 3: 4})
        decisions.write_draining(plane.maps, {2, 3})
        assert set(owners(plane, 100)) == {1}

    def test_a_change_is_for_the_next_session_and_for_no_other(self, plane: Plane) -> None:
        use(plane, "weighted", {2: 1})
        syns = opening(plane, *fresh(100))
        assert set(run(plane, syns)["owner"].tolist()) == {2}
        use(plane, "weighted", {3: 1})
        decisions.write_draining(plane.maps, {2})
        again = run(plane, syns)
        assert set(again["owner"].tolist()) == {2}
        assert set(again["why"].tolist()) == {WHY["HANDOFF_AGAIN"]}
        assert set(owners(plane, 100, first=100)) == {3}
