# SPDX-License-Identifier: GPL-2.0-or-later
"""``doctor`` on a node that works and on nodes where one thing is wrong: a line for each, its fix, the exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from aa_cluster.api import Check, Doctor
from aa_cluster.topology import rulesets, wiring
from aa_cluster.topology.lab import Lab

pytestmark = pytest.mark.lab

LINES = {
    *("kernel", "btf", "kfuncs", "bcc", "nat hooks", "conntrack hooks", "ruleset", "mtu ha"),
    *("ipv6 forwarding", "ipv6 nat hooks", "ipv6 conntrack hooks"),
    *(f"{what} {link}" for what in ("xdp", "veth peer", "offloads", "rp_filter") for link in ("int", "ext")),
    *(f"{what} {link}" for what in ("dad", "link-local") for link in ("int", "ext")),
}
"""What the first releases promise to look at."""


IPV4_ONLY = """
table ip gateway {
    chain hide {
        type nat hook postrouting priority srcnat; policy accept;
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state established,related accept
    }
}
"""


@pytest.fixture(scope="module")
def pair(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab(2)


def examine(lab: Lab, node: int) -> tuple[int, dict[str, Check]]:
    """Exit code, and the checks by name."""
    done = lab.exec(f"node{node}", ["aa-cluster", "-j", "doctor"])
    checks = msgspec.json.decode(done.stdout, type=Doctor).checks
    return done.returncode, {check.name: check for check in checks}


@contextmanager
def broken(lab: Lab, host: str, wrong: str, right: str) -> Iterator[None]:
    """While one command's effect lasts."""
    assert lab.exec(host, wrong.split()).returncode == 0
    try:
        yield
    finally:
        assert lab.exec(host, right.split()).returncode == 0


@pytest.mark.parametrize("node", [1, 2])
def test_a_node_that_works_passes(pair: Lab, node: int) -> None:
    code, checks = examine(pair, node)
    assert set(checks) >= LINES
    assert code == 0
    assert [check for check in checks.values() if check.result == "fail"] == []
    assert all(check.fix for check in checks.values() if check.result == "warn")
    expected = {name: "skip" if name == "ruleset" and node == 1 else "pass" for name in LINES}
    assert {name: checks[name].result for name in LINES} == expected
    if node == 1:
        assert "attached native" in checks["xdp int"].found
    else:
        assert "as on the primary" in checks["ruleset"].found


def test_another_ruleset_than_the_primarys_fails(pair: Lab) -> None:
    wiring.load_ruleset(pair.plan, "node2", rulesets.text("no-nat"))
    try:
        code, checks = examine(pair, 2)
    finally:
        wiring.load_ruleset(pair.plan, "node2", pair.ruleset)
    assert (code, checks["ruleset"].result) == (12, "fail")
    assert "the primary has" in checks["ruleset"].found
    assert checks["ruleset"].fix


def test_rules_that_see_ipv4_only_fail(pair: Lab) -> None:
    wiring.load_ruleset(pair.plan, "node2", IPV4_ONLY)
    try:
        code, checks = examine(pair, 2)
    finally:
        wiring.load_ruleset(pair.plan, "node2", pair.ruleset)
    assert code == 12
    assert checks["nat hooks"].result == checks["conntrack hooks"].result == "pass"
    for name in ("ipv6 nat hooks", "ipv6 conntrack hooks"):
        assert checks[name].result == "fail"
        assert checks[name].fix


def test_ipv6_that_is_not_forwarded_fails(pair: Lab) -> None:
    with broken(
        pair, "node2", "sysctl -qw net.ipv6.conf.int.forwarding=0", "sysctl -qw net.ipv6.conf.int.forwarding=1"
    ):
        code, checks = examine(pair, 2)
    assert (code, checks["ipv6 forwarding"].result) == (12, "fail")
    assert "net.ipv6.conf.int.forwarding=1" in checks["ipv6 forwarding"].fix


def test_an_address_that_would_be_looked_for_warns(pair: Lab) -> None:
    """Set up without ``nodad``, and detection on."""
    address, dad = "fd77:1::1/64 dev int", "net.ipv6.conf.int.accept_dad"
    for command in (f"ip addr del {address}", f"ip addr add {address}", f"sysctl -qw {dad}=1"):
        assert pair.exec("node2", command.split()).returncode == 0
    try:
        code, checks = examine(pair, 2)
    finally:
        for command in (f"sysctl -qw {dad}=0", f"ip addr del {address}", f"ip addr add {address} nodad"):
            assert pair.exec("node2", command.split()).returncode == 0
    assert (code, checks["dad int"].result, checks["dad ext"].result) == (0, "warn", "pass")
    assert f"{address} nodad" in checks["dad int"].fix


def test_a_node_without_ipv6_is_not_asked_about_it(pair: Lab) -> None:
    """What is not used cannot be wrong."""
    off, on = "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=0"
    addresses = [wiring.addressed(net.name, net, 1)[1] for net in pair.plan.data]
    with broken(pair, "node2", f"sysctl -qw {off}", f"sysctl -qw {on}"):
        _, checks = examine(pair, 2)
    for line in addresses:
        assert pair.exec("node2", ["ip", *line.split()]).returncode == 0
    assert not [name for name in checks if name.startswith(("ipv6", "dad", "link-local"))]


def test_no_rules_at_all_fails(pair: Lab) -> None:
    wiring.load_ruleset(pair.plan, "node2", "")
    try:
        code, checks = examine(pair, 2)
    finally:
        wiring.load_ruleset(pair.plan, "node2", pair.ruleset)
    assert code == 12
    for name in ("nat hooks", "conntrack hooks"):
        assert checks[name].result == "fail"
        assert checks[name].fix.startswith(("nft", "add a rule"))


def test_a_veth_peer_that_does_not_poll_fails(pair: Lab) -> None:
    pin = pair.plan.pins / "pass"
    with broken(pair, "switch", "ip link set node1-ext xdp off", f"ip link set node1-ext xdp pinned {pin}"):
        code, checks = examine(pair, 1)
    assert (code, checks["veth peer ext"].result, checks["veth peer int"].result) == (12, "fail", "pass")
    assert "node1-ext xdp pinned" in checks["veth peer ext"].fix


@pytest.mark.parametrize(
    ("wrong", "right", "line", "fix"),
    [
        (
            "sysctl -qw net.ipv4.conf.int.rp_filter=1",
            "sysctl -qw net.ipv4.conf.int.rp_filter=0",
            "rp_filter int",
            "sysctl net.ipv4.conf.int.rp_filter=2",
        ),
        ("ip link set ha mtu 1400", "ip link set ha mtu 1500", "mtu ha", "ip link set ha mtu 1500"),
    ],
)
def test_what_only_warns_does_not_fail(pair: Lab, wrong: str, right: str, line: str, fix: str) -> None:
    with broken(pair, "node2", wrong, right):
        code, checks = examine(pair, 2)
    assert (code, checks[line].result) == (0, "warn")
    assert fix in checks[line].fix


def test_no_room_for_the_block_fails(pair: Lab) -> None:
    with broken(pair, "node2", "ip link set int mtu 180", "ip link set int mtu 1500"):
        code, checks = examine(pair, 2)
    assert (code, checks["mtu int"].result) == (12, "fail")
