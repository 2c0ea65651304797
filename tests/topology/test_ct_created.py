# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions go on over conntrack entries made in bulk: whoever speaks first, with NAT, under any ruleset."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import numpy as np
import pytest

from aa_cluster.dataplane.flows import ESTABLISHED, FLOW_ROW
from aa_cluster.netlink import conntrack, ct_bulk
from aa_cluster.netlink.conntrack import ConntrackEntry
from aa_cluster.topology import rulesets
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import TalkReport, talks
from aa_cluster.topology.namespaces import inside, write_sysctls

pytestmark = pytest.mark.lab

EACH = 5
KINDS = dict.fromkeys(("pull", "push", "echo", "late-server", "late-client"), EACH)
_ports = itertools.count(7021)
LIFETIMES = {ESTABLISHED: 3600}


@pytest.fixture(scope="module")
def gateway(make_lab: Callable[..., Lab]) -> Lab:
    """One node that has not joined: an ordinary gateway."""
    lab = make_lab(1, joined=0)
    lab.connect(1)
    strict = {"net/netfilter/nf_conntrack_tcp_loose": "0", "net/netfilter/nf_conntrack_tcp_be_liberal": "0"}
    write_sysctls(lab.plan.path("node1"), strict)
    return lab


def rows_of(entries: list[ConntrackEntry]) -> np.ndarray:
    out = np.zeros(len(entries), FLOW_ROW)
    for row, entry in zip(out, entries, strict=True):
        for one, prefix in ((entry.original, ""), (entry.reply, "reply_")):
            for name, address in (("saddr", one.source), ("daddr", one.destination)):
                row[f"{prefix}{name}"][10:] = np.frombuffer(b"\xff\xff" + ip_address(address).packed, "u1")
            row[f"{prefix}sport"], row[f"{prefix}dport"] = one.source_port, one.destination_port
        row["family"], row["protocol"], row["state"], row["mark"] = 4, 6, ESTABLISHED, entry.mark
    return out


def replace_entries(port: int) -> int:
    """Every entry of the sessions with that server is removed, and made anew."""
    before = {one.original: one for one in conntrack.dump(4) if one.reply.source_port == port}
    rows = rows_of(list(before.values()))
    ct_bulk.delete(rows).require("delete entries")
    ct_bulk.create(rows, LIFETIMES).require("create entries")
    after = {one.original: one for one in conntrack.dump(4) if one.original in before}
    assert {key: one.decision for key, one in after.items()} == {key: one.decision for key, one in before.items()}
    return len(before)


@contextmanager
def hushed(gateway: Lab) -> Iterator[None]:
    """No packet comes as far as conntrack: one that meets no entry would be answered with a reset."""
    rules = "table inet hush { chain any { type filter hook prerouting priority -400; policy drop; }; }"
    gateway.exec("node1", ["nft", rules], check=True)
    try:
        yield
    finally:
        gateway.exec("node1", ["nft", "delete", "table", "inet", "hush"], check=True)


def healthy(report: dict[str, TalkReport]) -> bool:
    return not any(one.broken or one.wrong for one in report.values())


@pytest.mark.parametrize("address", ["10.77.2.100", "10.77.1.1"], ids=["SNAT", "DNAT and SNAT"])
@pytest.mark.parametrize("ruleset", ["default", "strict", "open", "no-nat"])
def test_sessions_go_on(gateway: Lab, ruleset: str, address: str) -> None:
    text, port = rulesets.text(ruleset), next(_ports)
    published = address == "10.77.1.1"
    if published and ruleset == "no-nat":
        pytest.skip("nothing is published there")
    gateway.load_ruleset(text.replace("10.77.2.100:80", f"10.77.2.100:{port}"))
    with talks(gateway, ("client", "server"), (address, 8080 if published else port), KINDS, port) as running:
        with hushed(gateway):
            assert inside(gateway.plan.path("node1"), lambda: replace_entries(port)) == EACH * len(KINDS)
        running.speak()
        client, server = running.stop()
    assert healthy(client)
    assert healthy(server)
    assert client["late-server"].lines == server["late-client"].lines == EACH
    assert client["pull"].lines == server["pull"].sent
    assert server["push"].lines == client["push"].sent
    assert client["echo"].lines == client["echo"].sent
