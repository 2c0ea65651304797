# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kind of rule, through every node: sessions complete, and owner and primary have the same entry."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.agreement import compare
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import held_sessions
from aa_cluster.topology.view import flows_of, owners
from tests.topology.hosts import CLIENT, DMZ, FAMILIES, SERVER, fresh_ports

pytestmark = pytest.mark.lab

COUNT = 30
ADDRESS = {"client": CLIENT, "server": SERVER, "dmz": DMZ}


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

    @property
    def family(self) -> int:
        return 6 if self.target.startswith("[") else 4

    def over_ipv6(self) -> Case:
        """The same with the addresses that are written with the same last part."""
        seen = re.sub("/32$", "/128", self.seen_as).replace("/28", "/124")
        return replace(self, target=re.sub(r"^(.*):", r"[\1]:", _ipv6(self.target)), seen_as=_ipv6(seen))


def _ipv6(text: str) -> str:
    return re.sub(r"10\.77\.(\d+)\.(\d+)", r"fd77:\1::\2", text)


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
    Case("npt", "client", "10.77.2.100:80", "server", "10.77.9.100/32"),
    Case("npt", "server", "10.77.9.100:80", "client", "10.77.2.100/32"),
    Case("ct-mark", "client", "10.77.2.100:80", "server", "10.77.2.1/32"),
    Case("ct-mark", "server", "10.77.1.100:80", "client", "10.77.2.100/32"),
)
DMZ_CASES = (
    Case("dmz", "client", "10.77.2.100:80", "server", "10.77.2.1/32"),
    Case("dmz", "client", "10.77.3.100:80", "dmz", "10.77.1.100/32"),
    Case("dmz", "server", "10.77.2.1:8080", "dmz", "10.77.2.100/32"),
    Case("dmz", "dmz", "10.77.2.100:80", "server", "10.77.2.1/32"),
)


def both(cases: tuple[Case, ...]) -> list[Case]:
    return [over for case in cases for over in (case, case.over_ipv6())]


def run(lab: Lab, case: Case, nodes: int) -> None:
    fresh_ports(lab)
    address, port = case.target.replace("[", "").replace("]", "").rsplit(":", 1)
    with held_sessions(lab, case.host, address, int(port), COUNT) as report:
        assert report.completed == COUNT, report.failed
        rows = flows_of(lab, ADDRESS[case.host][case.family], report.ports, (address, int(port)))
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
        assert ipaddress.ip_address(asker.rpartition(":")[0]) in network


@pytest.mark.parametrize("case", both(CASES), ids=str)
def test_two_networks(lab: Lab, case: Case) -> None:
    lab.load_ruleset(rulesets.text(case.ruleset))
    run(lab, case, nodes=3)


@FAMILIES
def test_a_mark_drawn_by_the_primary_is_the_auxiliarys_too(lab: Lab, family: int) -> None:
    """The ct-mark ruleset draws a random mark where there is none: equal marks can only have come with the block."""
    lab.load_ruleset(rulesets.text("ct-mark"))
    fresh_ports(lab)
    with held_sessions(lab, "client", SERVER[family], 80, COUNT) as report:
        assert report.completed == COUNT, report.failed
        rows = flows_of(lab, CLIENT[family], report.ports, (SERVER[family], 80))
        assert not compare(lab, rows).differences
    marks = {flow.mark for flow in rows}
    assert len(marks) > COUNT // 2
    assert 0 not in marks


@pytest.fixture(scope="module")
def dmz_lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, networks=("int", "ext", "dmz"))


@pytest.mark.parametrize("case", both(DMZ_CASES), ids=str)
def test_three_networks(dmz_lab: Lab, case: Case) -> None:
    run(dmz_lab, case, nodes=3)
