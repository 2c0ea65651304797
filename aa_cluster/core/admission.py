# SPDX-License-Identifier: GPL-2.0-or-later
"""May a node join? The primary compares what the node says with its own; every difference is one finding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aa_cluster.core.membership import MAX_NODE, Membership, Node
from aa_cluster.wire.control import Finding, InterfaceFacts, JoinAsk


@dataclass(frozen=True, slots=True)
class Own:
    """The primary's side of the comparison: its interfaces with their physical MACs; ``virtual_macs`` by slot."""

    wire_version: int
    ruleset: str
    interfaces: tuple[InterfaceFacts, ...]
    virtual_macs: tuple[bytes, ...]
    share_helpers: bool = False
    flow_table_size: int = 0


def colons(mac: bytes) -> str:
    return mac.hex(":")


def examine(ask: JoinAsk, own: Own, members: Membership) -> tuple[Finding, ...]:
    """All differences at once; empty means the node may join."""
    return (
        *_version(ask, own),
        *_name(ask, members),
        *_interfaces(ask, own),
        *_macs(ask, own, members),
        *_ruleset(ask, own),
        *_share_helpers(ask, own),
        *_flow_table_size(ask, own),
    )


def _version(ask: JoinAsk, own: Own) -> Iterable[Finding]:
    if ask.wire_version != own.wire_version:
        yield wire_version(ask.wire_version, own.wire_version)


def wire_version(found: int, expected: int) -> Finding:
    return Finding(
        "wire version", str(found), str(expected), "install the same release of aa-cluster on every node of the cluster"
    )


def _name(ask: JoinAsk, members: Membership) -> Iterable[Finding]:
    other = members.by_name(ask.name)
    if other is not None and not _same_machine(ask, other) and other.state not in ("silent", "dead"):
        yield Finding(
            "node name",
            f"{ask.name}, which is {other.state} as node {other.id} at {other.facts.ha_address}",
            "a name no active node has",
            "set [node] name to another one, or let that node leave first",
        )
    if ask.name not in members.ids and len(members.ids) >= MAX_NODE:
        yield Finding(
            "node id",
            "none free",
            f"at most {MAX_NODE} names in a cluster's life",
            "reuse the name of a node that left",
        )


def _same_machine(ask: JoinAsk, node: Node) -> bool:
    """A node that comes back (reboot, new generation) has the hardware it had."""
    return ask.ha_mac == node.facts.ha_mac


def _interfaces(ask: JoinAsk, own: Own) -> Iterable[Finding]:
    theirs = {interface.name: interface for interface in ask.interfaces}
    expected = tuple(interface.name for interface in own.interfaces)
    for interface in own.interfaces:
        other = theirs.get(interface.name)
        if other is None:
            yield missing_interface(interface.name, tuple(theirs))
        else:
            yield from _interface(other, interface)
    for name in theirs:
        if name not in expected:
            yield Finding(
                f"interface {name}",
                "a data interface",
                f"only {', '.join(expected)}",
                "take it out of [data] interfaces, or add it to every node",
            )
    names = tuple(interface.name for interface in ask.interfaces)
    if names != expected and set(names) == set(expected):
        yield Finding(
            "order of data interfaces",
            ", ".join(names),
            ", ".join(expected),
            "list [data] interfaces in the same order on every node",
        )


def missing_interface(name: str, there: tuple[str, ...]) -> Finding:
    return Finding(
        f"interface {name}",
        f"missing (there: {', '.join(there) or 'none'})",
        "a data interface of that name",
        "create it, or correct [data] interfaces: all nodes have the same set",
    )


def _interface(theirs: InterfaceFacts, ours: InterfaceFacts) -> Iterable[Finding]:
    found, expected = routable(theirs.addresses), routable(ours.addresses)
    if found != expected:
        yield Finding(
            f"addresses of {ours.name}",
            ", ".join(found) or "none",
            ", ".join(expected) or "none",
            "give the interface the addresses it has on the primary",
        )
    if theirs.mtu != ours.mtu:
        yield Finding(f"MTU of {ours.name}", str(theirs.mtu), str(ours.mtu), f"ip link set {ours.name} mtu {ours.mtu}")


def routable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Without IPv6 link-local ones, which each node derives from its own MAC; sorted."""
    return tuple(sorted(one for one in addresses if not one.lower().startswith("fe80:")))


def _macs(ask: JoinAsk, own: Own, members: Membership) -> Iterable[Finding]:
    for slot, interface in enumerate(ask.interfaces):
        if interface.mac in own.virtual_macs:
            yield Finding(
                f"MAC of {interface.name}",
                f"{colons(interface.mac)}, a virtual MAC of the cluster",
                "the interface's own physical MAC",
                "set the physical MAC again (ip link set … address …): auxiliaries keep theirs",
            )
            continue
        for name in _who_has(interface.mac, slot, ask.name, own, members):
            yield Finding(
                f"MAC of {interface.name}",
                f"{colons(interface.mac)}, which {name} has too",
                "a MAC no other node has",
                "give one of the two another MAC (cloned virtual machines often share theirs)",
            )


def _who_has(mac: bytes, slot: int, asking: str, own: Own, members: Membership) -> Iterable[str]:
    if mac in (interface.mac for interface in own.interfaces):
        yield "the primary"
    for node in members.nodes.values():
        if node.facts.name != asking and node.facts.macs[slot : slot + 1] == (mac,):
            yield node.facts.name


def _ruleset(ask: JoinAsk, own: Own) -> Iterable[Finding]:
    if ask.ruleset != own.ruleset:
        yield Finding(
            "ruleset",
            f"digest {ask.ruleset[:16]}",
            f"digest {own.ruleset[:16]}",
            "load the primary's nftables/iptables ruleset here (compare `nft list ruleset` on both)",
        )


def _share_helpers(ask: JoinAsk, own: Own) -> Iterable[Finding]:
    """A session with a helper needs both ends of the bargain: the primary's hand-off and the node's announcements."""
    if ask.share_helpers != own.share_helpers:
        yield Finding(
            "policy.share_helpers",
            str(ask.share_helpers).lower(),
            str(own.share_helpers).lower(),
            "set [policy] share_helpers the same on every node",
        )


def _flow_table_size(ask: JoinAsk, own: Own) -> Iterable[Finding]:
    """Every node mirrors the whole table: whoever becomes primary must have found room for every flow."""
    if ask.flow_table_size != own.flow_table_size:
        yield Finding(
            "data.flow_table_size",
            str(ask.flow_table_size),
            str(own.flow_table_size),
            "set [data] flow_table_size the same on every node",
        )
