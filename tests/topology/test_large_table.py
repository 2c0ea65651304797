# SPDX-License-Identifier: GPL-2.0-or-later
"""A million flows, and fifty thousand that come and go: what ageing costs, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from aa_cluster.dataplane.flows import ESTABLISHED, count
from aa_cluster.dataplane.maps import Map
from aa_cluster.topology.agreement import table
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import churn
from aa_cluster.topology.namespaces import write_sysctls
from aa_cluster.topology.pinned import primary_maps
from aa_cluster.topology.view import only, set_weights
from tools.bench import flowtable
from tools.bench.stats import quantile

pytestmark = [pytest.mark.lab, pytest.mark.slow]

FLOWS, CAPACITY = 1_000_000, 1_100_000
SPARE = 4_000
"""Written beyond the million: in a table so full a few find no place."""
SESSIONS = int(os.environ.get("AA_CLUSTER_CHURN", "50000"))
TIMEOUT, SWEEP = 3, 20
"""Seconds a closed session is held in this lab, and until sweeps have seen that: two, ten apart at most."""
ROUND = 11.0
"""Seconds that hold one sweep of the table at least: the longest pause is ten."""
PORT, EXCHANGES, TURNS = 7011, 5000, 8
STATES = ("syn_sent", "syn_recv", "fin_wait", "close_wait", "last_ack", "time_wait", "close")


@pytest.fixture(scope="module")
def roomy(make_lab: Callable[..., Lab]) -> Lab:
    """Three nodes with a table for a million flows, and short timeouts for sessions that end.

    Without replication: flows that are written into the table, as here, would be sent to everybody at once, and what
    that costs is not what the sweep costs (docs/replication.md has it).
    """
    lab = make_lab(3, joined=0, extra='\n[replication]\nmode = "off"\n')
    short = {f"net/netfilter/nf_conntrack_tcp_timeout_{name}": str(TIMEOUT) for name in STATES}
    for node in lab.plan.node_names:
        write_sysctls(lab.plan.path(node), short)
        site = lab.site(node)
        site.kill()
        text = site.config.read_text()
        site.config.write_text(text.replace("[data]\n", f"[data]\nflow_table_size = {CAPACITY}\n"))
        lab.restart_agent(node)
    for node in lab.plan.node_names:
        lab.join(node, primary=node == "node1")
    return lab


def test_sessions_that_came_and_went_leave_nothing(roomy: Lab) -> None:
    lab = roomy
    set_weights(lab, {1: 1, 2: 1, 3: 1})
    with primary_maps(lab) as maps:
        report = churn(lab, "client", "10.77.2.100", 80, SESSIONS)
        print(f"{report.completed} sessions in {report.seconds:.1f} s,", end=" ")
        assert (report.completed, report.failed) == (SESSIONS, ())
        start = time.monotonic()
        until("the table to be empty", lambda: count(maps["records"], maps["watermark"]) == 0, TIMEOUT + SWEEP)
        until(
            "no entry on any node", lambda: not any(table(lab, node) for node in lab.plan.node_names), TIMEOUT + SWEEP
        )
        print(f"all gone {time.monotonic() - start:.1f} s after")
        tally = maps["tallies"].view()[0]
        assert (int(tally["half_open"]), int(tally["live"].sum())) == (0, 0)
        assert not maps["buckets"].view()["word"].any()


def test_a_million_flows_cost_little(roomy: Lab) -> None:
    """Latency is that of a running session while the table is swept, against the same session with an empty table."""
    lab = roomy
    only(lab, 2)
    with primary_maps(lab) as maps, echoing(lab):
        before = flowtable.highest(maps)
        per_flow = flowtable.memory(maps) / CAPACITY
        ask(lab)  # warms up
        took = {"empty": [ask(lab) for _ in range(TURNS)]}
        fill(maps)
        start, used = time.monotonic(), agent_ns(lab)
        took["full"] = []
        while time.monotonic() - start < ROUND:
            took["full"].append(ask(lab))
        share = (agent_ns(lab) - used) / 1e9 / (time.monotonic() - start)
        assert count(maps["records"], maps["watermark"]) >= FLOWS
        flowtable.forget(maps, before)
        took["empty"] += [ask(lab) for _ in range(TURNS)]
    figures = {
        (name, part): min(quantile(one, part) for one in runs) / 1000
        for name, runs in took.items()
        for part in (0.5, 0.99)
    }
    print(f"{per_flow:.0f} bytes a flow, the agent takes {share:.1%} of a core, round trips in µs: {figures}")
    assert per_flow < 256
    assert share < 0.10
    assert figures["full", 0.5] < 1.15 * figures["empty", 0.5]
    assert figures["full", 0.99] < 1.5 * figures["empty", 0.99]


def fill(maps: dict[str, Map]) -> None:
    """A million flows of node2 that no packet comes for, the last one 20 s ago: each is looked at by every sweep."""
    first = flowtable.highest(maps) + 1
    flowtable.fill(maps, range(FLOWS + SPARE), int.from_bytes(bytes((10, 77, 2, 1))), 2, ESTABLISHED)
    maps["records"].view()["seen_ns"][first : flowtable.highest(maps) + 1] -= 20_000_000_000


def agent_ns(lab: Lab) -> int:
    """CPU time of the primary's agent so far, all its threads (clock_getcpuclockid(3))."""
    pid = lab.site("node1").pid()
    assert pid is not None
    return time.clock_gettime_ns((~pid << 3) | 2)


def ask(lab: Lab) -> list[int]:
    """Round trips through node2, ns."""
    done = lab.exec("client", pingpong("ask", "10.77.2.100", str(PORT), str(EXCHANGES)))
    assert done.returncode == 0, done.stderr
    took: list[int] = json.loads(done.stdout)
    return took


def pingpong(*arguments: str) -> list[str]:
    """On one core, so that waking another is not what is measured."""
    return ["taskset", "-c", "0", sys.executable, "-m", "tools.bench.pingpong", *arguments]


@contextmanager
def echoing(lab: Lab) -> Iterator[None]:
    with lab.popen("server", pingpong("serve", str(PORT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
