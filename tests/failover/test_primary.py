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
from tests.failover.oracle import primaries, primary, restore, wait_whole
from tests.failover.scenario import go_on, under_load

pytestmark = pytest.mark.lab

DIES = Limits(worst_ms=800, median_ms=400)
UNPLUGGED = Limits(worst_ms=1600, median_ms=800)
MUTE = Limits(worst_ms=1600, median_ms=1000)
GOES_ON = Limits(worst_ms=100, median_ms=100, again=0)
MOMENTS = 0.12, 0.06, 0.18, 0.24, 0.3
"""Seconds since it lost a link, at which the rounds have it die: it has asked, gone half way, let go."""
WAITS = 2.0
"""Seconds for which its successor may leave it the virtual MACs."""
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
@pytest.mark.parametrize("silent", [False, True], ids=["cut", "mute"])
def test_is_unplugged(lab: Lab, silent: bool, link: str, rounds: int, figures: Figures) -> None:
    """A primary that loses a data link gives its role to a node that has all of them; also where the carrier stays, and
    neither nodes nor hosts answer."""
    scenario = f"primary: {link} {'mute' if silent else 'cut'}"
    for _ in range(rounds):
        former = primary(lab)
        with under_load(lab) as run:
            cut = run.happen(lab.cut, former, link, silent)
            until("another primary", lambda former=former: primary(lab) != former, 5)
            successor = primary(lab, timeout=5)
            took = 1000 * (time.monotonic() - cut)
            # The link's neighbours may have their last frame from either in the moment between.
            reigns = [Reign(former, until=cut + took / 1000 + SENT), Reign(successor, since=cut)]
            figures.add(scenario, run.end(reigns, extra={"ms until another node is primary": took}))
        lab.heal(former)
        wait_whole(lab)
    figures.judge(scenario, MUTE if silent else UNPLUGGED)


@pytest.mark.parametrize("loses_all", [False, True], ids=["killed", "cut off"])
def test_dies_while_it_hands_over(lab: Lab, loses_all: bool, rounds: int, figures: Figures) -> None:
    """Whoever it was handing over to, or another one, goes on, wherever it stopped."""
    scenario = f"primary: ext cut, then {'cut off' if loses_all else 'killed'}"
    for number in range(rounds):
        former = primary(lab)
        dies = faults.cut(former, "int", "ha") if loses_all else faults.killed(former)
        with under_load(lab) as run:
            cut = run.happen(lab.cut, former, "ext")
            go_on(MOMENTS[number % len(MOMENTS)])
            died = run.happen(dies.make, lab)
            successor = until(
                "a successor", lambda former=former: next((one for one in primaries(lab) if one != former), None), 5
            )
            reigns = [Reign(former, until=died + WAITS + SENT), Reign(successor, since=cut)]
            figures.add(scenario, run.end(reigns))
        dies.mend(lab)
        lab.heal(former)
        wait_whole(lab)
    figures.judge(scenario, UNPLUGGED)
