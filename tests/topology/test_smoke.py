# SPDX-License-Identifier: GPL-2.0-or-later
"""Real programs across the cluster: curl against nginx, iperf3, a stream whose every line is checked."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import serving, stream
from aa_cluster.topology.view import only
from tests.topology.hosts import CLIENT, FAMILIES, INSIDE, OUTSIDE, SERVER, at

pytestmark = pytest.mark.lab


@FAMILIES
@pytest.mark.parametrize("owner", [1, 2, 3])
def test_curl_reaches_nginx_both_ways_through_every_node(lab: Lab, owner: int, family: int) -> None:
    only(lab, owner)
    client, server, outside = CLIENT[family], SERVER[family], OUTSIDE[family]
    outward = lab.exec("client", ["curl", "-sS", "-m", "5", f"http://{at(server)}/"])
    inward = lab.exec("server", ["curl", "-sS", "-m", "5", f"http://{at(outside, 8080)}/"])
    published = lab.exec("client", ["curl", "-sS", "-m", "5", f"http://{at(INSIDE[family], 8080)}/"])
    assert outward.stdout.startswith(f"server {server}:80 {outside}:"), outward.stderr
    assert inward.stdout.startswith(f"client {client}:80 {server}:"), inward.stderr
    assert published.stdout.startswith(f"server {server}:80 {outside}:"), published.stderr


@FAMILIES
def test_iperf3_both_ways_through_an_auxiliary(lab: Lab, family: int) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("iperf3 is not installed (make setup installs it)")
    only(lab, 2)
    with lab.popen("server", ["iperf3", "-s"], stdout=subprocess.DEVNULL) as server:
        try:
            until("iperf3 to listen", lambda: ":5201" in lab.exec("server", ["ss", "-Hltn"]).stdout, 5)
            for reverse in ([], ["-R"]):
                done = lab.exec("client", ["iperf3", "-c", SERVER[family], "-t", "1", "-J", *reverse])
                assert done.returncode == 0, done.stdout
                assert json.loads(done.stdout)["end"]["sum_received"]["bytes"] > 10_000_000
        finally:
            server.kill()


@FAMILIES
@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("owner", [1, 2])
def test_every_line_of_a_stream_arrives_once_and_whole(lab: Lab, way: str, owner: int, family: int) -> None:
    only(lab, owner)
    server = SERVER[family]
    with serving(lab, "server", "stream", 7001), stream(lab, "client", way, server, 7001, rate=2000) as running:
        lab.exec("client", ["curl", "-sS", "-m", "5", f"http://{at(server)}/"])  # other traffic meanwhile
        report = running.stop()
    assert report.lines == report.sent > 0
    assert report.wrong == 0
    assert report.retransmits == 0
