# SPDX-License-Identifier: GPL-2.0-or-later
"""QUIC through every node: a long UDP session that many other things could break."""

from __future__ import annotations

import os

import pytest

from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import serving
from aa_cluster.topology.load_udp import quic
from aa_cluster.topology.view import counters, flows_of, only, owners
from tests.topology.hosts import CLIENT, FAMILIES, SERVER, fresh_ports

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(240)]

SIZE = int(os.environ.get("AA_CLUSTER_QUIC_MIB", "10")) << 20
"""Bytes; 100 MiB in `make long`."""
PORT = 4433


@FAMILIES
@pytest.mark.parametrize("owner", [1, 2, 3])
@pytest.mark.parametrize("way", ["take", "send"])
def test_a_transfer_arrives_whole(lab: Lab, way: str, owner: int, family: int) -> None:
    pytest.importorskip("aioquic", reason="aioquic is not installed (make setup installs it)")
    only(lab, owner)
    fresh_ports(lab)
    before = counters(lab, 1)["STEER_DATAGRAM"]
    with serving(lab, "server", "quic", PORT):
        report = quic(lab, "client", way, SERVER[family], PORT, SIZE, timeout=200)
    rows = [
        row for row in flows_of(lab, CLIENT[family], [report.port], (SERVER[family], PORT)) if row.protocol == "udp"
    ]
    assert report.bytes == SIZE
    assert report.sent == report.received
    assert owners(rows) == {f"node{owner}": 1}
    steered = counters(lab, 1)["STEER_DATAGRAM"] - before
    assert (steered > SIZE // 1500) == (owner != 1)
