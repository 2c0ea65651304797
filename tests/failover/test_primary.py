# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary dies: another node is elected, has the state, and then the addresses. Under rules that drop what is not
tracked, and under rules that drop nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.claims import Reign
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from tests.failover import faults
from tests.failover.figures import Figures, Limits
from tests.failover.oracle import primary, restore, wait_whole
from tests.failover.scenario import under_load

pytestmark = pytest.mark.lab

DIES = Limits(worst_ms=800, median_ms=400)
UNPLUGGED = Limits(worst_ms=2500, median_ms=2500)
GOES_ON = Limits(worst_ms=100, median_ms=100, again=0)
SENT = 0.05
"""Seconds after its death until the last frame of a node has been taken from the switch."""


@pytest.fixture
def lab(trio: Lab) -> Lab:
    restore(trio)
    return trio


@pytest.mark.parametrize("rules", ["failover", "failover-lenient"])
def test_dies(lab: Lab, rules: str, rounds: int, figures: Figures) -> None:
    """Killed; the next round kills its successor, while it is back as an auxiliary."""
    scenario = f"primary: killed, rules {rules}"
    lab.load_ruleset(rulesets.text(rules))
    for _ in range(rounds):
        former = primary(lab)
        with under_load(lab) as run:
            died = run.happen(lab.kill, former)
            successor = primary(lab, timeout=5)
            took = 1000 * (time.monotonic() - died)
            reigns = [Reign(former, until=died + SENT), Reign(successor, since=died)]
            figures.add(scenario, run.end(reigns, extra={"ms until one node says it is primary": took}))
        status = lab.revive(former)
        assert status.role == "auxiliary", "nobody takes the role back"
        wait_whole(lab)
    lab.load_ruleset(rulesets.text("failover"))
    figures.judge(scenario, DIES)


@pytest.mark.parametrize(
    "make", [faults.agent_killed, faults.agent_frozen, faults.userland_killed], ids=lambda make: make.__name__
)
def test_goes_on_without_its_agent(
    lab: Lab, make: Callable[[str], faults.Fault], rounds: int, figures: Figures
) -> None:
    """A primary whose agent is gone for two seconds stays primary; also without its keepalived: its kernel answers."""
    for _ in range(rounds):
        before = primary(lab)
        fault = make(before)
        scenario = f"primary: {fault.name}"
        with under_load(lab) as run:
            run.happen(fault.make, lab)
            figures.add(scenario, run.end([Reign(before)]))
        fault.mend(lab)
        wait_whole(lab)
        assert primary(lab) == before
    figures.judge(scenario, GOES_ON)


@pytest.mark.parametrize("link", ["int", "ext"])
def test_is_unplugged(lab: Lab, link: str, rounds: int, figures: Figures) -> None:
    """A primary that loses a data link gives its role to a node that has all of them."""
    scenario = f"primary: {link} cut"
    for _ in range(rounds):
        former = primary(lab)
        with under_load(lab) as run:
            cut = run.happen(lab.cut, former, link)
            until("another primary", lambda former=former: primary(lab) != former, 5)
            successor = primary(lab, timeout=5)
            took = 1000 * (time.monotonic() - cut)
            # The link's neighbours may have their last frame from either in the moment between.
            reigns = [Reign(former, until=cut + took / 1000 + SENT), Reign(successor, since=cut)]
            figures.add(scenario, run.end(reigns, extra={"ms until another node is primary": took}))
        lab.heal(former)
        wait_whole(lab)
    figures.judge(scenario, UNPLUGGED)
