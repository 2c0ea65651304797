# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions that an auxiliary begins itself, from the cluster's address: their answers find it."""

from __future__ import annotations

import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from aa_cluster.api import FlowRow
from aa_cluster.netlink import conntrack
from aa_cluster.netlink.conntrack import Tuple
from aa_cluster.netlink.links import read
from aa_cluster.topology import rulesets
from aa_cluster.topology.capture import Capture
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import busy_sessions, datagrams, run_sessions, serving
from aa_cluster.topology.namespaces import inside, write_sysctls
from aa_cluster.topology.view import counters, flows
from aa_cluster.wire.announcement import ETHERTYPE

pytestmark = pytest.mark.lab

SERVER, CLUSTER_EXT = "10.77.2.100", "10.77.2.1"
COUNT = 100
THREE_SYNS = 8.0
"""Seconds until a client has sent its first SYN and the two after it: one is refused, one may be lost."""
OWN_PORT = 25_678
"""None that a socket is given: what is left of a session before (TIME_WAIT) would have it."""
CURL = ["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", f"http://{SERVER}/"]


def reserved(lab: Lab, node: str, protocol: int) -> dict[Tuple, conntrack.ConntrackEntry]:
    """The entries of sessions between the cluster's own address and the server."""
    entries = inside(lab.plan.path(node), lambda: conntrack.dump(family=4))
    return {
        entry.original: entry
        for entry in entries
        if entry.original.protocol == protocol and entry.original.source == CLUSTER_EXT
    }


def of_node(lab: Lab, node: str) -> list[FlowRow]:
    return [row for row in flows(lab) if row.owner_name == node]


@pytest.mark.parametrize("ruleset", ["default", "no-nat"])
def test_a_hundred_of_a_hundred_while_client_sessions_run(lab: Lab, ruleset: str) -> None:
    lab.load_ruleset(rulesets.text(ruleset))
    before = {node: counters(lab, node) for node in (1, 2, 3)}
    with busy_sessions(lab, "client", SERVER, 80, 60, every=0.1) as running:
        for node in ("node2", "node3"):
            codes: Counter[str] = Counter()
            for _ in range(COUNT):
                done = lab.exec(node, CURL)
                codes[done.stdout or done.stderr] += 1
            print(f"{ruleset}, {node}: {dict(codes)}")
            assert codes == {"200": COUNT}
        report = running.stop()
    assert report.failed == ()
    assert report.rounds > 0
    for node in (2, 3):
        told = counters(lab, node) - before[node]
        assert told["ANNOUNCE_FLOW"] >= COUNT  # each SYN; ends as well
    admitted = counters(lab, 1) - before[1]
    assert admitted["ADMIT_NEW"] == 2 * COUNT


def test_primary_and_node_have_the_same_entry_and_let_it_go(lab: Lab) -> None:
    report = run_sessions(lab, "node2", SERVER, 80, 20)
    assert report.completed == 20
    mine, theirs = (reserved(lab, node, socket.IPPROTO_TCP) for node in ("node2", "node1"))
    assert len(mine) >= 20
    for original, entry in mine.items():
        if original.source_port not in report.ports:
            continue  # of a test before: its port may be another node's by now
        on_the_wire = replace(original, source_port=entry.reply.destination_port)
        assert (theirs[on_the_wire].reply, theirs[on_the_wire].mark) == (entry.reply, entry.mark)
    rows = [row for row in of_node(lab, "node2") if row.source == CLUSTER_EXT and row.destination == SERVER]
    used = {entry.reply.destination_port for original, entry in mine.items() if original.source_port in report.ports}
    assert {row.source_port: row.state for row in rows if row.source_port in used} == dict.fromkeys(used, "closed")


def test_datagrams_of_any_size(lab: Lab) -> None:
    """As a resolver or a time client sends them. A question without room for the block under the MTU goes alone."""
    with serving(lab, "server", "datagrams", 5353):
        for node in ("node2", "node3"):
            report = datagrams(lab, node, SERVER, 5353, COUNT)
            print(f"{node}: {report.answered} of {report.asked} answered")
            assert report.failed == []
            rows = [row for row in of_node(lab, node) if row.protocol == "udp" and row.destination == SERVER]
            assert len(rows) >= len(set(report.ports))


