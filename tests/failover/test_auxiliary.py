# SPDX-License-Identifier: GPL-2.0-or-later
"""An auxiliary dies, or half of it: its streams go on by the primary."""

from __future__ import annotations

import pytest

from aa_cluster.topology.claims import Reign
from aa_cluster.topology.lab import Lab
from tests.failover import faults
from tests.failover.figures import Figures, Limits
from tests.failover.oracle import primary, restore, wait_whole
from tests.failover.scenario import under_load

pytestmark = pytest.mark.lab

DIES = Limits(worst_ms=500, median_ms=300)
GOES_ON = Limits(worst_ms=100, median_ms=100, again=0)
"""What a busy machine does to a stream that nothing happens to."""


@pytest.fixture
def lab(trio: Lab) -> Lab:
    """Node 1 is the primary: the faults are the others'."""
    restore(trio)
    first = primary(trio)
    if first != "node1":
        assert trio.exec(first, ["aa-cluster", "promote", "node1"]).returncode == 0
        wait_whole(trio)
    return trio


@pytest.mark.parametrize(
    "fault",
    [
        faults.killed(2),
        faults.cut(2, "ha"),
        faults.cut(2, "int"),
        faults.cut(2, "ext"),
        faults.cut(2, "ha", silent=True),
        faults.cut(3, "ext", silent=True),
    ],
    ids=lambda fault: fault.name,
)
def test_dies(lab: Lab, fault: faults.Fault, rounds: int, figures: Figures) -> None:
    scenario = f"auxiliary: {fault.name}"
    play(lab, fault, scenario, rounds, figures)
    figures.judge(scenario, DIES)


@pytest.mark.parametrize("fault", [faults.agent_killed(2), faults.agent_frozen(2)], ids=lambda fault: fault.name)
def test_goes_on_without_its_agent(lab: Lab, fault: faults.Fault, rounds: int, figures: Figures) -> None:
    scenario = f"auxiliary: {fault.name}"
    play(lab, fault, scenario, rounds, figures)
    figures.judge(scenario, GOES_ON)


def play(lab: Lab, fault: faults.Fault, scenario: str, rounds: int, figures: Figures) -> None:
    """Under load the fault, and nobody else becomes primary by it."""
    reigns = [Reign(primary(lab))]
    for _ in range(rounds):
        with under_load(lab) as run:
            run.happen(fault.make, lab)
            figures.add(scenario, run.end(reigns))
        fault.mend(lab)
        wait_whole(lab)
