# SPDX-License-Identifier: GPL-2.0-or-later
"""The IPv6 addresses of an interface, with what the kernel thinks of each."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute

from aa_cluster.netlink.rtnl import attribute, converse

SCOPE_LINK = 253
NODAD, DADFAILED, TENTATIVE, PERMANENT = 0x02, 0x08, 0x40, 0x80
"""``IFA_F_*`` of linux/if_addr.h."""


@dataclass(frozen=True, slots=True)
class Address6:
    """``text`` as ``fd77:1::1/64``. ``nodad``: set up without duplicate address detection; ``tentative``: that is under
    way, and the address does not serve yet; ``duplicate``: it has found somebody else."""

    text: str
    link_local: bool
    nodad: bool
    tentative: bool
    duplicate: bool


def read(ifindex: int) -> tuple[Address6, ...]:
    """Of that interface, but none that came from a router or expires."""
    return converse(f"read the IPv6 addresses of interface {ifindex}", lambda sock: _read(sock, ifindex))


def _read(sock: IPRoute, ifindex: int) -> tuple[Address6, ...]:
    messages = sock.get_addr(index=ifindex, family=socket.AF_INET6)
    return tuple(_address(message) for message in messages if _flags(message) & PERMANENT)


def _flags(message: Any) -> int:
    flags = attribute(message, "IFA_FLAGS")
    return int(message["flags"] if flags is None else flags)


def _address(message: Any) -> Address6:
    flags = _flags(message)
    text = attribute(message, "IFA_LOCAL") or attribute(message, "IFA_ADDRESS")
    return Address6(
        text=f"{text}/{message['prefixlen']}",
        link_local=message["scope"] == SCOPE_LINK,
        nodad=bool(flags & NODAD),
        tentative=bool(flags & TENTATIVE),
        duplicate=bool(flags & DADFAILED),
    )
