# SPDX-License-Identifier: GPL-2.0-or-later
"""The HA link loses a tenth of all frames, doubles a tenth and turns the order of a tenth: the nodes know the same
all the same, and a death costs what it costs on a link that is whole."""

from __future__ import annotations

import time

import pytest

from aa_cluster.errors import TimeoutReached
from aa_cluster.topology.claims import Reign
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.shaping import Shape, Shaped
from tests.failover.autopsy import said
from tests.failover.figures import Figures, Limits
from tests.failover.oracle import primary, restore, tables_differ, wait_whole
from tests.failover.scenario import Round, go_on, under_load

pytestmark = pytest.mark.lab

ROUGH = Shape(lose=0.1, double=0.1, hold=0.1)
GONE = Shape(lose=1.0)
DIES = Limits(worst_ms=2500, median_ms=2500)
"""The promise is that nothing is lost."""
WORKS = 2.0
EQUAL = 1.0
"""Seconds of load over the rough link, and in which the tables are equal when the load pauses."""
SENT = 0.05


@pytest.fixture
def lab(trio: Lab) -> Lab:
    restore(trio)
    return trio


def equal_after(lab: Lab, run: Round) -> float:
    """Pause the load; ms until all tables are equal."""
    run.running.stop_arrivals()
    run.running.order("pause")
    paused = time.monotonic()
    try:
        until("all flow tables to be equal", lambda: not tables_differ(lab), EQUAL)
    except TimeoutReached:
        print("\n".join([*tables_differ(lab), *(said(lab, node) for node in lab.plan.node_names)]))
        raise
    return 1000 * (time.monotonic() - paused)


@pytest.mark.parametrize("victim", ["auxiliary", "primary"])
def test_tables_are_equal_and_a_death_loses_nothing(lab: Lab, victim: str, rounds: int, figures: Figures) -> None:
    scenario = f"rough HA link: {victim} killed"
    for _ in range(rounds):
        first = primary(lab)
        dead = first if victim == "primary" else next(node for node in lab.plan.node_names if node != first)
        with Shaped(lab.plan, ROUGH, range(1, lab.plan.nodes + 1)), under_load(lab) as run:
            go_on(WORKS)
            took = equal_after(lab, run)
            run.running.order("resume")
            go_on(0.5)
            died = run.happen(lab.kill, dead)
            successor = primary(lab, timeout=5)
            reigns = [Reign(first, until=died + SENT if dead == first else float("inf")), Reign(successor, since=died)]
            figures.add(scenario, run.end(reigns, extra={"ms until all tables are equal": took}))
        lab.revive(dead)
        wait_whole(lab)
    figures.judge(scenario, DIES)


def test_a_table_that_differs_is_seen(lab: Lab) -> None:
    """One auxiliary hears nothing on the HA link while sessions begin: its table lacks them."""
    deaf = next(node for node in lab.plan.node_names if node != primary(lab))
    with Shaped(lab.plan, GONE, [lab.plan.node(deaf)]), under_load(lab, 120, 50, patience=2.0) as run:
        with pytest.raises(TimeoutReached):
            equal_after(lab, run)
        assert any(said.startswith(deaf) and " missing" in said for said in tables_differ(lab))
    wait_whole(lab)
