# SPDX-License-Identifier: GPL-2.0-or-later
"""What the dataplane is told about an interface."""

from __future__ import annotations

import ipaddress

import pytest

from aa_cluster.agent import survey
from aa_cluster.netlink.links import LinkFacts

MAC = bytes.fromhex("020000000001")
BOTH = ("10.77.1.1/24", "fd77:1::1/64")


def link(addresses: tuple[str, ...], link_locals: tuple[str, ...] = ()) -> LinkFacts:
    return LinkFacts("int", 2, MAC, 1500, addresses, "veth", True, link_locals)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (link(BOTH, ("fe80::1/64", "fe80::ff:fe00:1/64")), "fe80::1"),
        (link(BOTH), "fd77:1::1"),
        (link(BOTH[:1], ("fe80::ff:fe00:1/64",)), "fe80::ff:fe00:1"),
        (link(BOTH[:1]), "::"),
        (link(()), "::"),
    ],
    ids=["link-local", "before there was a carrier", "no global one", "IPv4 only", "nothing"],
)
def test_where_the_primary_asks_from(facts: LinkFacts, expected: str) -> None:
    assert survey.solicitor(facts) == ipaddress.IPv6Address(expected).packed


def test_ports_have_it() -> None:
    facts = link(BOTH)
    (port,) = survey.Survey((facts,), (MAC,), link(("10.77.0.101/24",))).ports((MAC[::-1],))
    assert (port.slot, port.solicitor) == (0, ipaddress.IPv6Address("fd77:1::1").packed)
