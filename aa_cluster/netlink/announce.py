# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell a segment which MAC an address has now: gratuitous ARP (RFC 5227, section 3), and for IPv6 the same by an
unsolicited neighbour advertisement (RFC 4861, 7.2.6)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from aa_cluster.errors import NetlinkError
from aa_cluster.netlink import ndp
from aa_cluster.netlink.rtnl import translated

ETH_P_ARP = 0x0806
BROADCAST = b"\xff" * 6
FRAME = struct.Struct("!6s6sH HHBBH 6s4s6s4s")
HARDWARE_ETHERNET = 1
PROTOCOL_IPV4 = 0x0800
REQUEST = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """``mac`` has each of ``addresses`` (``10.77.1.1``, ``10.77.1.1/24``, ``fd77:1::1/64``) on interface ``name``."""

    name: str
    mac: bytes
    addresses: Sequence[str]


def moved(claims: Iterable[Claim], times: int = 3) -> None:
    """Announce each address of each claim. What one interface refuses keeps no other from it; the first such
    ``NetlinkError`` is raised then.

    ``times``: a frame may be lost, so it is said more than once. One socket says it all: to close one takes the kernel
    tens of ms.
    """
    errors = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packet:
        for claim in claims:
            try:
                translated(f"announce {claim.mac.hex(':')} on {claim.name}", partial(_say, packet, claim, times))
            except NetlinkError as error:
                errors.append(error)
    if errors:
        raise errors[0]


def announcement(mac: bytes, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """The frame: an ARP request whose sender and target are both ``address``, or ``ndp.advertisement``."""
    if isinstance(address, ipaddress.IPv6Address):
        return ndp.advertisement(mac, address)
    ip = address.packed
    return FRAME.pack(BROADCAST, mac, ETH_P_ARP, HARDWARE_ETHERNET, PROTOCOL_IPV4, 6, 4, REQUEST, mac, ip, bytes(6), ip)


def _host(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_interface(text).ip


def _say(packet: socket.socket, claim: Claim, times: int) -> None:
    for address in [_host(one) for one in claim.addresses] * times:
        kind = ETH_P_ARP if address.version == 4 else ndp.ETH_P_IPV6
        packet.sendto(announcement(claim.mac, address), (claim.name, kind))
