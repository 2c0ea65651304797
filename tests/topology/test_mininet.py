# SPDX-License-Identifier: GPL-2.0-or-later
"""The same cluster in Mininet passes the same smoke test."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest

from aa_cluster.topology.deadline import until
from aa_cluster.topology.load import held_sessions
from tests.topology.hosts import OUTSIDE, SERVER

pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_mininet(root: None) -> None:
    if shutil.which("brctl") is None:
        pytest.skip("bridge-utils is not installed (make setup installs it)")
    pytest.importorskip("mininet", reason="mininet is not installed (make setup installs it)")
    from aa_cluster.api import Nodes
    from aa_cluster.topology.mininet_cluster import mininet_cluster

    with (
        mininet_cluster(3) as cluster,
        ExitStack() as held,
    ):
        for family in (4, 6):
            for host, address, port in (("client", SERVER[family], 80), ("server", OUTSIDE[family], 8080)):
                report = held.enter_context(held_sessions(cluster, host, address, port, 15))
                assert report.completed == 15, report.failed

        def shares() -> list[int]:
            answer = cluster.client(1).get("/v1/nodes")
            assert isinstance(answer, Nodes)
            return [row.sessions for row in answer.nodes]

        until("twenty sessions on each node", lambda: shares() == [20, 20, 20], 5)
