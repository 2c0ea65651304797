# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's hosts by family, and ports that nobody used before."""

from __future__ import annotations

import itertools

import pytest

from aa_cluster.topology.capture import ETH_P_IP
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import write_sysctls
from aa_cluster.topology.plan import CLUSTER_HOST, DATA, FAR, HOST

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
ETHERTYPE = {4: ETH_P_IP, 6: 0x86DD}
HEADER = {4: 20, 6: 40}
"""Bytes of an IP header."""
WINDOW = 1000


def _each(number: int, last: int) -> dict[int, str]:
    networks = {net.number: net for net in (*DATA.values(), FAR)}
    return {family: networks[number].address(last, family) for family in (4, 6)}


CLIENT, SERVER, DMZ, FAR_HOST = (_each(number, HOST) for number in (1, 2, 3, 4))
INSIDE, OUTSIDE = (_each(number, CLUSTER_HOST) for number in (1, 2))
"""The cluster, as the client and as the server see it."""

_windows = itertools.cycle(range(20_000, 60_000, WINDOW))


def fresh_ports(lab: Lab) -> None:
    """No source port of the rulesets before: netfilter keeps the decision of an entry it still has."""
    first = next(_windows)
    for host in lab.plan.host_networks:
        write_sysctls(lab.plan.path(host), {"net/ipv4/ip_local_port_range": f"{first} {first + WINDOW - 1}"})


def at(address: str, port: int = 80) -> str:
    """As in a URL."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
