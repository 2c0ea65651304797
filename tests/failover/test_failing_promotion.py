# SPDX-License-Identifier: GPL-2.0-or-later
"""The node whose turn it is cannot become primary: it says so and leaves the role to the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.claims import Reign
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import checked, enter
from tests.failover.figures import Figures, Limits
from tests.failover.oracle import primary, restore, wait_whole
from tests.failover.scenario import under_load

pytestmark = pytest.mark.lab

SECOND_CHOICE = Limits(worst_ms=3000, median_ms=3000, again=2)
"""Two elections one after the other: no promise but that nothing is lost."""
SENT = 0.05


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, ruleset=rulesets.text("failover"), election=True)


@contextmanager
def hook_taken(lab: Lab, node: str) -> Iterator[None]:
    """Somebody else's XDP program is where ``steer`` must go."""
    inside = enter(lab.plan.path(node))
    checked([*inside, "ip", "link", "set", "ext", "xdp", "pinned", str(lab.plan.pins / "pass")])
    yield
    checked([*inside, "ip", "link", "set", "ext", "xdp", "off"])


def test_the_next_one_takes_the_role(lab: Lab, rounds: int, figures: Figures) -> None:
    scenario = "primary: killed, its successor fails"
    for _ in range(rounds):
        restore(lab)
        former = primary(lab)
        first, second = sorted(node for node in lab.plan.node_names if node != former)
        with hook_taken(lab, first), under_load(lab) as run:
            died = run.happen(lab.kill, former)
            successor = primary(lab, timeout=5)
            assert successor == second
            problems = until("the failure to be told", lambda: lab.status(first).problems, 2)
            assert any("could not become primary" in problem for problem in problems), problems
            reigns = [Reign(former, until=died + SENT), Reign(second, since=died)]
            figures.add(scenario, run.end(reigns))
        lab.revive(former)
        wait_whole(lab)
    figures.judge(scenario, SECOND_CHOICE)
