# SPDX-License-Identifier: GPL-2.0-or-later
"""Much data through an auxiliary: it arrives whole, and past the primary's stack."""

from __future__ import annotations

import os

import pytest

from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import bulk, serving
from aa_cluster.topology.view import forwarded, only, reasons, received
from tests.topology.hosts import FAMILIES, SERVER

pytestmark = [pytest.mark.lab, pytest.mark.slow]

SIZE = int(os.environ.get("AA_CLUSTER_BULK_MIB", "1024")) << 20
"""Bytes each way; the environment can make it less for a quick look."""


@FAMILIES
@pytest.mark.parametrize("way", ["send", "take"])
def test_bulk_through_an_auxiliary(lab: Lab, way: str, family: int) -> None:
    only(lab, 2)
    with serving(lab, "server", "bulk", 7002):
        before = _account(lab, family)
        report = bulk(lab, "client", way, SERVER[family], 7002, SIZE)
        after = _account(lab, family)
    stack, steered, other, seen, arrived = (now - then for now, then in zip(after, before, strict=True))
    assert report.received == report.sent
    assert report.bytes == SIZE
    assert stack < 10, "packets of the session went through the primary's stack"
    assert steered >= SIZE / 1460
    assert -10 < arrived - steered - other < 50, "what was not steered is more than a few other packets"
    assert abs(arrived - seen) < 10, "steer's counters do not account for what came in"


def _account(lab: Lab, family: int) -> tuple[int, ...]:
    """Of the primary: forwarded by its stack, steered by XDP, of neither family (answers to pulses), seen by XDP,
    received on its data interfaces.

    Read one after the other, so that a few packets more may stand in the last.
    """
    counted = {row.name: row.packets for row in reasons(lab, 1) if row.program == "steer"}
    arrived = sum(received(lab, 1, net.name) for net in lab.plan.data)
    return forwarded(lab, 1, family), counted["STEER_TX"], counted["STEER_NOT_IPV4"], sum(counted.values()), arrived
