# SPDX-License-Identifier: GPL-2.0-or-later
"""A way of 1300 bytes behind a router on the server's side: ICMP errors reach the owner, and so do fragments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import BulkReport, bulk, serving
from aa_cluster.topology.namespaces import write_sysctls
from aa_cluster.topology.plan import FAR_MTU
from aa_cluster.topology.view import counters, only
from tests.topology.hosts import CLIENT, FAMILIES, FAR_HOST, OUTSIDE

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

SIZE = 100 << 20
PORT = 7020
PUBLISHED = 8090
DNAT = (
    f'iifname "ext" ip daddr {OUTSIDE[4]} tcp dport {PUBLISHED} dnat ip to {CLIENT[4]}:{PORT}\n\t\t'
    f'iifname "ext" ip6 daddr {OUTSIDE[6]} tcp dport {PUBLISHED} dnat ip6 to [{CLIENT[6]}]:{PORT}'
)
RULESETS = {
    "NAT": rulesets.text("default").replace('iifname "ext" ip daddr', f'{DNAT}\n\t\tiifname "ext" ip daddr', 1),
    "no NAT": rulesets.text("no-nat"),
}
OWNERS = pytest.mark.parametrize("owner", [1, 2, 3], ids=["primary", "node2", "node3"])
NAT = pytest.mark.parametrize("nat", RULESETS)


@pytest.fixture(scope="module")
def far_lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(3, far=True)


@pytest.fixture
def narrow(far_lab: Lab) -> Lab:
    """The lab, and no host that remembers a path MTU."""
    for host in ("client", "far"):
        for family in ("-4", "-6"):
            far_lab.exec(host, ["ip", family, "route", "flush", "cache"])
    return far_lab


class Counted:
    """What the nodes counted since."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.before = lab, [counters(lab, node) for node in (1, 2, 3)]

    def since(self, node: int) -> Counter[str]:
        return counters(self.lab, node) - self.before[node - 1]


def whole(report: BulkReport, size: int = SIZE) -> None:
    assert report.bytes == size
    assert report.sent == report.received


def learned(lab: Lab, host: str, towards: str) -> bool:
    return f"mtu {FAR_MTU}" in lab.exec(host, ["ip", "route", "get", towards]).stdout


def seen_by(counted: Counted, owner: int) -> None:
    """The error reached the owner, through the primary, and nobody else."""
    primary = counted.since(1)
    assert primary["STEER_ICMP_MISS"] == 0
    if owner == 1:
        assert primary["STEER_ICMP_LOCAL"] > 0
        assert primary["STEER_ICMP"] == 0
        return
    assert primary["STEER_ICMP"] == counted.since(owner)["GUARD_ICMP"] > 0
    assert counted.since(5 - owner)["GUARD_ICMP"] == 0
    assert counted.since(owner)["GUARD_ICMP_NO_ENTRY"] == 0


@FAMILIES
@NAT
@OWNERS
def test_an_upload_learns_the_way(narrow: Lab, nat: str, owner: int, family: int) -> None:
    narrow.load_ruleset(RULESETS[nat])
    only(narrow, owner)
    counted = Counted(narrow)
    with serving(narrow, "far", "bulk", PORT):
        whole(bulk(narrow, "client", "send", FAR_HOST[family], PORT, SIZE))
    seen_by(counted, owner)
    assert learned(narrow, "client", FAR_HOST[family])


@FAMILIES
@NAT
@OWNERS
def test_a_download_comes_whole(narrow: Lab, nat: str, owner: int, family: int) -> None:
    """Here the router tells ``far`` itself; small packets come through the cluster."""
    narrow.load_ruleset(RULESETS[nat])
    only(narrow, owner)
    with serving(narrow, "far", "bulk", PORT):
        whole(bulk(narrow, "client", "take", FAR_HOST[family], PORT, SIZE))
    assert learned(narrow, "far", (OUTSIDE if nat == "NAT" else CLIENT)[family])


@FAMILIES
@NAT
@OWNERS
def test_a_download_by_the_far_host_learns_the_way(narrow: Lab, nat: str, owner: int, family: int) -> None:
    """Errors about the reply direction: the client's answers are what is too large."""
    narrow.load_ruleset(RULESETS[nat])
    only(narrow, owner)
    counted = Counted(narrow)
    address, port = (OUTSIDE[family], PUBLISHED) if nat == "NAT" else (CLIENT[family], PORT)
    with serving(narrow, "client", "bulk", PORT):
        whole(bulk(narrow, "far", "take", address, port, SIZE))
    seen_by(counted, owner)
    assert learned(narrow, "client", FAR_HOST[family])


@pytest.fixture
def fragmenting(narrow: Lab) -> Iterator[Lab]:
    """``far`` sends without DF: the router cuts every full segment in two. (No router cuts IPv6.)"""
    write_sysctls(narrow.plan.path("far"), {"net/ipv4/ip_no_pmtu_disc": "1"})
    yield narrow
    write_sysctls(narrow.plan.path("far"), {"net/ipv4/ip_no_pmtu_disc": "0"})


@NAT
@OWNERS
def test_a_download_in_fragments(fragmenting: Lab, nat: str, owner: int) -> None:
    fragmenting.load_ruleset(RULESETS[nat])
    only(fragmenting, owner)
    counted = Counted(fragmenting)
    with serving(fragmenting, "far", "bulk", PORT):
        whole(bulk(fragmenting, "client", "take", FAR_HOST[4], PORT, SIZE))
    primary, there = counted.since(1), counted.since(owner)
    if owner == 1:
        assert primary["STEER_FRAGMENT_LOCAL"] > 2 * SIZE // 1500
        return
    assert min(primary["STEER_FRAGMENT_FIRST"], primary["STEER_FRAGMENT_LATER"]) > SIZE // 1500
    steered = primary["STEER_FRAGMENT_FIRST"] + primary["STEER_FRAGMENT_LATER"]
    # A veth holds 256 frames and drops what comes on top, as any wire may; TCP has sent that again.
    assert 0.99 * steered < there["GUARD_FRAGMENT"] <= steered
