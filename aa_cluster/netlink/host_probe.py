# SPDX-License-Identifier: GPL-2.0-or-later
"""Is any of these hosts there? Asked on the wire, so that it tells of the port, not of a table.

The questions claim nothing and so move no entry anywhere: ARP probes (RFC 5227, 2.1.1: sender address 0.0.0.0) and
neighbour solicitations from ``::`` (RFC 4861, 4.3), which a host answers to its own address. They go past traffic
control, where an auxiliary's own questions are held back.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Collection

from aa_cluster.netlink import ndp, packet_filter
from aa_cluster.netlink.announce import BROADCAST, ETH_P_ARP, FRAME, HARDWARE_ETHERNET, PROTOCOL_IPV4, REQUEST
from aa_cluster.netlink.rtnl import translated

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TIMES, APART_SECONDS = 3, 0.03
"""Each host is asked so often; and waited for as long after the last question."""
REPLY = 2
ETH_P_ALL = 3
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
ANSWERS = (
    (0x28, 0, 0, 12),
    (0x15, 0, 2, ETH_P_ARP),
    (0x28, 0, 0, 20),
    (0x15, 5, 6, REPLY),
    (0x15, 0, 5, ndp.ETH_P_IPV6),
    (0x30, 0, 0, 20),
    (0x15, 0, 3, ndp.ICMPV6),
    (0x30, 0, 0, ndp.TYPE_AT),
    (0x15, 0, 1, ndp.ADVERTISEMENT),
    (6, 0, 0, ndp.LONGEST),
    (6, 0, 0, 0),
)
"""ARP replies and neighbour advertisements."""


def answers(name: str, mac: bytes, addresses: Collection[str]) -> bool:
    """Whether one of ``addresses`` (text, either family) answers on interface ``name``, within 0.09 s. Blocks until
    then. ``mac``: the interface's. ``NetlinkError`` when it cannot be asked."""
    wanted = {ipaddress.ip_address(address) for address in addresses}
    return translated(f"ask hosts on {name}", lambda: _ask(name, mac, wanted))


def _ask(name: str, mac: bytes, wanted: Collection[Address]) -> bool:
    questions = [(probe(mac, one), ETH_P_ARP if one.version == 4 else ndp.ETH_P_IPV6) for one in wanted]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packet:
        packet_filter.attach(packet, ANSWERS)
        packet.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        packet.bind((name, ETH_P_ALL))
        for _ in range(TIMES):
            for frame, kind in questions:
                packet.sendto(frame, (name, kind))
            if _hears(packet, mac, wanted, time.monotonic() + APART_SECONDS):
                return True
    return False


def _hears(packet: socket.socket, mac: bytes, wanted: Collection[Address], until: float) -> bool:
    while (left := until - time.monotonic()) > 0:
        packet.settimeout(left)
        try:
            frame, sender = packet.recvfrom(ndp.LONGEST)
        except TimeoutError:
            break
        if sender[2] != socket.PACKET_OUTGOING and frame[6:12] != mac and who_answers(frame) in wanted:
            return True
    return False


def probe(mac: bytes, address: Address) -> bytes:
    """The frame that asks for ``address`` and says nothing about who asks."""
    if isinstance(address, ipaddress.IPv6Address):
        return ndp.probe(mac, address)
    unknown = bytes(4)
    asked = (REQUEST, mac, unknown, bytes(6), address.packed)
    return FRAME.pack(BROADCAST, mac, ETH_P_ARP, HARDWARE_ETHERNET, PROTOCOL_IPV4, 6, 4, *asked)


def who_answers(frame: bytes) -> Address | None:
    """The address that an ARP reply or a neighbour advertisement is about."""
    if len(frame) >= FRAME.size:
        _, _, ethertype, _, _, _, _, opcode, _, sender, _, _ = FRAME.unpack_from(frame)
        if (ethertype, opcode) == (ETH_P_ARP, REPLY):
            return ipaddress.IPv4Address(sender)
    if len(frame) >= ndp.HEAD.size:
        _, _, ethertype, _, _, following, hops, _, _, kind, code, _, _, target = ndp.HEAD.unpack_from(frame)
        if (ethertype, following, hops, kind, code) == (ndp.ETH_P_IPV6, ndp.ICMPV6, ndp.HOPS, ndp.ADVERTISEMENT, 0):
            return ipaddress.IPv6Address(target)
    return None
