# SPDX-License-Identifier: GPL-2.0-or-later
"""Links between the nodes break, and nodes live on: there is one primary, or soon again one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aa_cluster.topology.claims import Reign, strays
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from tests.failover import faults
from tests.failover.figures import Figures, Limits
from tests.failover.oracle import primaries, primary, restore, wait_whole
from tests.failover.scenario import go_on, under_load

pytestmark = pytest.mark.lab

ALONE = Limits(worst_ms=1000, median_ms=1000)
"""Everybody but the primary is gone at once."""
LASTS = 2.0
AGREED = 2.0
"""Seconds a partition lasts, and in which there is one primary again when it is healed."""
EVERY = 0.1
SENT = 0.05
"""Seconds after its links were cut until the last frame of a node has been taken from the switch."""


@pytest.fixture
def lab(trio: Lab) -> Lab:
    restore(trio)
    return trio


@contextmanager
def counting_primaries(lab: Lab) -> Iterator[set[str]]:
    """Every node that ever says it is primary while the block runs."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(EVERY):
            seen.update(primaries(lab))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def everywhere(lab: Lab, link: str, silent: bool = False) -> faults.Fault:
    """The link of every node, but the primary's own on a data segment: hosts are there."""
    spared = primary(lab) if link != "ha" else ""
    nodes = [node for node in lab.plan.node_names if node != spared]
    return faults.together("", *(faults.cut(node, link, silent=silent) for node in nodes))


@pytest.mark.parametrize("silent", [False, True], ids=["cut", "mute"])
@pytest.mark.parametrize("link", ["ha", "int"])
def test_one_path_is_gone(lab: Lab, link: str, silent: bool, rounds: int, figures: Figures) -> None:
    """No second primary; sessions go on through the primary alone; healed, all is as before by itself."""
    scenario = f"partition: {link} {'mute' if silent else 'cut'} between all"
    for _ in range(rounds):
        first, fault = primary(lab), everywhere(lab, link, silent)
        with counting_primaries(lab) as seen, under_load(lab) as run:
            run.happen(fault.make, lab)
            go_on(LASTS)
            run.happen(fault.mend, lab)
            figures.add(scenario, run.end([Reign(first)]))
            wait_whole(lab)
        assert seen == {first}
    figures.judge(scenario, ALONE)


def test_the_primary_is_cut_off(lab: Lab, rounds: int, figures: Figures) -> None:
    """All its links lose their carrier, another node is primary; when they are back it says nothing as the cluster."""
    scenario = "partition: the primary alone"
    for _ in range(rounds):
        former = primary(lab)
        fault = faults.cut(former, *(net.name for net in lab.plan.all_networks))
        with under_load(lab, count=240, rate=50) as run:
            cut = run.happen(fault.make, lab)
            successor = until(
                "a successor", lambda former=former: next((one for one in primaries(lab) if one != former), None), 5
            )
            go_on(1.0)
            run.happen(fault.mend, lab)
            assert primary(lab, timeout=AGREED) == successor
            reigns = [Reign(former, until=cut + SENT), Reign(successor, since=cut)]
            figures.add(scenario, run.end(reigns))
        wait_whole(lab)
    figures.judge(scenario, ALONE)


def test_both_paths_are_gone(lab: Lab, rounds: int) -> None:
    """A true partition: all segments fall in two, the primary and the hosts on one side, everybody else on the other.
    There the others elect one of their own, until they meet again."""
    for _ in range(rounds):
        first = primary(lab)
        others = tuple(lab.plan.node(node) for node in lab.plan.node_names if node != first)
        fault = faults.split(others, *(net.name for net in lab.plan.all_networks))
        with under_load(lab, count=240, rate=50) as run:
            run.happen(fault.make, lab)
            until("the other side to have a primary", lambda: len(primaries(lab)) == 2, 5)
            healed = run.happen(fault.mend, lab)
            left = primary(lab, timeout=AGREED)
            go_on(max(0.0, healed + AGREED - time.monotonic()))
            reigns = [Reign(node, until=healed + AGREED) for node in lab.plan.node_names]
            go_on(1.0)
            assert strays(run.watch.claims(), [*reigns, Reign(left)]) == []
        assert primaries(lab) == [left]
        wait_whole(lab)
