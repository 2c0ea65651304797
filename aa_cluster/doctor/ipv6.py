# SPDX-License-Identifier: GPL-2.0-or-later
"""What IPv6 needs beside IPv4. Asked only where a data interface has a global IPv6 address.

Every node has the cluster's addresses, so duplicate address detection would find the other nodes: they are set up with
``nodad``, or detection is off on the interface. A node asks for its neighbours from its link-local address, so each
data interface needs one that serves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from aa_cluster.api import Check
from aa_cluster.config import Config
from aa_cluster.doctor.proc import PROC, number_of, text_of
from aa_cluster.doctor.rules import CONNTRACK_USERS, NAT_CHAIN
from aa_cluster.doctor.verdict import failed, passed, warned
from aa_cluster.netlink import addresses6, links, ruleset
from aa_cluster.netlink.addresses6 import Address6

FAMILIES = re.compile(r'"family":"(?:inet|ip6)"|^ip6tables', re.MULTILINE)


def checks(config: Config) -> Iterator[Check]:
    """None when no data interface has a global address."""
    there = [name for name in config.data.interfaces if name in links.names()]
    found = {name: addresses6.read(links.read(name).ifindex) for name in there}
    used = {name: addresses for name, addresses in found.items() if _global(addresses)}
    if not used:
        return
    yield forwarding([*used, config.ha.interface], PROC / "sys/net/ipv6/conf")
    for name, addresses in used.items():
        yield detection(name, addresses, PROC / "sys/net/ipv6/conf")
        yield link_local(name, addresses)
    legacy = (text_of(PROC / "thread-self/net/ip6_tables_names") or "").split()
    text = ruleset.read().text
    yield nat_hooks(text, legacy)
    yield conntrack_hooks(text)


def forwarding(names: Sequence[str], settings: Path) -> Check:
    """On the HA link too: the route look-up that answers a question for a neighbour is asked from there."""
    off = [name for name in ("all", *names) if number_of(settings / name / "forwarding") != 1]
    if off:
        fix = "; ".join(f"sysctl net.ipv6.conf.{name}.forwarding=1" for name in off)
        return failed("ipv6 forwarding", f"forwarding is off on {', '.join(off)}", fix=fix)
    return passed("ipv6 forwarding", "forwarding is on")


def detection(name: str, addresses: Sequence[Address6], settings: Path) -> Check:
    """The larger of ``all`` and the interface's own accept_dad counts (ip-sysctl)."""
    check = f"dad {name}"
    off = f"sysctl net.ipv6.conf.{name}.accept_dad=0 net.ipv6.conf.all.accept_dad=0"
    lost = [one for one in _global(addresses) if one.duplicate or one.tentative]
    if lost:
        return failed(
            check,
            f"{_texts(lost)} cannot be used: another node of the cluster answered for it, or may still",
            fix=f"ip -6 address replace {lost[0].text} dev {name} nodad; and before it {off}",
        )
    looked_for = [one for one in _global(addresses) if not one.nodad]
    values = [number_of(settings / one / "accept_dad") for one in ("all", name)]
    if looked_for and max(value or 0 for value in values) > 0:
        return warned(
            check,
            f"{_texts(looked_for)} without nodad: when the link comes up, the other nodes' same address is found",
            fix=f"set it up with `nodad` (ip -6 address replace {looked_for[0].text} dev {name} nodad), or {off}",
        )
    return passed(check, "no duplicate address detection for the cluster's addresses")


def link_local(name: str, addresses: Sequence[Address6]) -> Check:
    own = [one for one in addresses if one.link_local and not (one.tentative or one.duplicate)]
    if own:
        return passed(f"link-local {name}", own[0].text)
    return failed(
        f"link-local {name}",
        f"{name} has no link-local address that serves: neighbours could not be asked for",
        fix=f"sysctl net.ipv6.conf.{name}.addr_gen_mode=0, then take {name} down and up; "
        f"if it is tentative, sysctl net.ipv6.conf.{name}.accept_dad=0",
    )


def nat_hooks(text: str, legacy_tables: Sequence[str]) -> Check:
    """As for IPv4: without them an adopted entry is inert. A table of family ip does not see IPv6."""
    if any(map(NAT_CHAIN.search, _of_ipv6(text))) or "nat" in legacy_tables:
        return passed("ipv6 nat hooks", "there is a nat chain for IPv6")
    return failed(
        "ipv6 nat hooks",
        "no nat chain sees IPv6: sessions handed off would leave untranslated",
        fix="nft add table ip6 nat; nft 'add chain ip6 nat postrouting { type nat hook postrouting priority srcnat; }'",
    )


def conntrack_hooks(text: str) -> Check:
    if any(map(CONNTRACK_USERS.search, _of_ipv6(text))):
        return passed("ipv6 conntrack hooks", "rules use connection tracking for IPv6")
    return failed(
        "ipv6 conntrack hooks",
        "no rule for IPv6 uses connection tracking, so the kernel does not track its connections here",
        fix="add a rule that does, such as `ct state established,related accept`, to the forward chain of a table of "
        "family inet or ip6 on every node",
    )


def _of_ipv6(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if FAMILIES.search(line))


def _global(addresses: Iterable[Address6]) -> list[Address6]:
    return [one for one in addresses if not one.link_local]


def _texts(addresses: Iterable[Address6]) -> str:
    return ", ".join(one.text for one in addresses)
