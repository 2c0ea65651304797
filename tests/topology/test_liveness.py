# SPDX-License-Identifier: GPL-2.0-or-later
"""Dead nodes and dead links are found in time, busy and stopped ones are left alone; who returns works again."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from aa_cluster.api import Event, Nodes
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import longest_ms, pulses, run_sessions, serving, standstill
from aa_cluster.topology.view import ask, only, set_weights
from tests.topology.test_watch import Watcher

pytestmark = pytest.mark.lab

LIMIT = 0.2
"""Seconds from the cut to the verdict."""
KINDS = "dead,returns,forgotten,link,silent,heard"
BUSY_SECONDS = 60.0
SERVER = "10.77.2.100"


@pytest.fixture(scope="module")
def own_lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3)


@pytest.fixture
def cluster(own_lab: Lab) -> Lab:
    """All links up, all three active, weights 1:1:1."""
    set_weights(own_lab, {1: 1, 2: 1, 3: 1})
    for node in own_lab.plan.node_names:
        if not own_lab.plan.path(node).exists():  # a test that failed left it so
            own_lab.revive(node)
    until("all to be active", lambda: healthy(own_lab), 10)
    return own_lab


def healthy(lab: Lab) -> bool:
    """Every node works, and every link of each auxiliary has answered since it joined."""
    rows = ask(lab, 1, "nodes", Nodes).nodes
    links = [link for row in rows for link in row.links]
    return all(row.state == "active" for row in rows) and all(
        link.heard is not None and link.heard < 100 for link in links
    )


@contextmanager
def both_busy() -> Iterator[None]:
    """As many processes as CPUs that do nothing but calculate."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def states(lab: Lab) -> dict[str, str]:
    return {row.name: row.state for row in ask(lab, 1, "nodes", Nodes).nodes}


def nothing_more(watcher: Watcher, seconds: float) -> bool:
    try:
        event = watcher.next(seconds)
    except queue.Empty:
        return True
    print(f"unexpected: {event}")
    return False


def died(lab: Lab, watcher: Watcher, what: str, cut: Callable[[], None]) -> Event:
    """``cut`` makes one node unfit: the event, which must come in time, but for what the machine stood still."""
    with standstill(lab, "server") as still:
        before = time.time()
        cut()
        done = time.time()
        event = watcher.next(5)
        away = longest_ms(still.stop()) / 1000
    assert event.event == "dead", event
    print(
        f"{what}: {1000 * (event.time - before):.0f} ms after its begin, {1000 * (event.time - done):.0f} after its end"
    )
    assert event.time - done < LIMIT + away
    return event


def returned(lab: Lab, watcher: Watcher, node: str) -> None:
    assert watcher.next(5).event == "returns"
    until(f"{node} to work again", lambda: states(lab)[node] == "active", 5)
    until("its links to answer", lambda: healthy(lab), 5)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize(
    ("link", "why"),
    [("ha", "cut off from the HA link"), ("int", "does not answer on int"), ("ext", "does not answer on ext")],
)
def test_each_link_is_missed_in_time_and_its_node_comes_back(cluster: Lab, link: str, why: str, busy: bool) -> None:
    lab, watcher = cluster, Watcher(cluster, 1, kind=KINDS)

    def round_trip() -> None:
        event = died(lab, watcher, f"node2's {link} is cut", lambda: lab.cut("node2", link))
        assert event.node == "node2"
        assert why in event.text
        assert any(why in problem for problem in lab.status(1).problems)
        lab.heal("node2", link)
        returned(lab, watcher, "node2")

    if busy:
        with both_busy():
            round_trip()
    else:
        round_trip()
    assert lab.status(1).problems == ()
    assert run_sessions(lab, "client", SERVER, 80, 6).completed == 6


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_killed_node_is_missed_in_time_and_comes_back(cluster: Lab, busy: bool) -> None:
    lab, watcher = cluster, Watcher(cluster, 1, kind=KINDS)
    if busy:
        with both_busy():
            event = died(lab, watcher, "node3 is killed", lambda: lab.kill(3))
    else:
        event = died(lab, watcher, "node3 is killed", lambda: lab.kill(3))
    assert event.node == "node3"
    assert any(why in event.text for why in ("does not answer on", "answers on no link", "cut off")), event.text
    until("no link of it to answer", lambda: any("on no link" in one for one in lab.status(1).problems), 1)
    report = run_sessions(lab, "client", SERVER, 80, 6)
    assert report.completed == 6, "new sessions go to the others"
    assert states(lab) == {"node1": "active", "node2": "active", "node3": "dead"}
    lab.revive(3)
    until("all to be active", lambda: healthy(lab), 10)
    only(lab, 3)
    assert run_sessions(lab, "client", SERVER, 80, 2).completed == 2


