# SPDX-License-Identifier: GPL-2.0-or-later
"""A real name server behind the cluster: kept on the primary as by default, and through every node if a rule
says so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load_udp import DnsReport, dns, name_server
from aa_cluster.topology.namespaces import write_sysctls
from aa_cluster.topology.view import counters, flows_of, only
from tests.topology.hosts import CLIENT, FAMILIES, SERVER

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(180)]

QUERIES = int(os.environ.get("AA_CLUSTER_QUERIES", "20000"))
"""How many; 100,000 in `make long`."""
EACH = 10
"""Of each socket: the masquerade's ports do not suffice for as many sessions within conntrack's 30 seconds."""
PORTS = 10_000
"""Of the client, for each owner's test: sessions of the one before are still there."""
SHARED = """
[policy]
rules = [{ action = "share", protocol = "udp", ports = "53" }]
"""


@pytest.fixture
def names(lab: Lab) -> Iterator[Lab]:
    yield from with_names(lab)


@pytest.fixture(scope="module")
def sharing_lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, extra=SHARED)


@pytest.fixture
def sharing(sharing_lab: Lab) -> Iterator[Lab]:
    yield from with_names(sharing_lab)


def with_names(lab: Lab) -> Iterator[Lab]:
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq is not installed (make setup installs it)")
    with name_server(lab, "server"):
        yield lab


def all_answered(report: DnsReport) -> None:
    assert report.answered == report.asked == QUERIES, report.failed
    assert report.again == 0, "queries were lost"


@FAMILIES
def test_by_default_names_are_asked_for_through_the_primary(names: Lab, family: int) -> None:
    """None of its queries pays for a hand-off: no flow, no record, nothing at an auxiliary."""
    only(names, 2)
    before = [counters(names, node) for node in (1, 2)]
    report = dns(names, "client", SERVER[family], count=QUERIES, each=EACH)
    primary, auxiliary = (counters(names, node) - then for node, then in zip((1, 2), before, strict=True))
    all_answered(report)
    assert flows_of(names, CLIENT[family], report.ports, (SERVER[family], 53)) == []
    assert primary["HANDOFF_KEPT_BY_RULE"] >= QUERIES // EACH
    assert primary["HANDOFF_SENT"] == auxiliary["ADOPT_NEW"] == 0


@FAMILIES
@pytest.mark.parametrize("owner", [1, 2, 3])
def test_through_every_node_if_a_rule_shares_them(sharing: Lab, owner: int, family: int) -> None:
    only(sharing, owner)
    first = 20_000 + (owner - 1) * PORTS
    write_sysctls(sharing.plan.path("client"), {"net/ipv4/ip_local_port_range": f"{first} {first + PORTS - 1}"})
    before = [counters(sharing, node) for node in (1, 2, 3)]
    report = dns(sharing, "client", SERVER[family], count=QUERIES, each=EACH)
    since = [counters(sharing, node) - then for node, then in zip((1, 2, 3), before, strict=True)]
    all_answered(report)
    assert since[0]["HANDOFF_KEPT_BY_RULE"] == 0
    adopted = {node: one["ADOPT_NEW"] for node, one in zip((1, 2, 3), since, strict=True)}
    assert owner == 1 or adopted.pop(owner) > QUERIES // EACH // 2  # a port that comes again has its flow still
    assert not any(adopted.values())
