# SPDX-License-Identifier: GPL-2.0-or-later
"""Interfaces: what they are, and changing their MAC."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError as KernelRefused

from aa_cluster.errors import NetlinkError
from aa_cluster.netlink.rtnl import attribute, converse, translated

SIOCSIFHWADDR, SIOCGIFHWADDR = 0x8924, 0x8927
ARPHRD_ETHER = 1
IFF_UP = 0x1
IFA_F_DADFAILED, IFA_F_PERMANENT = 0x08, 0x80
SCOPE_LINK = 253
XDP_ATTACHED = {"xdp": "native", "xdpgeneric": "generic", "xdpoffload": "offloaded", "xdpmulti": "native"}


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """One interface as it is now.

    ``addresses`` are the configured ones as ``10.77.1.1/24``, sorted: no link-local and no autoconfigured ones, which
    come from the MAC and differ between nodes. ``kind`` is the kernel's (``veth``, ``bond``, …), ``None`` for hardware.
    ``link_locals`` are the IPv6 ones of that kind that can be used, sorted likewise; none before there was a carrier.
    """

    name: str
    ifindex: int
    mac: bytes
    mtu: int
    addresses: tuple[str, ...]
    kind: str | None
    up: bool
    link_locals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a veth. ``nsid`` is the id of its namespace as seen from here, ``None`` when it is ours."""

    ifindex: int
    nsid: int | None


def read(name: str) -> LinkFacts:
    """The facts of interface ``name``; ``NetlinkError`` names the ones that exist when it does not."""
    return converse(f"read interface {name}", lambda socket: _facts(socket, name))


def names() -> tuple[str, ...]:
    """The interfaces of this namespace, in the kernel's order."""
    return converse("list interfaces", _names)


def name_of(ifindex: int) -> str:
    """The name of an interface of this namespace by its index."""
    return converse(f"read interface {ifindex}", lambda socket: str(_by_index(socket, ifindex)))


def xdp_attached(name: str) -> str | None:
    """How XDP is attached to interface ``name``: ``native``, ``generic``, ``offloaded``; ``None`` when it is not."""
    return converse(f"read interface {name}", lambda socket: _xdp_attached(_link(socket, name)))


def read_mac(name: str) -> bytes:
    """The address of interface ``name``: 6 bytes. Some µs, where ``read`` takes ms (netdevice(7))."""
    return translated(f"read the MAC of {name}", lambda: _ifreq(SIOCGIFHWADDR, name))


def set_mac(name: str, mac: bytes) -> None:
    """Give interface ``name`` the address ``mac`` (6 bytes), without taking it down, in some µs."""
    try:
        translated(f"set the MAC of {name} to {mac.hex(':')}", lambda: _ifreq(SIOCSIFHWADDR, name, mac))
    except NetlinkError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EBUSY:
            raise
        raise NetlinkError(
            f"the driver of {name} does not change its MAC while the interface is up",
            f"use an interface whose driver can (IFF_LIVE_ADDR_CHANGE), or put {name} in a macvlan or bond",
        ) from error


def veth_peer(name: str) -> Peer | None:
    """The other end when ``name`` is a veth, else ``None``."""
    return converse(f"read interface {name}", lambda socket: _peer(socket, name))


def _names(socket: IPRoute) -> tuple[str, ...]:
    return tuple(str(attribute(link, "IFLA_IFNAME")) for link in socket.get_links())


def _by_index(socket: IPRoute, ifindex: int) -> Any:
    return attribute(socket.get_links(ifindex)[0], "IFLA_IFNAME")


def _link(socket: IPRoute, name: str) -> Any:
    index = socket.link_lookup(ifname=name)
    try:
        return socket.get_links(index[0])[0]
    except IndexError:
        pass
    except KernelRefused as error:
        if error.code != errno.ENODEV:  # vanished between the two questions
            raise
    raise NetlinkError(
        f"no interface {name} in this network namespace; there are: {', '.join(_names(socket))}",
        "correct the name in the configuration, or create the interface first",
    )


def _xdp_attached(link: Any) -> str | None:
    """IFLA_XDP_ATTACHED (enum in linux/if_link.h) under the names that pyroute2 and ip-link give it."""
    nested = attribute(link, "IFLA_XDP")
    return XDP_ATTACHED.get(attribute(nested, "IFLA_XDP_ATTACHED")) if nested else None


def _facts(socket: IPRoute, name: str) -> LinkFacts:
    link = _link(socket, name)
    info = attribute(link, "IFLA_LINKINFO")
    addresses, link_locals = _addresses(socket, link["index"])
    return LinkFacts(
        name=name,
        ifindex=link["index"],
        mac=bytes.fromhex((attribute(link, "IFLA_ADDRESS") or "").replace(":", "")),
        mtu=attribute(link, "IFLA_MTU"),
        addresses=addresses,
        kind=attribute(info, "IFLA_INFO_KIND") if info else None,
        up=bool(link["flags"] & IFF_UP),
        link_locals=link_locals,
    )


def _addresses(sock: IPRoute, index: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(configured ones, link-local ones of IPv6)."""
    found, link_locals = [], []
    for message in sock.get_addr(index=index):
        flags = _address_flags(message)
        text = attribute(message, "IFA_LOCAL") or attribute(message, "IFA_ADDRESS")
        address = ipaddress.ip_interface(f"{text}/{message['prefixlen']}")
        if message["scope"] == SCOPE_LINK:
            if address.version == 6 and not flags & IFA_F_DADFAILED:
                link_locals.append(address)
        elif address.version == 4 or flags & IFA_F_PERMANENT:
            found.append(address)
    return _sorted(found), _sorted(link_locals)


def _sorted(found: Iterable[ipaddress.IPv4Interface | ipaddress.IPv6Interface]) -> tuple[str, ...]:
    return tuple(str(one) for one in sorted(found, key=lambda one: (one.version, int(one), one.network.prefixlen)))


def _address_flags(message: Any) -> int:
    flags = attribute(message, "IFA_FLAGS")
    return int(message["flags"] if flags is None else flags)


def _ifreq(request: int, name: str, mac: bytes = bytes(6)) -> bytes:
    """struct ifreq with a hardware address in it, there and back."""
    asked = struct.pack("16sH6s16x", name.encode(), ARPHRD_ETHER, mac)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, request, asked)
    return answer[18:24]


def _peer(socket: IPRoute, name: str) -> Peer | None:
    link = _link(socket, name)
    info = attribute(link, "IFLA_LINKINFO")
    index = attribute(link, "IFLA_LINK")
    if not info or attribute(info, "IFLA_INFO_KIND") != "veth" or not index:
        return None
    return Peer(index, attribute(link, "IFLA_LINK_NETNSID"))
