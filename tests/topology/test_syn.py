# SPDX-License-Identifier: GPL-2.0-or-later
"""The first packet of a session: repeated, with data, too large for the block, its checksums."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from subprocess import PIPE

import pytest

from aa_cluster.topology.agreement import compare, original, table
from aa_cluster.topology.capture import Capture
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import fast_open, serving
from aa_cluster.topology.namespaces import write_sysctls
from aa_cluster.topology.tcpframe import TcpFrame, tcp
from aa_cluster.topology.view import counters, flows, flows_of, only
from tests.topology.hosts import CLIENT, ETHERTYPE, FAMILIES, HEADER, SERVER

pytestmark = pytest.mark.lab

QUIET = """
table inet quiet {
    chain incoming {
        type filter hook input priority 0;
        tcp dport 7777 drop
    }
}
"""
CONNECT = """
import socket
s = socket.socket(socket.{family})
s.settimeout({timeout})
print(s.connect_ex(('{address}', {port})))
"""


def connect(lab: Lab, family: int, port: int, timeout: float) -> int:
    """The error number of a connect from the client."""
    name = {4: "AF_INET", 6: "AF_INET6"}[family]
    script = CONNECT.format(timeout=timeout, port=port, address=SERVER[family], family=name)
    return int(lab.exec("client", [sys.executable, "-c", script]).stdout)


def first_packets(capture: Capture, port: int, at: str) -> list[TcpFrame]:
    """SYNs to that destination port that came in at switch ports whose name ends so."""
    return [
        one for one in tcp(capture.frames()) if one.is_first and one.destination_port == port and one.port.endswith(at)
    ]


@pytest.fixture
def silent_port(lab: Lab) -> Iterator[int]:
    """A port of the server where SYNs vanish, so that the client's kernel repeats them."""
    assert lab.exec("server", ["nft", "-f", "-"], input=QUIET).returncode == 0
    yield 7777
    lab.exec("server", ["nft", "delete", "table", "inet", "quiet"])


@FAMILIES
@pytest.mark.parametrize("owner", [1, 2])
def test_a_repeated_syn_has_the_same_owner_and_the_same_nat(
    lab: Lab, silent_port: int, owner: int, family: int
) -> None:
    only(lab, owner)
    with Capture(lab.plan.path("switch"), ETHERTYPE[family]) as capture:
        assert connect(lab, family, silent_port, 3.5) != 0
    sent = first_packets(capture, silent_port, "client-int")
    out = first_packets(capture, silent_port, "-ext")
    assert len(out) == len(sent) >= 3
    assert {one.port for one in out} == {f"node{owner}-ext"}
    assert len({(one.source, one.source_port, one.sequence) for one in out}) == 1
    assert all(one.sums_right for one in out)
    ours = [flow for flow in flows(lab, port=str(silent_port)) if flow.source_port == sent[0].source_port]
    assert [flow.owner_name for flow in ours] == [f"node{owner}"]
    for node in {"node1", f"node{owner}"}:
        entries = [one for one in table(lab, node) if one.source_port == sent[0].source_port]
        assert len(entries) == 1
    assert not compare(lab, ours).differences


REUSE = """
import socket, struct
for turn in range(3):
    s = socket.socket(socket.FAMILY)
    s.settimeout(5)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a RST
    s.bind(("", 19001))
    s.connect(("ADDRESS", 80))
    s.sendall(b"GET / HTTP/1.1\\r\\nHost: lab\\r\\n\\r\\n")
    print(s.recv(4096).split()[1].decode(), flush=True)
    if turn < 2:
        s.close()
input()
"""


@FAMILIES
def test_a_port_used_again_gets_a_session_that_lasts(lab: Lab, family: int) -> None:
    """The same tuple three times, each ended by a RST: every turn works, the last one's entry is held for long."""
    script = REUSE.replace("FAMILY", {4: "AF_INET", 6: "AF_INET6"}[family]).replace("ADDRESS", SERVER[family])
    with lab.popen("client", [sys.executable, "-c", script], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(3)] == ["200"] * 3
        (flow,) = flows_of(lab, CLIENT[family], [19001], (SERVER[family], 80))
        assert flow.state == "established"
        assert not compare(lab, [flow]).differences
        entry = table(lab, "node1")[original(flow)]
        assert entry.timeout > 3600
        process.communicate("\n")


