# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``doctor`` says about IPv6, from values given to it."""

from pathlib import Path

import pytest

from aa_cluster.doctor import ipv6
from aa_cluster.netlink.addresses6 import Address6

LINK_LOCAL = Address6("fe80::1/64", link_local=True, nodad=False, tentative=False, duplicate=False)


def cluster(nodad: bool = True, tentative: bool = False, duplicate: bool = False) -> Address6:
    return Address6("fd77:1::1/64", link_local=False, nodad=nodad, tentative=tentative, duplicate=duplicate)


def settings(root: Path, values: dict[str, int]) -> Path:
    for name, value in values.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


@pytest.mark.parametrize(
    ("overall", "inner", "ha", "found"),
    [
        (1, 1, 1, "forwarding is on"),
        (0, 1, 1, "forwarding is off on all"),
        (1, 0, 1, "forwarding is off on int"),
        (1, 1, 0, "forwarding is off on ha"),
    ],
)
def test_forwarding(tmp_path: Path, overall: int, inner: int, ha: int, found: str) -> None:
    values = {"all/forwarding": overall, "int/forwarding": inner, "ha/forwarding": ha}
    check = ipv6.forwarding(["int", "ha"], settings(tmp_path, values))
    assert check.found == found
    assert check.result == ("pass" if found == "forwarding is on" else "fail")
    assert (".forwarding=1" in check.fix) == (check.result == "fail")


@pytest.mark.parametrize(
    ("overall", "own", "nodad", "result"),
    [(0, 0, False, "pass"), (0, 1, True, "pass"), (0, 1, False, "warn"), (2, 0, False, "warn"), (1, 1, True, "pass")],
)
def test_duplicate_address_detection(tmp_path: Path, overall: int, own: int, nodad: bool, result: str) -> None:
    root = settings(tmp_path, {"all/accept_dad": overall, "int/accept_dad": own})
    check = ipv6.detection("int", [LINK_LOCAL, cluster(nodad)], root)
    assert (check.name, check.result) == ("dad int", result)
    assert ("fd77:1::1/64 dev int nodad" in check.fix) == (result == "warn")


@pytest.mark.parametrize(("tentative", "duplicate"), [(True, False), (True, True), (False, True)])
def test_an_address_that_was_found_elsewhere(tmp_path: Path, tentative: bool, duplicate: bool) -> None:
    check = ipv6.detection("int", [cluster(False, tentative, duplicate)], settings(tmp_path, {"int/accept_dad": 1}))
    assert check.result == "fail"
    assert check.found.startswith("fd77:1::1/64 cannot be used")


def test_a_link_local_address_is_needed() -> None:
    assert ipv6.link_local("int", [cluster(), LINK_LOCAL]).found == "fe80::1/64"
    assert ipv6.link_local("int", [cluster()]).result == "fail"
    still = Address6("fe80::1/64", link_local=True, nodad=False, tentative=True, duplicate=False)
    assert ipv6.link_local("int", [cluster(), still]).result == "fail"


@pytest.mark.parametrize(
    ("text", "legacy", "result"),
    [
        ('chain {"family":"ip","name":"post","type":"nat"}\n', [], "fail"),
        ('chain {"family":"inet","name":"post","type":"nat"}\n', [], "pass"),
        ('chain {"family":"ip6","name":"post","type":"nat"}\n', [], "pass"),
        ('chain {"family":"inet","name":"in","type":"filter"}\nchain {"family":"ip","type":"nat"}\n', [], "fail"),
        ("", ["filter", "nat"], "pass"),
        ("", ["filter"], "fail"),
    ],
)
def test_nat_hooks(text: str, legacy: list[str], result: str) -> None:
    assert ipv6.nat_hooks(text, legacy).result == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('rule {"expr":[{"match":{"left":{"ct":{"key":"state"}}}}],"family":"ip"}', "fail"),
        ('rule {"expr":[{"match":{"left":{"ct":{"key":"state"}}}}],"family":"inet"}', "pass"),
        ('rule {"expr":[{"masquerade":null}],"family":"ip6"}', "pass"),
        ("iptables-legacy filter -A FORWARD -m conntrack --ctstate NEW -j ACCEPT", "fail"),
        ("ip6tables-legacy filter -A FORWARD -m conntrack --ctstate NEW -j ACCEPT", "pass"),
    ],
)
def test_conntrack_hooks(text: str, result: str) -> None:
    assert ipv6.conntrack_hooks(text).result == result
