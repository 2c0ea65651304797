# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has which MAC on the data segments, as it shows: ARP and NDP frames that pass by, and the kernel's neighbour
tables.

Two sources, because neither suffices: the kernel tells only about addresses it has an entry for, and a host announces
its new MAC (gratuitous ARP, RFC 5227; RFC 4861, 7.2.6) once, to everybody, also to a primary that has never spoken with
it. Both are non-blocking sockets for an event loop. Nothing is sent.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aa_cluster.netlink import ndp, packet_filter
from aa_cluster.netlink.announce import ETH_P_ARP, FRAME, HARDWARE_ETHERNET, PROTOCOL_IPV4
from aa_cluster.netlink.rtnl import translated

RTMGRP_NEIGH = 4
RTM_NEWNEIGH = 28
NDA_DST, NDA_LLADDR = 1, 2
LEARNED = 0x02 | 0x04 | 0x08 | 0x10
"""NUD_REACHABLE, STALE, DELAY, PROBE: what came from the wire; not failed, not an operator's."""
NLMSG = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port (netlink(7))."""
NDMSG = struct.Struct("=BBHiHBB")
"""struct ndmsg: family, pad, pad, ifindex, state, flags, type (rtnetlink(7))."""
ATTRIBUTE = struct.Struct("=HH")
LENGTHS = {socket.AF_INET: 4, socket.AF_INET6: 16}
"""Of an address, in bytes."""
BUFFER = 1 << 16
BATCH = 256

Reader = Callable[[bytes], "tuple[str, bytes] | None"]
"""An Ethernet frame → (address, MAC) of who speaks."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """``address`` (text, either family) has ``mac`` on the segment of interface ``ifindex``."""

    ifindex: int
    address: str
    mac: bytes


class NeighbourWatch:
    """Two sockets a data interface, for ARP and NDP, and one for the tables. ``NetlinkError`` when they cannot be
    opened (root).

    ``overrun``: the kernel had more to tell than was read, so look at its whole table. The reader clears it.
    """

    def __init__(self, interfaces: Mapping[int, str]) -> None:
        """``interfaces``: ifindex → name."""
        self._wanted = frozenset(interfaces)
        self._packets: list[tuple[int, socket.socket, Reader]] = []
        self._table: socket.socket | None = None
        self.overrun = False
        try:
            translated("watch neighbours", lambda: self._open(interfaces))
        except Exception:
            self.close()
            raise

    def _open(self, interfaces: Mapping[int, str]) -> None:
        self._table = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._table.bind((0, RTMGRP_NEIGH))
        for ifindex, name in interfaces.items():
            self._listen(ifindex, name, ETH_P_ARP, arp_sender)
            self._listen(ifindex, name, ndp.ETH_P_IPV6, ndp.sender, ndp.NEIGHBOUR_FILTER)

    def _listen(
        self, ifindex: int, name: str, ethertype: int, reader: Reader, steps: Sequence[packet_filter.Step] = ()
    ) -> None:
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._packets.append((ifindex, packet, reader))
        if steps:
            packet_filter.attach(packet, steps)
        packet.bind((name, ethertype))

    def descriptors(self) -> tuple[int, ...]:
        """Readable when there is something to ``read``."""
        table = () if self._table is None else (self._table.fileno(),)
        return (*table, *(packet.fileno() for _, packet, _ in self._packets))

    def read(self) -> list[Sighting]:
        """What came since; does not block. An interface that is gone is silent."""
        found = [one for one in self._read_table() if one.ifindex in self._wanted]
        for ifindex, packet, reader in self._packets:
            found += _read_packets(ifindex, packet, reader)
        return found

    def close(self) -> None:
        for one in (self._table, *(packet for _, packet, _ in self._packets)):
            if one is not None:
                one.close()
        self._table = None
        self._packets.clear()

    def _read_table(self) -> list[Sighting]:
        found: list[Sighting] = []
        for _ in range(BATCH):
            if self._table is None:
                break
            try:
                found += table_changes(self._table.recv(BUFFER))
            except OSError as error:
                self.overrun = self.overrun or error.errno == errno.ENOBUFS
                if error.errno != errno.ENOBUFS:
                    break
        return found


def _read_packets(ifindex: int, packet: socket.socket, reader: Reader) -> list[Sighting]:
    found: list[Sighting] = []
    with contextlib.suppress(OSError):
        for _ in range(BATCH):
            frame, address = packet.recvfrom(ndp.LONGEST)
            seen = None if address[2] == socket.PACKET_OUTGOING else reader(frame)
            if seen is not None:
                found.append(Sighting(ifindex, *seen))
    return found


def arp_sender(frame: bytes) -> tuple[str, bytes] | None:
    """(address, MAC) that an Ethernet frame with ARP for IPv4 says its sender has; ``None`` when it says nothing.

    Nothing: probes (address 0.0.0.0), a MAC that is none, a frame whose own source is another MAC, relay opcodes.
    """
    if len(frame) < FRAME.size:
        return None
    _, source, ethertype, hardware, protocol, mac_size, size, opcode, mac, address, _, _ = FRAME.unpack_from(frame)
    if (ethertype, hardware, protocol, mac_size, size) != (ETH_P_ARP, HARDWARE_ETHERNET, PROTOCOL_IPV4, 6, 4):
        return None
    parsed = ipaddress.IPv4Address(address)
    if opcode not in (1, 2) or mac != source or mac[0] & 1 or not any(mac):
        return None
    if parsed.is_unspecified or parsed.is_multicast or parsed.is_loopback:
        return None
    return str(parsed), mac


def table_changes(data: bytes) -> list[Sighting]:
    """The entries with a MAC among the RTM_NEWNEIGH messages of one datagram from the kernel."""
    found: list[Sighting] = []
    at = 0
    while at + NLMSG.size <= len(data):
        length, kind, *_ = NLMSG.unpack_from(data, at)
        if length < NLMSG.size or at + length > len(data):
            break
        if kind == RTM_NEWNEIGH and length >= NLMSG.size + NDMSG.size:
            found += _entry(data[at + NLMSG.size : at + length])
        at += (length + 3) & ~3
    return found


def _entry(body: bytes) -> list[Sighting]:
    family, _, _, ifindex, state, _, _ = NDMSG.unpack_from(body)
    attributes: dict[int, bytes] = {}
    at = NDMSG.size
    while at + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, at)
        if length < ATTRIBUTE.size:
            break
        attributes[kind] = body[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    address, mac = attributes.get(NDA_DST, b""), attributes.get(NDA_LLADDR, b"")
    if LENGTHS.get(family) != len(address) or not state & LEARNED or len(mac) != 6 or not any(mac):
        return []
    parsed = ipaddress.ip_address(address)
    if parsed.version == 6 and not ndp.is_host(parsed):
        return []
    return [Sighting(ifindex, str(parsed), mac)]