@pytest.fixture
def fast_open_hosts(lab: Lab) -> Lab:
    write_sysctls(lab.plan.path("client"), {"net/ipv4/tcp_fastopen": "5"})
    write_sysctls(lab.plan.path("server"), {"net/ipv4/tcp_fastopen": str(0x202)})
    return lab


@FAMILIES
@pytest.mark.parametrize("size", [200, 201, 3, 480])
@pytest.mark.parametrize("owner", [1, 2])
def test_data_in_the_syn_arrives_byte_for_byte(fast_open_hosts: Lab, owner: int, size: int, family: int) -> None:
    lab = fast_open_hosts
    only(lab, owner)
    with serving(lab, "server", "fastopen", 7003), Capture(lab.plan.path("switch"), ETHERTYPE[family]) as capture:
        report = fast_open(lab, "client", SERVER[family], 7003, size)
    assert report.echoed
    assert report.retransmits == 0
    out = first_packets(capture, 7003, "-ext")
    assert [(one.port, one.payload.hex(), one.sums_right) for one in out] == [(f"node{owner}-ext", report.data, True)]


@FAMILIES
def test_a_syn_without_room_for_the_block_stays_on_the_primary(fast_open_hosts: Lab, family: int) -> None:
    lab = fast_open_hosts
    only(lab, 2)
    with serving(lab, "server", "fastopen", 7004), Capture(lab.plan.path("switch"), ETHERTYPE[family]) as capture:
        fast_open(lab, "client", SERVER[family], 7004, 100)  # lets the client learn the server's MSS
        before = counters(lab, 1)["HANDOFF_NO_ROOM"]
        report = fast_open(lab, "client", SERVER[family], 7004, 1420 - HEADER[family])
    assert report.echoed
    large = [one for one in first_packets(capture, 7004, "-ext") if one.payload.hex() == report.data]
    assert [one.port for one in large] == ["node1-ext"]
    assert counters(lab, 1)["HANDOFF_NO_ROOM"] == before + 1


@pytest.fixture(params=["off", "on"])
def offload(lab: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """Transmit checksum offload along the SYN's way: client, and the switch's ports to primary and auxiliary.

    On, the SYN meets the TC programs of both nodes with an unfinished checksum (CHECKSUM_PARTIAL).
    """
    _offload(lab, request.param)
    yield request.param
    _offload(lab, "off")


def _offload(lab: Lab, state: str) -> None:
    lab.exec("client", ["ethtool", "-K", "eth0", "tx", state])
    for port in ("node1-int", "node2-int"):
        lab.exec("switch", ["ethtool", "-K", port, "tx", state])
    lab.exec("switch", ["ethtool", "-K", "server-ext", "tx", "off"])


@FAMILIES
def test_checksums_are_right_with_transmit_offload_on_and_off(lab: Lab, offload: str, family: int) -> None:
    """Seen where the server receives, behind a switch port that finishes what is still unfinished."""
    only(lab, 2)
    with serving(lab, "server", "stream", 7005), Capture(lab.plan.path("server"), ETHERTYPE[family]) as capture:
        assert connect(lab, family, 7005, 3) == 0
    out = [one for one in tcp(capture.frames()) if one.is_first and one.destination_port == 7005]
    assert [(one.mac[-2:], one.sums_right) for one in out] == [("02", True)]


@FAMILIES
@pytest.mark.parametrize("size", [200, 201])
def test_checksums_over_data_in_the_syn(fast_open_hosts: Lab, offload: str, size: int, family: int) -> None:
    """The block's sum comes in at an even or an odd place of a checksum that is finished or not."""
    lab = fast_open_hosts
    only(lab, 2)
    with serving(lab, "server", "fastopen", 7006), Capture(lab.plan.path("server"), ETHERTYPE[family]) as capture:
        report = fast_open(lab, "client", SERVER[family], 7006, size)
    assert report.echoed
    out = [one for one in tcp(capture.frames()) if one.is_first and one.destination_port == 7006]
    assert [(one.mac[-2:], one.payload.hex(), one.sums_right) for one in out] == [("02", report.data, True)]
