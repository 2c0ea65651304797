# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes die, come back, and the next one dies: no stream is lost as long as one node that holds its record lives."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from aa_cluster.topology import rulesets, wiring
from aa_cluster.topology.claims import Reign
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from tests.failover.figures import Figures, Limits
from tests.failover.oracle import primary, restore, rows, tables_differ, wait_whole
from tests.failover.scenario import go_on, under_load

pytestmark = pytest.mark.lab

DIES = Limits(worst_ms=800, median_ms=800)
BOTH_DIE = Limits(worst_ms=2500, median_ms=2500)
"""One after the other: the successor must be primary before it can find that another node is dead, and by then TCP
waits for its third attempt (RFC 6298, 5.5). What is asked for is that nothing is lost."""
TIMES_ROUND = 3
"""Once where every scenario is played once."""
ALONE = 1.0
"""Seconds a node stays away, in which sessions begin that must survive its return."""
SENT = 0.05
FORGET = 3


@pytest.fixture(scope="module")
def quartet(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(4, ruleset=rulesets.text("failover"), election=True)


@pytest.fixture
def lab(quartet: Lab) -> Lab:
    restore(quartet)
    return quartet


def test_one_after_the_other(lab: Lab, rounds: int, figures: Figures) -> None:
    """Each node in turn, the primary among them; under one load, whose streams all live to the end."""
    times = TIMES_ROUND if rounds > 1 else 1
    scenario = f"kill, return, kill the next: {times} times round"
    for _ in range(rounds):
        reigns = [Reign(primary(lab))]
        with under_load(lab, fresh=10) as run:
            for node in list(lab.plan.node_names) * times:
                reigns = fall(lab, run.happen, node, reigns)
                go_on(ALONE)
                lab.revive(node)
                wait_whole(lab)
            figures.add(scenario, run.end(reigns))
    figures.judge(scenario, DIES)


def fall(lab: Lab, happen: Callable[..., float], node: str, reigns: list[Reign]) -> list[Reign]:
    """Kill the node; who has been primary when, now."""
    current = reigns[-1].member
    died = happen(lab.kill, node)
    if node != current:
        return reigns
    successor = primary(lab, timeout=5)
    return [*reigns[:-1], Reign(current, reigns[-1].since, died + SENT), Reign(successor, died)]


def kill_all(lab: Lab, nodes: list[str]) -> None:
    """Dark in the same moment, so that none becomes primary before it dies."""
    for node in nodes:
        for net in lab.plan.all_networks:
            wiring.set_port(lab.plan, node, net, False)
    for node in nodes:
        lab.kill(node)


@pytest.mark.parametrize("with_primary", [False, True], ids=["two auxiliaries", "the primary and an auxiliary"])
def test_two_at_once(lab: Lab, with_primary: bool, rounds: int, figures: Figures) -> None:
    scenario = f"two at once of four: {'with the primary' if with_primary else 'auxiliaries'}"
    for _ in range(rounds):
        first = primary(lab)
        others = [node for node in lab.plan.node_names if node != first]
        victims = [first, others[0]] if with_primary else others[:2]

        with under_load(lab) as run:
            died = run.happen(kill_all, lab, victims)
            successor = primary(lab, timeout=5)
            reigns = [Reign(first, until=died + SENT), Reign(successor, since=died)] if with_primary else [Reign(first)]
            figures.add(scenario, run.end(reigns))
        for node in victims:
            lab.revive(node)
        restore(lab)
    figures.judge(scenario, BOTH_DIE if with_primary else DIES)


def test_who_stays_dead_is_forgotten(lab: Lab) -> None:
    """After ``ha.forget_s`` it is no member any more; when it returns after all it joins like a new one."""
    for node in lab.plan.node_names:
        site = lab.site(node)
        text = site.config.read_text()
        site.config.write_text(text.replace("[ha]\n", f"[ha]\nforget_s = {FORGET}\n"))
        lab.kill_agent(node)
        lab.restart_agent(node)
    wait_whole(lab)
    victim = next(node for node in lab.plan.node_names if node != primary(lab))
    died = time.monotonic()
    lab.kill(victim)
    until("the dead node to be forgotten", lambda: victim not in {row.name for row in rows(lab)}, FORGET + 3)
    assert time.monotonic() - died > FORGET - 0.5
    lab.revive(victim)
    wait_whole(lab)


def test_who_returns_has_all_flows(lab: Lab, figures: Figures) -> None:
    """Sessions are not stopped for it: the same load runs on."""
    victim = next(node for node in lab.plan.node_names if node != primary(lab))
    with under_load(lab, rate=0, fresh=0) as run:
        lab.kill(victim)
        go_on(ALONE)
        lab.revive(victim)
        back = time.monotonic()
        run.running.order("pause")
        until("all tables to be equal", lambda: not tables_differ(lab), 5)
        took = 1000 * (time.monotonic() - back)
        run.running.order("resume")
        figures.add("return: tables equal", run.end([Reign(primary(lab))], extra={"ms after the node is active": took}))
    figures.judge("return: tables equal", DIES)
