# SPDX-License-Identifier: GPL-2.0-or-later
"""The same 5-tuple again and again: each session succeeds, on the node that the weights of the moment say."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import reuse
from aa_cluster.topology.view import counters, set_weights

pytestmark = pytest.mark.lab

WEIGHTS = ({1: 0, 2: 1, 3: 0}, {1: 1, 2: 0, 3: 0}, {1: 1, 2: 1, 3: 1}, {1: 0, 2: 0, 3: 1}, {1: 1, 2: 3, 3: 1})
ROUNDS, EACH = 20, 50
"""1,000 sessions; the weights change after every fifty."""

_ports = itertools.count(18_100)


def begun(lab: Lab) -> Counter[str]:
    """New sessions each node has taken so far, as its own programs counted them."""
    taken = {node: counters(lab, node)["ADOPT_NEW"] for node in lab.plan.node_names[1:]}
    return Counter(taken | {"node1": counters(lab, 1)["HANDOFF_LOCAL"]})


def expected(weights: Mapping[int, int]) -> dict[str, int]:
    return {f"node{index}": EACH * weight // sum(weights.values()) for index, weight in weights.items()}


@pytest.mark.parametrize("end", ["reset", "peer"])
@pytest.mark.parametrize("ruleset", ["default", "no-nat"])
def test_a_thousand_times_the_same_tuple(lab: Lab, ruleset: str, end: Literal["reset", "peer"]) -> None:
    lab.load_ruleset(rulesets.text(ruleset))
    source_port, before = next(_ports), counters(lab, 1)
    slowest = 0
    for turn in range(ROUNDS):
        weights = WEIGHTS[turn % len(WEIGHTS)]
        set_weights(lab, weights)
        had = begun(lab)
        report = reuse(lab, "client", "10.77.2.100", 80, source_port, EACH, end)
        assert (report.completed, report.failed) == (EACH, ()), f"weights {weights}"
        slowest = max(slowest, report.slowest_ms)
        now = begun(lab)
        taken = {node: now[node] - had[node] for node in now}
        assert all(abs(taken[node] - share) <= 1 for node, share in expected(weights).items()), taken
        assert sum(taken.values()) == EACH
    after = counters(lab, 1)
    assert slowest < 900, "a packet was lost and sent again"
    for name in ("HANDOFF_AGAIN", "HANDOFF_UNDER_WAY", "HANDOFF_UNPLACED", "HANDOFF_NO_ENTRY"):
        assert after[name] == before[name], name
