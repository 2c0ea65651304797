# SPDX-License-Identifier: GPL-2.0-or-later
"""FTP through the cluster: control sessions with a conntrack helper, and the data sessions it expects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aa_cluster.api import PolicyChecked, PolicyCheckRequest
from aa_cluster.topology import ftp, rulesets
from aa_cluster.topology.ftp import Report, Site
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.view import counters

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

CLIENT, SERVER, INSIDE = "10.77.1.100", "10.77.2.100", "10.77.1.1"
SESSIONS = 50
SIZES = [0, 1, 700, 1460, 5_000, 16_384, 40_000, 65_537, 100_000, 200_000]

WAYS = pytest.mark.parametrize(
    ("address", "active"),
    [(SERVER, True), (SERVER, False), (INSIDE, False)],
    ids=["active", "passive", "passive-dnat"],
)
"""Active: PORT is rewritten to the masqueraded address; passive through the published one: the answer to PASV is."""


@pytest.fixture(scope="module")
def keeping(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, ruleset=rulesets.text("ftp"))


def transfer(
    lab: Lab, address: str, active: bool, count: int = SESSIONS, passive: tuple[int, int] | None = None
) -> tuple[Report, Site]:
    with ftp.serving(lab, "server", SIZES, passive) as site:
        report = ftp.sessions(lab, "client", address, site, count, active=active)
        assert not report.failed, "; ".join(report.failed)
        assert report.wrong == []
        assert len(report.controls) == count
        assert len(report.transfers) == 2 * count * len(SIZES)
        assert site.stored() == report.stored
        assert len(report.stored) == count * len(SIZES)
        return report, site


@WAYS
def test_all_of_it_stays_on_the_primary(keeping: Lab, address: str, active: bool) -> None:
    before = counters(keeping, 1)
    transfer(keeping, address, active)
    done = counters(keeping, 1) - before
    assert done["HANDOFF_HELPER"] >= SESSIONS
    assert done["HANDOFF_EXPECTED"] >= 2 * SESSIONS * len(SIZES)
    assert done["HANDOFF_SENT"] == done["HANDOFF_LOCAL"] == 0


def test_policy_check_tells_why(keeping: Lab) -> None:
    asked = PolicyCheckRequest(source=CLIENT, source_port=40000, destination=SERVER, destination_port=21)
    told = keeping.client(2).post("/v1/policy/check", asked)
    assert isinstance(told, PolicyChecked)
    assert any("sets ftp; then it stays on the primary" in note for note in told.notes)
