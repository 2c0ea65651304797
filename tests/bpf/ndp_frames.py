# SPDX-License-Identifier: GPL-2.0-or-later
"""Neighbour discovery and what the relay makes of it, as scapy builds it: checksums right unless said otherwise."""

from __future__ import annotations

from ipaddress import IPv6Address

from scapy.layers.inet6 import (
    ICMPv6MLQuery,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tests.bpf.harness import CLIENT_MAC, HA_MAC, OTHER, PHYSICAL, VIRTUAL, node_ha_mac, node_mac

CLUSTER_IP6 = "fd77:1::1"
CLIENT6 = "fd77:1::100"
UNKNOWN6 = "fd77:1::12:3456"
OWN_LOCAL = "fe80::ff:fe01:1"
"""Link-local, of the node itself."""
HOST_LOCAL = "fe80::ff:fe00:c01"
NOWHERE = "::"
ALL_NODES, ALL_ROUTERS, MLD_ROUTERS = "ff02::1", "ff02::2", "ff02::16"


def solicited_node(target: str) -> str:
    return str(IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + IPv6Address(target).packed[13:]))


def group_mac(group: str) -> str:
    return (b"\x33\x33" + IPv6Address(group).packed[12:]).hex(":")


def whole(
    source: str, destination: str, message: Packet, to: str | None = None, mac: str = PHYSICAL, **ip: int
) -> Packet:
    """From ``mac``, to where the destination's multicast goes, or ``to``."""
    head = Ether(src=mac, dst=to or group_mac(destination))
    return Ether(bytes(head / IPv6(**{"src": source, "dst": destination, "hlim": 255} | ip) / message))


def solicitation(target: str = UNKNOWN6, source: str = OWN_LOCAL, to: str | None = None, **ip: int) -> Packet:
    """As an auxiliary's kernel makes it. ``to``: a MAC, for a unicast probe."""
    message = ICMPv6ND_NS(tgt=target)
    if source != NOWHERE:
        message /= ICMPv6NDOptSrcLLAddr(lladdr=PHYSICAL)
    return whole(source, target if to else solicited_node(target), message, to, **ip)


def advertisement(
    target: str = UNKNOWN6, to: str = OWN_LOCAL, mac: str = CLIENT_MAC, options: tuple[Packet, ...] = (), **flags: int
) -> Packet:
    """As a host answers the primary."""
    message: Packet = ICMPv6ND_NA(**{"tgt": target, "R": 0, "S": 1, "O": 1} | flags)
    for option in (*options, ICMPv6NDOptDstLLAddr(lladdr=mac)):
        message /= option
    return whole(target, to, message, VIRTUAL, mac)


def relay(operation: int, sender: tuple[str, str], target: tuple[str, str], ether: tuple[str, str]) -> Packet:
    """ARP's layout for IPv6; ``sender``/``target``: (MAC, address); ``ether``: (destination, source)."""
    fields = {"hwtype": 1, "ptype": 0x86DD, "hwlen": 6, "plen": 16, "op": operation}
    hosts = {"hwsrc": sender[0], "psrc": sender[1], "hwdst": target[0], "pdst": target[1]}
    return Ether(dst=ether[0], src=ether[1], type=0x0806) / ARP(**fields, **hosts)


def relayed(
    target: str, node: int = OTHER, source: str | None = None, slot: int = 0, asker: str = HOST_LOCAL
) -> Packet:
    """201: an auxiliary asks the primary."""
    claim = f"00:00:00:00:{node:02x}:{slot:02x}"
    return relay(201, (node_mac(node), asker), (claim, target), (HA_MAC, source or node_ha_mac(node)))


def answer(target: str = UNKNOWN6, mac: str = PHYSICAL, source: str = HA_MAC) -> Packet:
    """202: the primary answers."""
    return relay(202, (CLIENT_MAC, target), (mac, CLUSTER_IP6), (HA_MAC, source))


def alert() -> Packet:
    """The header in front of MLD (RFC 2710, 3)."""
    return IPv6ExtHdrHopByHop(options=[RouterAlert(value=0)])


TELLING = {
    "advertisement": advertisement(CLUSTER_IP6, CLIENT6, PHYSICAL),
    "unsolicited advertisement": whole(CLUSTER_IP6, ALL_NODES, ICMPv6ND_NA(tgt=CLUSTER_IP6, S=0)),
    "duplicate address detection": solicitation(CLUSTER_IP6, NOWHERE),
    "router solicitation": whole(OWN_LOCAL, ALL_ROUTERS, ICMPv6ND_RS()),
    "router advertisement": whole(OWN_LOCAL, ALL_NODES, ICMPv6ND_RA()),
    "router advertisement to one": whole(OWN_LOCAL, CLIENT6, ICMPv6ND_RA(), CLIENT_MAC),
    "redirect": whole(OWN_LOCAL, CLIENT6, ICMPv6ND_Redirect(tgt=HOST_LOCAL, dst=UNKNOWN6), CLIENT_MAC),
    "MLD report": whole(OWN_LOCAL, "ff02::1:ff00:1", alert() / ICMPv6MLReport(mladdr="ff02::1:ff00:1"), hlim=1),
    "MLD report, version 2": whole(OWN_LOCAL, MLD_ROUTERS, alert() / ICMPv6MLReport2(), hlim=1),
    "MLD query": whole(OWN_LOCAL, ALL_NODES, alert() / ICMPv6MLQuery(), hlim=1),
    "MLD query to one": whole(OWN_LOCAL, CLIENT6, alert() / ICMPv6MLQuery(), CLIENT_MAC, hlim=1),
    "advertisement behind options": whole(
        OWN_LOCAL, CLIENT6, IPv6ExtHdrDestOpt() / alert() / ICMPv6ND_NA(tgt=CLUSTER_IP6), CLIENT_MAC
    ),
    "solicitation behind options": whole(
        OWN_LOCAL, CLIENT6, IPv6ExtHdrDestOpt() / ICMPv6ND_NS(tgt=CLIENT6), CLIENT_MAC
    ),
}
"""What would tell a segment that an auxiliary is on it, as it would leave."""


def checksum_right(frame: Packet, kind: type[Packet]) -> bool:
    """Scapy computes it anew; it must equal the one that is there."""
    again = frame.copy()
    del again[kind].cksum
    return bool(Ether(bytes(again))[kind].cksum == frame[kind].cksum)
