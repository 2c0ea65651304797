# SPDX-License-Identifier: GPL-2.0-or-later
"""The data interfaces and the HA link: there, distinct, roomy, and able to send back out what XDP steers."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from aa_cluster.api import Check
from aa_cluster.config import Config, virtual_mac
from aa_cluster.doctor import drivers
from aa_cluster.doctor.proc import PROC, number_of
from aa_cluster.doctor.verdict import failed, passed, skipped, warned
from aa_cluster.netlink import links
from aa_cluster.netlink.links import LinkFacts

BLOCK_BYTES = 80
HEADERS = 60 + 60
"""The longest IPv4 and TCP headers."""
HA_MTU = 1500
STRICT = 1


def checks(config: Config) -> Iterator[Check]:
    found, absent = _read((*config.data.interfaces, config.ha.interface))
    yield present(found, absent)
    data = [facts for facts in found if facts.name in config.data.interfaces]
    yield distinct(config, data)
    for facts in data:
        yield data_room(facts)
    for facts in found:
        if facts.name == config.ha.interface:
            yield ha_room(facts)
    yield from forwarding(found, PROC / "sys/net/ipv4")
    for facts in data:
        yield reverse_path(facts.name, PROC / "sys/net/ipv4/conf")
        yield from drivers.checks(facts, config.data.xdp)


def _read(names: Sequence[str]) -> tuple[list[LinkFacts], list[str]]:
    there = links.names()
    return [links.read(name) for name in names if name in there], [name for name in names if name not in there]


def present(found: Sequence[LinkFacts], absent: Sequence[str]) -> Check:
    """All there, up, and with an IPv4 address (what the cluster answers for, and what the HA link talks from)."""
    troubles = [f"{name} does not exist" for name in absent]
    troubles += [f"{facts.name} is down" for facts in found if not facts.up]
    troubles += [f"{facts.name} has no IPv4 address" for facts in found if not _ipv4(facts)]
    if troubles:
        return failed(
            "interfaces",
            "; ".join(troubles),
            fix="create, address and raise them (ip link set NAME up), or correct the names in the configuration",
        )
    return passed("interfaces", ", ".join(f"{one.name} {_ipv4(one)[0]}" for one in found))


def distinct(config: Config, data: Sequence[LinkFacts]) -> Check:
    """No virtual MAC and no network twice; VLANs of one card rightly share a physical MAC."""
    macs = Counter(virtual_mac(config, slot) for slot in range(len(config.data.interfaces)))
    networks = Counter(network for facts in data for network in _networks(facts))
    troubles = [f"virtual MAC {mac.hex(':')} stands for two interfaces" for mac, times in macs.items() if times > 1]
    troubles += [f"network {network} is on two interfaces" for network, times in networks.items() if times > 1]
    if troubles:
        return failed(
            "duplicates",
            "; ".join(troubles),
            fix="give each data interface a network and a virtual MAC of its own (data.virtual_macs)",
        )
    return passed("duplicates", "virtual MACs and networks of the data interfaces are distinct")


def data_room(facts: LinkFacts) -> Check:
    """A handed-off SYN carries the block; one without data always fits where 576 bytes do (RFC 791)."""
    name = f"mtu {facts.name}"
    room = facts.mtu - HEADERS - BLOCK_BYTES
    if room < 0:
        return failed(
            name,
            f"{facts.mtu} bytes: no room for the handoff block, every session would stay on the primary",
            fix=f"ip link set {facts.name} mtu 1500",
        )
    return passed(name, f"{facts.mtu} bytes: a SYN with up to {room} bytes of data can be handed off")


def ha_room(facts: LinkFacts) -> Check:
    name = f"mtu {facts.name}"
    if facts.mtu < HA_MTU:
        return warned(
            name,
            f"{facts.mtu} bytes on the HA link: heartbeats of a large cluster are fragmented",
            fix=f"ip link set {facts.name} mtu {HA_MTU}",
        )
    return passed(name, f"{facts.mtu} bytes on the HA link")


def forwarding(found: Sequence[LinkFacts], settings: Path) -> Iterator[Check]:
    """On the HA link too: the route look-up that answers an ARP question is asked from there."""
    off = [one.name for one in found if number_of(settings / "conf" / one.name / "forwarding") != 1]
    if number_of(settings / "ip_forward") != 1:
        yield failed("ip_forward", "forwarding is off", fix="sysctl net.ipv4.ip_forward=1")
    elif off:
        fix = "; ".join(f"sysctl net.ipv4.conf.{name}.forwarding=1" for name in off)
        yield failed("ip_forward", f"forwarding is off on {', '.join(off)}", fix=fix)
    else:
        yield passed("ip_forward", "forwarding is on")


def reverse_path(name: str, settings: Path) -> Check:
    """The stricter of ``all`` and the interface's own counts (ip-sysctl)."""
    values = [number_of(settings / one / "rp_filter") for one in ("all", name)]
    if None in values:
        return skipped(f"rp_filter {name}", "no such setting here")
    effective = max(value for value in values if value is not None)
    if effective == STRICT:
        return warned(
            f"rp_filter {name}",
            "strict: packets whose way back leads through another interface are dropped, on every node",
            fix=f"sysctl net.ipv4.conf.{name}.rp_filter=2 (loose), unless routes are symmetric",
        )
    return passed(f"rp_filter {name}", "loose" if effective else "off")


def _networks(facts: LinkFacts) -> set[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return {ipaddress.ip_interface(address).network for address in facts.addresses}


def _ipv4(facts: LinkFacts) -> list[str]:
    return [address for address in facts.addresses if ipaddress.ip_interface(address).version == 4]
