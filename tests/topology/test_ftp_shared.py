# SPDX-License-Identifier: GPL-2.0-or-later
"""FTP with share_helpers: control sessions on every node, each data session on its control session's node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from aa_cluster.api import FlowRow
from aa_cluster.topology import ftp, rulesets
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.view import counters, flows
from tests.topology.test_ftp import CLIENT, SESSIONS, SIZES, WAYS, transfer

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

SHARE = "[policy]\nshare_helpers = true\n"


@pytest.fixture(scope="module")
def sharing(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, ruleset=rulesets.text("ftp"), extra=SHARE)


@WAYS
def test_every_data_session_is_with_its_master(sharing: Lab, address: str, active: bool) -> None:
    before = [counters(sharing, node) for node in (2, 3)]
    report, _ = transfer(sharing, address, active)
    rows = flows(sharing)
    control = {row.source_port: row.owner_name for row in rows if row.destination_port == ftp.PORT}
    owners = Counter(control[port] for port in report.controls)
    assert set(owners) == {"node1", "node2", "node3"}
    assert max(owners.values()) - min(owners.values()) <= 1
    data = data_owners(rows, active)
    strays = [one for one in report.transfers if data.get(one.local[1], "node1") != control[one.control]]
    assert strays == []
    for node, old in zip((2, 3), before, strict=True):
        done = counters(sharing, node) - old
        own = owners[f"node{node}"]
        assert done["ADOPT_BY_AGENT"] == own, "each control session once, none repeated"
        assert done["GUARD_EXPECTED"] >= 2 * own * len(SIZES)


def data_owners(rows: tuple[FlowRow, ...], active: bool) -> dict[int, str]:
    """The client's port → owner, of data sessions that have a flow: all but the primary's own."""
    if active:
        return {row.reply_source_port: row.owner_name for row in rows if row.reply_source == CLIENT}
    return {row.source_port: row.owner_name for row in rows if row.source == CLIENT and row.destination_port != ftp.PORT}


__all__ = ["SESSIONS"]
