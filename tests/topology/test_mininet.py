# SPDX-License-Identifier: GPL-2.0-or-later
"""The same cluster in Mininet passes the same smoke test."""

from __future__ import annotations

import shutil

import pytest

from aa_cluster.topology.deadline import until
from aa_cluster.topology.load import held_sessions

pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def test_mininet(root: None) -> None:
    if shutil.which("brctl") is None:
        pytest.skip("bridge-utils is not installed (make setup installs it)")
    pytest.importorskip("mininet", reason="mininet is not installed (make setup installs it)")
    from aa_cluster.api import Nodes
    from aa_cluster.topology.mininet_cluster import mininet_cluster

    with (
        mininet_cluster(3) as cluster,
        held_sessions(cluster, "client", "10.77.2.100", 80, 30) as outward,
        held_sessions(cluster, "server", "10.77.2.1", 8080, 30) as inward,
    ):
        assert outward.completed == inward.completed == 30, (outward.failed, inward.failed)

        def shares() -> list[int]:
            answer = cluster.client(1).get("/v1/nodes")
            assert isinstance(answer, Nodes)
            return [row.sessions for row in answer.nodes]

        until("twenty sessions on each node", lambda: shares() == [20, 20, 20], 5)
