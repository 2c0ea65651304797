# SPDX-License-Identifier: GPL-2.0-or-later
"""The same 5-tuple again and again: each session succeeds, on the node that the weights of the moment say."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
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
SERVER = ("10.77.2.100", 80)
PAUSE = 0.002
"""Seconds that a RST has to get to the server before the next SYN does; and that the server has to put its socket into
TIME_WAIT, which it does after it has acknowledged the last FIN: a SYN in between is lost, one in some thousand, also
with one gateway and with none."""

_ports = itertools.count(18_100)


@dataclass
class Seen:
    """What a thousand sessions came to. ``overtook``: SYNs that came to the server before the old session's RST did. It
    challenges them (RFC 5961), which ends the old session, and the client sends them again at once: nothing is lost."""

    slowest_ms: int = 0
    repeated: int = 0
    overtook: int = 0


def begun(lab: Lab) -> Counter[str]:
    """New sessions each node has taken so far, as its own programs counted them."""
    taken = {node: _adopted(counters(lab, node)) for node in lab.plan.node_names[1:]}
    return Counter(taken | {"node1": counters(lab, 1)["HANDOFF_LOCAL"]})


def _adopted(counted: Counter[str]) -> int:
    return counted["ADOPT_NEW"] + counted["ADOPT_EVICTED"]


def syn_challenges(lab: Lab) -> int:
    """TCPSYNChallenge of the server's kernel."""
    text = lab.exec("server", ["cat", "/proc/net/netstat"], check=True, capture_output=True, text=True).stdout
    names, values = (line.split() for line in text.splitlines() if line.startswith("TcpExt:"))
    return int(values[names.index("TCPSYNChallenge")])


def expected(weights: Mapping[int, int]) -> dict[str, int]:
    return {f"node{index}": EACH * weight // sum(weights.values()) for index, weight in weights.items()}


def a_thousand(lab: Lab, end: Literal["reset", "peer"], pause: float) -> Seen:
    """All succeed, and each on the node of its moment; a SYN that was sent again may have had a second decision."""
    source_port, seen = next(_ports), Seen()
    challenged = syn_challenges(lab)
    for turn in range(ROUNDS):
        weights = WEIGHTS[turn % len(WEIGHTS)]
        set_weights(lab, weights)
        had = begun(lab)
        report = reuse(lab, "client", SERVER, source_port, EACH, end, pause)
        assert (report.completed, report.failed) == (EACH, ()), f"weights {weights}"
        now = begun(lab)
        taken = {node: now[node] - had[node] for node in now}
        again = report.repeated
        assert all(abs(taken[node] - share) <= 1 + again for node, share in expected(weights).items()), taken
        assert not any(taken[node] and not share for node, share in expected(weights).items()), taken
        assert EACH <= sum(taken.values()) <= EACH + again
        overtook = syn_challenges(lab) - challenged
        seen = Seen(max(seen.slowest_ms, report.slowest_ms), seen.repeated + again, overtook)
    print(f"{ROUNDS * EACH} sessions, {seen}")
    return seen


@pytest.mark.parametrize("end", ["reset", "peer"])
@pytest.mark.parametrize("ruleset", ["default", "no-nat"])
def test_a_thousand_times_the_same_tuple(lab: Lab, ruleset: str, end: Literal["reset", "peer"]) -> None:
    lab.load_ruleset(rulesets.text(ruleset))
    at_first = {node: counters(lab, node) for node in lab.plan.node_names}
    before = at_first["node1"]
    seen = a_thousand(lab, end, PAUSE)
    for node, had in at_first.items():
        print(f"{node}:", dict(counters(lab, node) - had))
    after = counters(lab, 1)
    assert seen.repeated <= seen.overtook, "a packet was lost and sent again"
    assert seen.slowest_ms < 900
    for name in ("HANDOFF_AGAIN", "HANDOFF_UNDER_WAY", "HANDOFF_UNPLACED", "HANDOFF_NO_ENTRY"):
        assert after[name] == before[name], name


def test_a_syn_on_the_heels_of_a_reset(lab: Lab) -> None:
    """The SYN, which goes through the primary's stack, may overtake the RST, which does not; or it comes to the server
    in the microseconds in which that ends the old session, and is lost there, also with one gateway and with none.
    Either way TCP sends it again, and the session succeeds."""
    seen = a_thousand(lab, "reset", 0.0)
    assert seen.repeated <= ROUNDS * EACH // 50
    assert seen.slowest_ms < 4000