def test_announcements_go_to_the_primary_alone(lab: Lab) -> None:
    """A SYN and a FIN a session, unicast from the auxiliary's MAC to the virtual one; nothing comes back."""
    with Capture(lab.plan.path("switch"), ETHERTYPE) as seen:
        assert run_sessions(lab, "node3", SERVER, 80, 3).completed == 3
        until("the last announcement", lambda: len(seen.frames()) >= 6, 5)
    own, virtual = (inside(lab.plan.path(node), lambda: read("ext").mac.hex(":")) for node in ("node3", "node1"))
    ways = {(frame.port, frame.source, frame.destination) for frame in seen.frames()}
    assert ways == {("node3-ext", own, virtual)}


def test_a_port_that_another_node_uses(lab: Lab) -> None:
    """Without NAT both leave with the port their sockets have: the second is refused, and gets another one."""
    lab.load_ruleset(rulesets.text("no-nat"))
    before = {node: counters(lab, node) for node in (1, 3)}
    hold = ["curl", "-sS", "-m", "20", "--local-port", str(OWN_PORT), f"telnet://{SERVER}:7070"]
    with serving(lab, "server", "bulk", 7070), ExitStack() as running:
        first = running.enter_context(opened(lab, "node2", hold))
        until("node2's session", lambda: established(lab, "node2") == 1, 5)
        second = running.enter_context(opened(lab, "node3", hold))
        until("node3's session", lambda: established(lab, "node3") == 1, THREE_SYNS)
        assert established(lab, "node2") == 1
        assert (first.poll(), second.poll()) == (None, None)
    assert (counters(lab, 1) - before[1])["ADMIT_CLASH"] >= 1
    assert (counters(lab, 3) - before[3])["ADOPT_REFUSED"] >= 1


@contextmanager
def opened(lab: Lab, node: str, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A client that stays. If it did not, what it said about that is told at the end, beside the flows there are."""
    process = lab.popen(node, command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        gone, rows = process.poll(), [row for row in flows(lab) if row.destination_port == 7070]
        process.kill()
        print(f"{node}: exit code {gone}", process.communicate(timeout=5)[1], *rows, sep="\n")


def established(lab: Lab, node: str) -> int:
    """Sessions of that node's own to port 7070."""
    return sum(row.destination_port == 7070 and row.state == "established" for row in of_node(lab, node))


def test_datagrams_from_one_port_on_two_nodes(lab: Lab) -> None:
    """The second is refused, and answered all the same, within the time of one more round trip."""
    lab.load_ruleset(rulesets.text("no-nat"))
    for node in ("node2", "node3"):
        write_sysctls(lab.plan.path(node), {"net/ipv4/ip_local_port_range": "45000 45003"})
    before = {node: counters(lab, node) for node in (1, 3)}
    try:
        with serving(lab, "server", "datagrams", 5354):
            reports = [datagrams(lab, node, SERVER, 5354, 30, timeout=1) for node in ("node2", "node3")]
    finally:
        for node in ("node2", "node3"):
            write_sysctls(lab.plan.path(node), {"net/ipv4/ip_local_port_range": "32768 60999"})
    assert [report.failed for report in reports] == [[], []]
    assert (counters(lab, 1) - before[1])["ADMIT_CLASH"] >= 1
    assert (counters(lab, 3) - before[3])["ADOPT_ANOTHER_PORT"] >= 1


def test_what_is_reset_is_forgotten(lab: Lab) -> None:
    """To a closed port: the answer is a reset."""
    done = lab.exec("node2", ["curl", "-sS", "-m", "5", f"http://{SERVER}:81/"])
    assert done.returncode == 7  # refused
    rows = [row for row in of_node(lab, "node2") if row.destination_port == 81]
    assert [row.state for row in rows] == ["closed"]


def test_it_works_in_clusters_of_two_and_five(make_lab: Callable[..., Lab]) -> None:
    for nodes in (2, 5):
        lab = make_lab(nodes)
        assert run_sessions(lab, f"node{nodes}", SERVER, 80, 10).completed == 10
        lab.down()
