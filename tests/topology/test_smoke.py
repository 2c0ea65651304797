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

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("owner", [1, 2, 3])
def test_curl_reaches_nginx_both_ways_through_every_node(lab: Lab, owner: int) -> None:
    only(lab, owner)
    outward = lab.exec("client", ["curl", "-sS", "-m", "5", "http://10.77.2.100/"])
    inward = lab.exec("server", ["curl", "-sS", "-m", "5", "http://10.77.2.1:8080/"])
    published = lab.exec("client", ["curl", "-sS", "-m", "5", "http://10.77.1.1:8080/"])
    assert outward.stdout.startswith("server 10.77.2.100:80 10.77.2.1:"), outward.stderr
    assert inward.stdout.startswith("client 10.77.1.100:80 10.77.2.100:"), inward.stderr
    assert published.stdout.startswith("server 10.77.2.100:80 10.77.2.1:"), published.stderr


def test_iperf3_both_ways_through_an_auxiliary(lab: Lab) -> None:
    if shutil.which("iperf3") is None:
        pytest.skip("iperf3 is not installed (make setup installs it)")
    only(lab, 2)
    with lab.popen("server", ["iperf3", "-s"], stdout=subprocess.DEVNULL) as server:
        try:
            until("iperf3 to listen", lambda: ":5201" in lab.exec("server", ["ss", "-Hltn"]).stdout, 5)
            for reverse in ([], ["-R"]):
                done = lab.exec("client", ["iperf3", "-c", "10.77.2.100", "-t", "1", "-J", *reverse])
                assert done.returncode == 0, done.stdout
                assert json.loads(done.stdout)["end"]["sum_received"]["bytes"] > 10_000_000
        finally:
            server.kill()


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("owner", [1, 2])
def test_every_line_of_a_stream_arrives_once_and_whole(lab: Lab, way: str, owner: int) -> None:
    only(lab, owner)
    with serving(lab, "server", "stream", 7001), stream(lab, "client", way, "10.77.2.100", 7001, rate=2000) as running:
        lab.exec("client", ["curl", "-sS", "-m", "5", "http://10.77.2.100/"])  # other traffic meanwhile
        report = running.stop()
    assert report.lines == report.sent > 0
    assert report.wrong == 0
    assert report.retransmits == 0
