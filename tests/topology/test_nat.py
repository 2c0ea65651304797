# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kind of rule, through every node: sessions complete, and owner and primary have the same entry."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.agreement import compare
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import held_sessions
from aa_cluster.topology.namespaces import write_sysctls
from aa_cluster.topology.view import flows_of, owners

pytestmark = pytest.mark.lab

COUNT = 30
ADDRESS = {"client": "10.77.1.100", "server": "10.77.2.100", "dmz": "10.77.3.100"}


@dataclass(frozen=True)
class Case:
    """Sessions from ``host`` to ``target``; ``answers``: who does; ``seen_as``: the network it sees them come from."""

    ruleset: str
    host: str
    target: str
    answers: str
    seen_as: str

    def __str__(self) -> str:
        return f"{self.ruleset}: {self.host} to {self.target}"


CASES = (
    Case("default", "client", "10.77.2.100:80", "server", "10.77.2.1/32"),
    Case("default", "client", "10.77.1.1:8080", "server", "10.77.2.1/32"),
    Case("default", "server", "10.77.2.1:8080", "client", "10.77.2.100/32"),
    Case("snat-pool", "client", "10.77.2.100:80", "server", "10.77.9.0/28"),
    Case("dnat", "client", "10.77.1.1:8080", "server", "10.77.1.100/32"),
    Case("dnat", "server", "10.77.2.1:8080", "client", "10.77.2.100/32"),
    Case("hairpin", "client", "10.77.1.1:8080", "server", "10.77.2.1/32"),
    Case("hairpin", "client", "10.77.1.1:8081", "client", "10.77.1.1/32"),
    Case("no-nat", "client", "10.77.2.100:80", "server", "10.77.1.100/32"),
    Case("no-nat", "server", "10.77.1.100:80", "client", "10.77.2.100/32"),
    Case("ct-mark", "client", "10.77.2.100:80", "server", "10.77.2.1/32"),
    Case("ct-mark", "server", "10.77.1.100:80", "client", "10.77.2.100/32"),
)
DMZ_CASES = (
    Case("dmz", "client", "10.77.2.100:80", "server", "10.77.2.1/32"),
    Case("dmz", "client", "10.77.3.100:80", "dmz", "10.77.1.100/32"),
    Case("dmz", "server", "10.77.2.1:8080", "dmz", "10.77.2.100/32"),
    Case("dmz", "dmz", "10.77.2.100:80", "server", "10.77.2.1/32"),
)


_thousands = itertools.cycle(range(20_000, 60_000, 1000))


def fresh_ports(lab: Lab) -> None:
    """No source port of the rulesets before: netfilter keeps the decision of an entry it still has."""
    first = next(_thousands)
    for host in lab.plan.host_networks:
        write_sysctls(lab.plan.path(host), {"net/ipv4/ip_local_port_range": f"{first} {first + 999}"})


def run(lab: Lab, case: Case, nodes: int) -> None:
    fresh_ports(lab)
    address, port = case.target.split(":")
    with held_sessions(lab, case.host, address, int(port), COUNT) as report:
        assert report.completed == COUNT, report.failed
        rows = flows_of(lab, ADDRESS[case.host], report.ports, (address, int(port)))
        shares, agreement = owners(rows), compare(lab, rows)
    assert shares == {f"node{index}": COUNT // nodes for index in range(1, nodes + 1)}
    assert not agreement.differences
    assert agreement.compared == COUNT * (nodes - 1) // nodes
    _as_seen(report.seen, case)


def _as_seen(seen: tuple[str, ...], case: Case) -> None:
    """Each line is ``NAME its-address:port asker's-address:port``."""
    network = ipaddress.ip_network(case.seen_as)
    for line in seen:
        name, _, asker = line.split()
        assert name == case.answers
        assert ipaddress.ip_address(asker.partition(":")[0]) in network


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_networks(lab: Lab, case: Case) -> None:
    lab.load_ruleset(rulesets.text(case.ruleset))
    run(lab, case, nodes=3)


def test_a_mark_drawn_by_the_primary_is_the_auxiliarys_too(lab: Lab) -> None:
    """The ct-mark ruleset draws a random mark where there is none: equal marks can only have come with the block."""
    lab.load_ruleset(rulesets.text("ct-mark"))
    fresh_ports(lab)
    with held_sessions(lab, "client", "10.77.2.100", 80, COUNT) as report:
        assert report.completed == COUNT, report.failed
        rows = flows_of(lab, "10.77.1.100", report.ports, ("10.77.2.100", 80))
        assert not compare(lab, rows).differences
    marks = {flow.mark for flow in rows}
    assert len(marks) > COUNT // 2
    assert 0 not in marks


@pytest.fixture(scope="module")
def dmz_lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, networks=("int", "ext", "dmz"))


@pytest.mark.parametrize("case", DMZ_CASES, ids=str)
def test_three_networks(dmz_lab: Lab, case: Case) -> None:
    run(dmz_lab, case, nodes=3)
