# SPDX-License-Identifier: GPL-2.0-or-later
"""The packet filter: are NAT and conntrack at work in this namespace, and are the rules the primary's?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from aa_cluster.api import Check
from aa_cluster.config import Config
from aa_cluster.doctor import limits
from aa_cluster.doctor.proc import PROC, number_of, text_of
from aa_cluster.doctor.verdict import failed, passed, skipped, warned
from aa_cluster.netlink import ruleset

SHORT = 12
CONNTRACK_USERS = re.compile(
    r'"ct":|"ct (?:helper|timeout|count)|"(?:masquerade|snat|dnat|redirect|notrack)":'
    r'|"name":"(?:conntrack|state|connmark|CONNMARK|connbytes|connlimit|helper|MASQUERADE|SNAT|DNAT|REDIRECT|NETMAP)"'
    r"|legacy .* -m (?:conntrack|state|connmark|connbytes|connlimit|helper) "
    r"|legacy .* -j (?:CONNMARK|MASQUERADE|SNAT|DNAT|REDIRECT|NETMAP)\b"
)
NAT_CHAIN = re.compile(r'"type":"nat"')


def checks(config: Config, primary_digest: str | None) -> Iterator[Check]:
    found = ruleset.read()
    legacy = (text_of(PROC / "thread-self/net/ip_tables_names") or "").split()
    yield nat_hooks(found.text, legacy)
    yield conntrack_hooks(found.text)
    yield conntrack_size(number_of(Path(PROC / "sys/net/netfilter/nf_conntrack_max")), config.data.flow_table_size)
    yield same_rules(found.digest, primary_digest)
    yield from limits.checks(found.text, config.policy.share_helpers)


def nat_hooks(text: str, legacy_tables: list[str]) -> Check:
    """Without them an adopted entry is inert and its packets leave untranslated.

    From the rules, not from the kernel's list of hooks, which many lack (CONFIG_NETFILTER_NETLINK_HOOK).
    """
    chains = len(NAT_CHAIN.findall(text))
    if chains or "nat" in legacy_tables:
        return passed("nat hooks", "iptables-legacy nat table" if not chains else f"nat chains: {chains}")
    return failed(
        "nat hooks",
        "no nat chain in this namespace: sessions handed off would leave untranslated",
        fix="nft add table ip nat; nft 'add chain ip nat postrouting { type nat hook postrouting priority srcnat; }'",
    )


def conntrack_hooks(text: str) -> Check:
    if CONNTRACK_USERS.search(text):
        return passed("conntrack hooks", "rules use connection tracking")
    return failed(
        "conntrack hooks",
        "no rule uses connection tracking, so the kernel does not track connections here",
        fix="add a rule that does, such as `ct state established,related accept`, to the forward chain of every node",
    )


def conntrack_size(maximum: int | None, flows: int) -> Check:
    if maximum is None:
        return skipped("conntrack table", "nf_conntrack is not loaded yet")
    if maximum < flows:
        return warned(
            "conntrack table",
            f"room for {maximum} connections, data.flow_table_size is {flows}: conntrack fills first",
            fix=f"sysctl net.netfilter.nf_conntrack_max={flows} in the initial namespace, or a smaller flow table",
        )
    return passed("conntrack table", f"room for {maximum} connections, {flows} flows")


def same_rules(own: str, primary: str | None) -> Check:
    if primary is None:
        return skipped("ruleset", f"digest {own[:SHORT]}, no primary to compare with")
    if own == primary:
        return passed("ruleset", f"digest {own[:SHORT]}, as on the primary")
    return failed(
        "ruleset",
        f"digest {own[:SHORT]}, the primary has {primary[:SHORT]}",
        fix="load the same rules on both: compare `nft -s list ruleset` (and iptables-legacy-save) of the two",
    )
