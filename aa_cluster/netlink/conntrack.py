# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of the connection tracking table, by ctnetlink."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, TypeVar

from pyroute2.netlink.exceptions import NetlinkError as KernelRefused
from pyroute2.netlink.nfnetlink.nfctsocket import TCP_CONNTRACK_TO_NAME, NFCTAttrTuple, NFCTSocket

from aa_cluster.netlink.rtnl import attribute, off_loop, translated

T = TypeVar("T")

ICMP_PROTOCOLS = {socket.IPPROTO_ICMP: "CTA_PROTO_ICMP", socket.IPPROTO_ICMPV6: "CTA_PROTO_ICMPV6"}
ALL_BITS = 0xFFFFFFFF


class Status(IntFlag):
    """``enum ip_conntrack_status`` of linux/netfilter/nf_conntrack_common.h."""

    EXPECTED = 1 << 0
    SEEN_REPLY = 1 << 1
    ASSURED = 1 << 2
    CONFIRMED = 1 << 3
    SRC_NAT = 1 << 4
    DST_NAT = 1 << 5
    SEQ_ADJUST = 1 << 6
    SRC_NAT_DONE = 1 << 7
    DST_NAT_DONE = 1 << 8
    DYING = 1 << 9
    FIXED_TIMEOUT = 1 << 10
    TEMPLATE = 1 << 11
    UNTRACKED = 1 << 12
    HELPER = 1 << 13
    OFFLOAD = 1 << 14
    HW_OFFLOAD = 1 << 15


NAT = Status.SRC_NAT | Status.DST_NAT


@dataclass(frozen=True, slots=True, order=True)
class Tuple:
    """One direction as it arrives on the wire. ``family`` is 4 or 6, ``protocol`` the IP protocol number.

    Ports are 0 where the protocol has none. ICMP: ``source_port`` is the id, ``destination_port`` type × 256 + code.
    """

    family: int
    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int

    def __str__(self) -> str:
        open_, close = ("[", "]") if self.family == 6 else ("", "")
        source = f"{open_}{self.source}{close}:{self.source_port}"
        return f"{self.protocol} {source} → {open_}{self.destination}{close}:{self.destination_port}"


@dataclass(frozen=True, slots=True)
class ConntrackEntry:
    """``timeout`` in s left; ``tcp_state`` as conntrack(8) prints it, ``None`` for other protocols."""

    original: Tuple
    reply: Tuple
    mark: int
    status: Status
    timeout: int
    tcp_state: str | None
    zone: int

    @property
    def decision(self) -> tuple[Tuple, Tuple, int, Status]:
        """What netfilter decided for the connection: equal on the owner and on the primary."""
        return self.original, self.reply, self.mark, self.status & NAT


def dump(family: int | None = None, mark: int | None = None, mark_mask: int = ALL_BITS) -> list[ConntrackEntry]:
    """The entries of this network namespace: ``family`` 4, 6 or both, and only those with ``mark`` under ``mark_mask``.

    A snapshot made while packets flow: an entry that comes or goes meanwhile may be in it or not.
    """
    entries: list[ConntrackEntry] = []
    for one in (4, 6) if family is None else (family,):
        entries += _conversation("list conntrack entries", one, lambda socket: [_entry(m) for m in socket.dump()])
    if mark is not None:
        entries = [entry for entry in entries if entry.mark & mark_mask == mark]
    return entries


def find(original: Tuple) -> ConntrackEntry | None:
    """The entry with that tuple in either direction, ``None`` when there is none."""

    def ask(socket: NFCTSocket) -> ConntrackEntry | None:
        try:
            answers = list(socket.entry("get", tuple_orig=_attributes(original)))
        except KernelRefused as error:
            if error.code == errno.ENOENT:
                return None
            raise
        return _entry(answers[0]) if answers else None

    return _conversation(f"read conntrack entry {original}", original.family, ask)


def delete(original: Tuple) -> bool:
    """Remove the entry with that tuple; False when it was gone already."""

    def ask(socket: NFCTSocket) -> bool:
        try:
            socket.entry("del", tuple_orig=_attributes(original))
        except KernelRefused as error:
            if error.code == errno.ENOENT:
                return False
            raise
        return True

    return _conversation(f"delete conntrack entry {original}", original.family, ask)


def _conversation(what: str, family: int, work: Callable[[NFCTSocket], T]) -> T:
    number = socket.AF_INET6 if family == 6 else socket.AF_INET

    def run() -> T:
        with NFCTSocket(nfgen_family=number) as conversation:
            return work(conversation)

    return translated(what, lambda: off_loop(run))


def _entry(message: Any) -> ConntrackEntry:
    family = 6 if message["nfgen_family"] == socket.AF_INET6 else 4
    return ConntrackEntry(
        original=_tuple(family, attribute(message, "CTA_TUPLE_ORIG")),
        reply=_tuple(family, attribute(message, "CTA_TUPLE_REPLY")),
        mark=attribute(message, "CTA_MARK") or 0,
        status=Status(attribute(message, "CTA_STATUS") or 0),
        timeout=attribute(message, "CTA_TIMEOUT") or 0,
        tcp_state=_tcp_state(attribute(message, "CTA_PROTOINFO")),
        zone=attribute(message, "CTA_ZONE") or 0,
    )


def _tuple(family: int, nested: Any) -> Tuple:
    addresses, protocol = attribute(nested, "CTA_TUPLE_IP"), attribute(nested, "CTA_TUPLE_PROTO")
    number = attribute(protocol, "CTA_PROTO_NUM")
    icmp = ICMP_PROTOCOLS.get(number)
    if icmp is None:
        source = attribute(protocol, "CTA_PROTO_SRC_PORT") or 0
        destination = attribute(protocol, "CTA_PROTO_DST_PORT") or 0
    else:
        source = attribute(protocol, f"{icmp}_ID")
        destination = attribute(protocol, f"{icmp}_TYPE") << 8 | attribute(protocol, f"{icmp}_CODE")
    return Tuple(
        family=family,
        protocol=number,
        source=attribute(addresses, f"CTA_IP_V{family}_SRC"),
        source_port=source,
        destination=attribute(addresses, f"CTA_IP_V{family}_DST"),
        destination_port=destination,
    )


def _tcp_state(protoinfo: Any) -> str | None:
    tcp = attribute(protoinfo, "CTA_PROTOINFO_TCP") if protoinfo else None
    if tcp is None:
        return None
    number = attribute(tcp, "CTA_PROTOINFO_TCP_STATE")
    return "NONE" if number == 0 else str(TCP_CONNTRACK_TO_NAME.get(number, number))


def _attributes(one: Tuple) -> NFCTAttrTuple:
    family = socket.AF_INET6 if one.family == 6 else socket.AF_INET
    icmp = one.protocol in ICMP_PROTOCOLS
    return NFCTAttrTuple(
        family=family,
        saddr=one.source,
        daddr=one.destination,
        proto=one.protocol,
        sport=None if icmp else one.source_port,
        dport=None if icmp else one.destination_port,
        icmp_id=one.source_port if icmp else None,
        icmp_type=one.destination_port >> 8 if icmp else None,
        icmp_code=one.destination_port & 0xFF if icmp else None,
    )
