# SPDX-License-Identifier: GPL-2.0-or-later
"""A hundred thousand SYNs a second from random sources: established sessions do not notice, new ones still succeed.

All of it runs on this machine's cores: generator, switch, hosts, nodes. So what they can carry is measured first, while
SYNs are handed to the other nodes, which costs most, and where a hundred thousand would leave no time for streams and
sessions, the flood is a share of it. ``AA_CLUSTER_FLOOD_RATE`` is what it is to be on any machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import flood, longest_ms, pulses, run_sessions, serving, standstill
from aa_cluster.topology.namespaces import batch, checked, write_sysctls
from aa_cluster.topology.pinned import primary_maps
from aa_cluster.topology.view import counters
from aa_cluster.topology.wiring import poll

pytestmark = [pytest.mark.lab, pytest.mark.slow]

RATE, SLACK = float(os.environ.get("AA_CLUSTER_FLOOD_RATE", "0")), 1.2
"""SYNs a second that must come to the primary, 0: ``WANTED`` or the share; the generator aims at so much more."""
SHARE, PROBE_SECONDS, MORE = 0.55, 4, 400_000
"""Of what the machine carried of ``MORE`` SYNs a second; they come for so long, or until their share is full."""
WANTED, SECONDS, STREAMS, GAP_MS = 100_000, 10, 50, 200
AT_ONCE, ROUNDS, PATIENCE = 10, 5, 4
"""New sessions begun at a time while it lasts, and seconds that each may take, so that its SYN may be lost twice."""
HALF_OPEN = 8
"""Seconds that the lab's nodes hold a half-open session; a Linux gateway comes with 120 and 60."""
SILENT_PORT = 7777
SILENT = f"""
table netdev silent {{
    chain incoming {{
        type filter hook ingress device eth0 priority 0
        tcp dport {SILENT_PORT} drop
    }}
}}
"""
"""The host under attack does not answer: cores that would make answers make the attack here."""
RINGS = 4
"""Of each cable: room for a thousand frames, as a network card has."""
SWEEP = 3
"""Seconds until a sweep has seen what is old."""


@pytest.fixture(scope="module")
def flooded(make_lab: Callable[..., Lab]) -> Lab:
    """Nodes with a way to the world outside, which is where the random sources seem to be: the flood comes from the
    router, whose cable it may fill."""
    lab = make_lab(3, rings=RINGS, far=True)
    short = {f"net/netfilter/nf_conntrack_tcp_timeout_{name}": str(HALF_OPEN) for name in ("syn_sent", "syn_recv")}
    for node in lab.plan.node_names:
        write_sysctls(lab.plan.path(node), short)
        batch(["route add default via 10.77.2.100"], lab.plan.namespace(node))
        spread(lab, node)
    port = lab.plan.port("router", lab.plan.host_networks["server"])
    poll(lab.plan.path("switch"), [port], lab.plan.pins / "pass")  # takes XDP frames
    assert lab.exec("client", ["nft", "-f", "-"], input=SILENT).returncode == 0
    return lab


def spread(lab: Lab, node: str) -> None:
    """The stack's work of the data interfaces on all cores (RPS), as the queues of a network card spread it.

    With RPS only ``steer`` runs before the next frame is taken out of a ring, so what a flood overruns is the stack's
    queue, not the packets of steered sessions.
    """
    cores = f"{(1 << (os.cpu_count() or 1)) - 1:x}"
    for net in lab.plan.data:
        write = f"for queue in /sys/class/net/{net.name}/queues/rx-*; do echo {cores} >$queue/rps_cpus; done"
        checked(["ip", "netns", "exec", lab.plan.namespace(node), "sh", "-ec", write])  # has the namespace's own /sys


