# SPDX-License-Identifier: GPL-2.0-or-later
"""Gratuitous ARP: tell a segment which MAC an address has now (RFC 5227, section 3, ARP announcement)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable

from aa_cluster.netlink.rtnl import translated

ETH_P_ARP = 0x0806
BROADCAST = b"\xff" * 6
FRAME = struct.Struct("!6s6sH HHBBH 6s4s6s4s")
HARDWARE_ETHERNET = 1
PROTOCOL_IPV4 = 0x0800
REQUEST = 1


def gratuitous_arp(name: str, mac: bytes, addresses: Iterable[str], times: int = 3) -> None:
    """Announce each IPv4 address of ``addresses`` (``10.77.1.1``, ``10.77.1.1/24``) with ``mac`` on interface ``name``.

    IPv6 addresses are left out. ``times``: a frame may be lost, so it is said more than once.
    """
    frames = [announcement(mac, one) for one in map(_host, addresses) if isinstance(one, ipaddress.IPv4Address)]
    translated(f"announce {mac.hex(':')} on {name}", lambda: _send(name, frames * times))


def announcement(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    """The frame: an ARP request whose sender and target are both ``address``."""
    ip = address.packed
    return FRAME.pack(BROADCAST, mac, ETH_P_ARP, HARDWARE_ETHERNET, PROTOCOL_IPV4, 6, 4, REQUEST, mac, ip, bytes(6), ip)


def _host(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_interface(text).ip


def _send(name: str, frames: list[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packet:
        packet.bind((name, 0))
        for frame in frames:
            packet.send(frame)