def test_a_stopped_agent_is_no_dead_node(cluster: Lab) -> None:
    """Its kernel answers: it gets nothing new, and what it has goes on without a gap."""
    lab, watcher = cluster, Watcher(cluster, 1, kind=KINDS, node="node2")
    only(lab, 2)
    talking = pulses(lab, "client", SERVER, 7021, 10)
    with serving(lab, "server", "pulses", 7021), standstill(lab) as still, talking as running:
        lab.pause(2)
        try:
            assert watcher.next(5).event == "silent"
            assert nothing_more(watcher, 1)
        finally:
            lab.heal("node2")
        assert watcher.next(5).event == "heard"
        report, away = running.stop(), longest_ms(still.stop())
    print(f"the agent stood still: largest gap of ten streams {max(report.gap_ms)} ms, net {max(report.net_ms)}")
    assert (report.broken, report.echoed) == (0, report.lines)
    assert max(report.net_ms) < 100 + away
    assert nothing_more(watcher, 0.5)


def test_a_stopped_primary_declares_nobody_dead(cluster: Lab) -> None:
    lab, watcher = cluster, Watcher(cluster, 1, kind=KINDS)
    for _ in range(3):
        lab.pause(1)
        time.sleep(1.0)  # this is the pause
        lab.site("node1").send(signal.SIGCONT)
        assert nothing_more(watcher, 0.7)
    assert states(lab) == {"node1": "active", "node2": "active", "node3": "active"}


def test_the_primarys_own_data_link_kills_nobody(cluster: Lab) -> None:
    lab, watcher = cluster, Watcher(cluster, 1, kind=KINDS)
    lab.cut("node1", "ext")
    event = watcher.next(5)
    assert (event.event, event.node) == ("link", "node1")
    assert "no carrier" in event.text
    assert nothing_more(watcher, 1)
    assert any("own ext" in problem for problem in lab.status(1).problems)
    lab.heal("node1", "ext")
    assert "works again" in watcher.next(5).text
    assert nothing_more(watcher, 0.5)
    assert lab.status(1).problems == ()


def test_without_the_ha_link_the_primary_goes_on_alone(cluster: Lab) -> None:
    lab, watcher = cluster, Watcher(cluster, 1, kind=KINDS)
    lab.cut("node1", "ha")
    told = [watcher.next(5) for _ in range(3)]
    assert [event.event for event in told].count("dead") == 2
    assert run_sessions(lab, "client", SERVER, 80, 6).completed == 6
    lab.heal("node1", "ha")
    until("all to be active", lambda: healthy(lab), 10)


@pytest.mark.slow
def test_no_false_alarm_while_all_cpus_burn(cluster: Lab) -> None:
    lab, watcher = cluster, Watcher(cluster, 1, kind=KINDS)
    with both_busy():
        assert nothing_more(watcher, BUSY_SECONDS)
    print(f"{BUSY_SECONDS:.0f} s with all CPUs busy: nobody declared dead")
    assert states(lab) == {"node1": "active", "node2": "active", "node3": "active"}