def drops(lab: Lab) -> dict[str, int]:
    """Packets that found no room so far: in the stack's queues of this machine, in the ring that a port sends into."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    found = {"stack": sum(int(line.split()[1], 16) for line in lines)}
    for member in ("switch", *lab.plan.node_names, *lab.plan.host_networks):
        links = json.loads(checked(["ip", "-n", lab.plan.namespace(member), "-s", "-j", "link", "show"]))
        found |= {f"{member} {link['ifname']}": link["stats64"]["tx"]["dropped"] for link in links}
    return found


def capacity(lab: Lab, outside: str, tally: np.void, limit: int) -> float:
    """Half-open sessions a second that all nodes can begin when there are more than this machine can carry."""
    with flood(lab, "router", outside, "10.77.1.100", SILENT_PORT, MORE, PROBE_SECONDS) as flooding:
        flooding.start()
        begin, first = moment(tally, 0.1 * limit)
        end, last = moment(tally, 0.9 * limit)
        flooding.wait()
    return (last - first) / (end - begin)


def moment(tally: np.void, half_open: float) -> tuple[float, int]:
    """When there were so many, and how many there were."""
    until("the half-open sessions to grow", lambda: tally["half_open"] >= half_open, PROBE_SECONDS, every=0.002)
    return time.monotonic(), int(tally["half_open"])


def test_a_syn_flood(flooded: Lab) -> None:
    lab = flooded
    outside = next(one.virtual_mac for one in lab.status(1).interfaces if one.name == "ext")
    highest, slowest = 0, 0.0
    with primary_maps(lab) as maps, serving(lab, "server", "pulses", 7010):
        tally, limit = maps["tallies"].view()[0], int(maps["config"].view()["half_open_limit"][0])
        most = capacity(lab, outside, tally, limit)
        wanted = RATE or min(WANTED, SHARE * most)
        until("the table to be empty again", lambda: tally["half_open"] < 10, HALF_OPEN + SWEEP)
        before, dropped = counters(lab, 1), drops(lab)
        with (
            standstill(lab) as still,
            flood(lab, "router", outside, "10.77.1.100", SILENT_PORT, SLACK * wanted, SECONDS) as flooding,
            pulses(lab, "client", "10.77.2.100", 7010, STREAMS) as streams,
        ):
            flooding.start()
            for _ in range(ROUNDS):
                for host, address in (("client", "10.77.2.100"), ("server", "10.77.1.100")):
                    report = run_sessions(lab, host, address, 80, AT_ONCE, PATIENCE)
                    assert report.completed == AT_ONCE, report.failed
                    slowest = max(slowest, report.seconds)
                highest = max(highest, int(tally["half_open"]))
            sent = flooding.wait()
            running, away = streams.stop(), longest_ms(still.stop())
        after = counters(lab, 1)
        refused = after["HANDOFF_HALF_OPEN"] - before["HANDOFF_HALF_OPEN"]
        rate = (after["STEER_SYN"] - before["STEER_SYN"]) / sent.seconds
        lost = {place: now - dropped[place] for place, now in drops(lab).items() if now != dropped[place]}
        print(
            f"{rate:.0f} of {sent.rate:.0f} SYN/s came in {sent.seconds:.1f} s ({most:.0f} at most handed on),",
            f"half open {highest} of {limit},",
            end=" ",
        )
        print(f"{refused} more stayed on the primary, dropped {lost};", end=" ")
        print(f"{STREAMS} streams: gap {max(running.gap_ms)} ms, net {max(running.net_ms)}", end=" ")
        print(f"(their sender late for {running.late_ms:.0f}), a core away for {away:.0f}, ", end="")
        print(f"{running.retransmits} of", end=" ")
        print(f"{running.lines} lines sent again; {2 * ROUNDS * AT_ONCE} new sessions, slowest {slowest:.2f} s")
        assert rate >= wanted, "the generator did not keep up"
        assert (running.broken, running.echoed) == (0, running.lines)
        assert max(running.net_ms) < GAP_MS + away
        assert limit / 2 < highest <= limit + (os.cpu_count() or 1)
        assert refused > 0, "the share was not reached: nothing was tested"
        until("the table to be back to normal", lambda: tally["half_open"] < 10, HALF_OPEN + SWEEP)
    assert run_sessions(lab, "client", "10.77.2.100", 80, 10).completed == 10
