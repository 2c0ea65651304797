# SPDX-License-Identifier: GPL-2.0-or-later
"""What the paced streams tell of a gap: the network's is theirs to tell, their own sender's is not the network's."""

from __future__ import annotations

import time

import pytest

from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import PulseReport, longest_ms, pulses, serving, standstill
from aa_cluster.topology.view import only
from tests.topology.hosts import SERVER

pytestmark = pytest.mark.lab

PORT, STREAMS, AWAY = 7031, 10, 0.3


def around(lab: Lab, fault: str) -> tuple[PulseReport, float]:
    """What the streams told, and for how long (ms) a core of this machine was away."""
    only(lab, 2)
    sender = pulses(lab, "client", SERVER[4], PORT, STREAMS)
    with serving(lab, "server", "pulses", PORT), standstill(lab) as still, sender as running:
        time.sleep(0.3)  # this is the time before the fault
        if fault == "cut":
            lab.cut("server", "ext", silent=True)
            time.sleep(AWAY)  # and this the fault
            lab.heal("server", "ext")
        elif fault == "freeze":
            running.freeze(AWAY)
        time.sleep(0.3)
        report, away = running.stop(), longest_ms(still.stop())
    assert (report.broken, report.echoed) == (0, report.lines)
    gaps = f"gap {max(report.gap_ms)} ms, net {max(report.net_ms)}"
    print(f"{fault}: {gaps}, the sender late for {report.late_ms:.0f}, a core away for {away:.0f}")
    return report, away


def test_a_dead_link_is_a_gap_of_every_stream(lab: Lab) -> None:
    report, _ = around(lab, "cut")
    assert min(report.gap_ms) > 900 * AWAY
    assert min(report.net_ms) > 900 * AWAY - report.late_ms


def test_a_sender_that_stands_still_is_no_gap_of_the_network(lab: Lab) -> None:
    report, away = around(lab, "freeze")
    assert report.late_ms > 900 * AWAY
    assert min(report.gap_ms) > 900 * AWAY
    assert max(report.net_ms) < 500 * AWAY + away
