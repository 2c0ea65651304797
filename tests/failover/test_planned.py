# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves that somebody wants: nothing is lost, and hardly anything noticed."""

from __future__ import annotations

import time

import pytest

from aa_cluster.agent.keepalived import ORDINARY
from aa_cluster.api import Flows
from aa_cluster.topology.claims import Reign
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.view import ALL, ask
from tests.failover.figures import Figures, Limits
from tests.failover.oracle import primary, restore, wait_whole
from tests.failover.scenario import under_load

pytestmark = pytest.mark.lab

PLANNED = Limits(worst_ms=100, median_ms=100)
HANDED_OVER = 0.05
"""Seconds after the answer to ``promote`` until the last frame of the former primary has been taken from the
switch."""


@pytest.fixture
def lab(trio: Lab) -> Lab:
    restore(trio)
    return trio


def order(lab: Lab, host: str, *words: str) -> None:
    """An ``aa-cluster`` command on a node; it must succeed."""
    done = lab.exec(host, ["aa-cluster", *words])
    assert done.returncode == 0, done.stderr


def owned(lab: Lab, node: str) -> int:
    rows = ask(lab, primary(lab), "flows", Flows, limit=ALL, state="established").flows
    return sum(row.owner_name == node for row in rows)


def auxiliary(lab: Lab) -> str:
    return next(node for node in lab.plan.node_names if node != primary(lab))


def test_drain_now(lab: Lab, rounds: int, figures: Figures) -> None:
    scenario = "planned: drain --now"
    for _ in range(rounds):
        first, other = primary(lab), auxiliary(lab)
        with under_load(lab) as run:
            assert owned(lab, other) > 100
            run.happen(order, lab, first, "drain", other, "--now")
            assert owned(lab, other) == 0
            figures.add(scenario, run.end([Reign(first)], after=1.0))
        order(lab, first, "undrain", other)
        wait_whole(lab)
    figures.judge(scenario, PLANNED)


def test_leave_now(lab: Lab, rounds: int, figures: Figures) -> None:
    """Who has left is unplugged: he has the cluster's address, and nothing that keeps him from saying so."""
    scenario = "planned: leave --now"
    for _ in range(rounds):
        first, other = primary(lab), auxiliary(lab)
        with under_load(lab) as run:
            left = run.happen(order, lab, other, "leave", "--now")
            for link in lab.plan.networks:
                lab.cut(other, link)
            reigns = [Reign(first), Reign(other, left, time.monotonic())]
            figures.add(scenario, run.end(reigns, after=1.0))
        lab.join(other)
        wait_whole(lab)
    figures.judge(scenario, PLANNED)


def test_a_restarted_agent_stands_in_line_again(lab: Lab) -> None:
    """An auxiliary: it is elected like any other once it knows that it has the whole table, and can be promoted."""
    first, other = primary(lab), auxiliary(lab)
    lab.kill_agent(other)
    lab.restart_agent(other)
    part = lab.site(other).run / "keepalived.part"
    until("its full priority", lambda: part.read_text("ascii") == f"{ORDINARY}\n", 5)
    order(lab, first, "promote", other)
    assert primary(lab) == other
    wait_whole(lab)


def test_promote(lab: Lab, rounds: int, figures: Figures) -> None:
    scenario = "planned: promote"
    for _ in range(rounds):
        first, other = primary(lab), auxiliary(lab)
        with under_load(lab) as run:
            asked = run.happen(order, lab, first, "promote", other)
            answered = time.monotonic()
            reigns = [Reign(first, until=answered + HANDED_OVER), Reign(other, since=asked)]
            extra = {"ms until the answer": 1000 * (answered - asked)}
            figures.add(scenario, run.end(reigns, after=1.0, extra=extra))
        wait_whole(lab)
        assert primary(lab) == other
    figures.judge(scenario, PLANNED)
