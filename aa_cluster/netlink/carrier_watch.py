# SPDX-License-Identifier: GPL-2.0-or-later
"""Which interfaces have a carrier, told by the kernel as it changes (rtnetlink(7), RTM_NEWLINK and RTM_DELLINK)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection

from pyroute2 import IPRoute

from aa_cluster.netlink.rtnl import converse, translated

RTMGRP_LINK = 1
RTM_NEWLINK, RTM_DELLINK = 16, 17
IFF_LOWER_UP = 1 << 16
"""The driver sees the other end (linux/if.h)."""
NLMSG = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port (netlink(7))."""
IFINFO = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, ifindex, flags, change (rtnetlink(7))."""
BUFFER = 1 << 16


class CarrierWatch:
    """A non-blocking socket for an event loop. ``NetlinkError`` when it cannot be opened."""

    def __init__(self, interfaces: Collection[int]) -> None:
        """``interfaces``: the ifindexes to watch."""
        self._wanted = frozenset(interfaces)
        self._socket = translated("watch links", _open)

    def descriptor(self) -> int:
        """Readable when there is something to ``read``."""
        return self._socket.fileno()

    def now(self) -> dict[int, bool]:
        """Every watched interface and whether it has a carrier; blocks for a moment. One that is gone has none."""
        seen: dict[int, bool] = converse("read links", _all)
        return {ifindex: seen.get(ifindex, False) for ifindex in self._wanted}

    def read(self) -> list[tuple[int, bool]] | None:
        """(ifindex, has it a carrier) as told since; ``None`` when something was missed: look at ``now``."""
        found: list[tuple[int, bool]] = []
        while True:
            try:
                data = self._socket.recv(BUFFER)
            except OSError as error:
                return None if error.errno == errno.ENOBUFS else found
            found += [one for one in changes(data) if one[0] in self._wanted]

    def close(self) -> None:
        self._socket.close()


def changes(data: bytes) -> list[tuple[int, bool]]:
    """What one datagram of the kernel tells of links, in its order."""
    found: list[tuple[int, bool]] = []
    at = 0
    while at + NLMSG.size <= len(data):
        length, kind, *_ = NLMSG.unpack_from(data, at)
        if length < NLMSG.size or at + length > len(data):
            break
        if kind in (RTM_NEWLINK, RTM_DELLINK) and length >= NLMSG.size + IFINFO.size:
            _, _, ifindex, flags, _ = IFINFO.unpack_from(data, at + NLMSG.size)
            found.append((ifindex, kind == RTM_NEWLINK and bool(flags & IFF_LOWER_UP)))
        at += (length + 3) & ~3
    return found


def _open() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    made.bind((0, RTMGRP_LINK))
    return made


def _all(ipr: IPRoute) -> dict[int, bool]:
    return {link["index"]: bool(link["flags"] & IFF_LOWER_UP) for link in ipr.get_links()}
