# SPDX-License-Identifier: GPL-2.0-or-later
"""ctnetlink messages of fixed layout, built by column: thousands of them are one array, and one buffer to send.

    message = nlmsghdr 16 │ nfgenmsg 4 │ attributes                (linux/netfilter/nfnetlink_conntrack.h)
    tuple   = CTA_TUPLE_x { CTA_TUPLE_IP { source, destination } CTA_TUPLE_PROTO { number, both ports } }
    change  = CTA_STATUS │ CTA_TIMEOUT │ CTA_PROTOINFO { CTA_PROTOINFO_TCP { state, flags of both directions } }
    nat     = CTA_NAT_x { lowest address, CTA_NAT_PROTO { lowest port } }         (left out, the highest is the same)

Addresses are 4 or 16 bytes, and only TCP has a CTA_PROTOINFO: a layout for each family and protocol.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from aa_cluster.dataplane.flows import (
    CLOSED,
    CLOSING,
    DEAD,
    ESTABLISHED,
    FLOW_ROW,
    STREAM,
    SYN_RECV,
    SYN_SENT,
    TCP,
    UDP,
    timeout_index,
)
from aa_cluster.netlink.conntrack import Status

Family = Literal[4, 6]
Protocol = Literal[6, 17]
FAMILIES: tuple[Family, ...] = (4, 6)
PROTOCOLS: tuple[Protocol, ...] = (6, 17)
Kind = Literal["by_reply", "by_original", "change", "create", "delete", "delete_by_reply"]
"""``by_*``: a change of nothing, to ask whether there is an entry with that tuple."""

_BY_REPLY: tuple[Kind, ...] = ("by_reply", "delete_by_reply")

NEW, GET, DELETE = 1 << 8 | 0, 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
REQUEST, ACK, EXCLUSIVE, CREATE, DUMP = 0x01, 0x04, 0x200, 0x400, 0x300
ERROR, DONE = 2, 3

_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _NAT_SRC, _TIMEOUT, _MARK, _NAT_DST = 1, 2, 3, 4, 6, 7, 8, 13
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_SOURCE = {4: 1, 6: 3}
_DESTINATION = {4: 2, 6: 4}
_LOWEST_ADDRESS = {4: 1, 6: 4}
_NAT_PROTO, _LOWEST_PORT = 3, 1
_TCP, _TCP_STATE, _TCP_FLAGS_ORIGINAL, _TCP_FLAGS_REPLY = 1, 1, 4, 5

LIBERAL = 0x08
"""IP_CT_TCP_FLAG_BE_LIBERAL: segments outside of the window that conntrack has seen are not invalid."""

CT_SYN_RECV, CT_ESTABLISHED, CT_TIME_WAIT = 2, 3, 7  # enum tcp_conntrack

TCP_STATES = np.full(8, CT_ESTABLISHED, "u1")
"""By a flow's state. Half-open: SYN_RECV takes the SYN again, the SYN-ACK and the ACK, whichever comes first, where
SYN_SENT takes an ACK for invalid. Ended: TIME_WAIT takes what is repeated, and a SYN that begins the tuple anew."""

TCP_STATES[[SYN_SENT, SYN_RECV]] = CT_SYN_RECV
TCP_STATES[[CLOSED, DEAD]] = CT_TIME_WAIT

STATUSES = np.full(8, Status.CONFIRMED | Status.SEEN_REPLY, "u4")
"""By a flow's state. SEEN_REPLY: the node that took part so far may have seen it, and a rule for ``established`` must
let the ACK in. Only what is established is out of reach of early drop. (The kernel wants CONFIRMED said again.)"""

STATUSES[[ESTABLISHED, CLOSING, CLOSED]] |= np.uint32(Status.ASSURED)

UDP_STATUSES = np.full(8, Status.CONFIRMED, "u4")
"""By a flow's state. Unreplied: a datagram of either direction is taken, and an answer makes it seen."""

UDP_STATUSES[ESTABLISHED] |= np.uint32(Status.SEEN_REPLY | Status.ASSURED)

UNREPLIED, ANSWERED, LASTING = 1, 4, 5
"""What the entry of a UDP flow is made as; of TCP it is the entry's state. See ``needs``."""


def needs(protocol: np.ndarray, state: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """What the entry of each flow is to be made as: 1 to 7. Two flows with the same number get the same change."""
    datagrams = np.where(state >= ESTABLISHED, ANSWERED, UNREPLIED)
    datagrams[timeout_index(protocol, state, ended) == STREAM] = LASTING
    out: np.ndarray = np.where(protocol == UDP, datagrams, TCP_STATES[state & 7])
    return out


@dataclass(frozen=True, slots=True)
class Layout:
    """``dtype`` of one message, ``template`` of it with everything but the columns."""

    dtype: np.dtype[np.void]
    template: bytes

    def messages(self, count: int) -> np.ndarray:
        """So many, their sequence numbers counted from 1."""
        out = np.frombuffer(bytearray(self.template * count), self.dtype)
        out["sequence"] = np.arange(1, count + 1)
        return out


class _Writer:
    """Collects fields and what they hold in every message; a ``_column`` is 0 there, and filled in later."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str, bytes]] = []

    def constant(self, kind: str, value: int) -> None:
        self.fields.append((f"_{len(self.fields)}", kind, np.array(value, kind).tobytes()))

    def column(self, name: str, kind: str) -> None:
        self.fields.append((name, kind, bytes(np.dtype(kind).itemsize)))

    def attribute(self, number: int, name: str, kind: str) -> None:
        size = np.dtype(kind).itemsize
        self.constant("=u2", 4 + size)
        self.constant("=u2", number)
        self.column(name, kind)
        if size % 4:
            self.fields.append((f"_{len(self.fields)}", f"V{4 - size % 4}", bytes(4 - size % 4)))

    def nest(self, number: int, inside: _Writer) -> None:
        self.constant("=u2", 4 + inside.size)
        self.constant("=u2", number | _NESTED)
        self.join(inside)

    def join(self, other: _Writer) -> None:
        for name, kind, value in other.fields:
            self.fields.append((f"_{len(self.fields)}" if name.startswith("_") else name, kind, value))

    @property
    def size(self) -> int:
        return sum(len(value) for _, _, value in self.fields)


@cache
def layout(kind: Kind, family: Family, protocol: Protocol) -> Layout:
    body = _Writer()
    body.constant("u1", socket.AF_INET6 if family == 6 else socket.AF_INET)
    body.constant("u1", 0)
    body.constant("=u2", 0)
    if kind not in _BY_REPLY:
        _tuple(body, family, _TUPLE_ORIG, "")
    if kind in (*_BY_REPLY, "create"):
        _tuple(body, family, _TUPLE_REPLY, "reply_")
    if kind in ("change", "create"):
        body.attribute(_STATUS, "status", ">u4")
        body.attribute(_TIMEOUT, "timeout", ">u4")
        if protocol == TCP:
            _tcp_state(body)
    if kind == "create":
        body.attribute(_MARK, "mark", ">u4")
        _nat(body, family, _NAT_SRC, "nat_source")
        _nat(body, family, _NAT_DST, "nat_destination")
    head = _Writer()
    head.constant("=u4", 16 + body.size)
    head.constant("=u2", DELETE if kind in ("delete", "delete_by_reply") else NEW)
    head.fields.append(("flags", "=u2", np.array(_FLAGS.get(kind, REQUEST), "=u2").tobytes()))
    head.column("sequence", "=u4")
    head.constant("=u4", 0)
    head.join(body)
    dtype = np.dtype([(name, kind_) for name, kind_, _ in head.fields])
    return Layout(dtype, b"".join(value for _, _, value in head.fields))


_FLAGS: dict[Kind, int] = {"create": REQUEST | CREATE | EXCLUSIVE}


def _address(family: Family) -> str:
    return "V16" if family == 6 else "V4"


def _tuple(out: _Writer, family: Family, number: int, prefix: str) -> None:
    addresses, protocol, both = _Writer(), _Writer(), _Writer()
    addresses.attribute(_SOURCE[family], f"{prefix}saddr", _address(family))
    addresses.attribute(_DESTINATION[family], f"{prefix}daddr", _address(family))
    protocol.attribute(_NUMBER, f"{prefix}protocol", "u1")
    protocol.attribute(_SOURCE_PORT, f"{prefix}sport", ">u2")
    protocol.attribute(_DESTINATION_PORT, f"{prefix}dport", ">u2")
    both.nest(1, addresses)
    both.nest(2, protocol)
    out.nest(number, both)


def _tcp_state(out: _Writer) -> None:
    tcp, info = _Writer(), _Writer()
    tcp.attribute(_TCP_STATE, "tcp_state", "u1")
    for number in (_TCP_FLAGS_ORIGINAL, _TCP_FLAGS_REPLY):  # struct nf_ct_tcp_flags: flags, mask
        tcp.constant("=u2", 4 + 2)
        tcp.constant("=u2", number)
        tcp.constant("u1", LIBERAL)
        tcp.constant("u1", LIBERAL)
        tcp.constant("=u2", 0)
    info.nest(_TCP, tcp)
    out.nest(_PROTOINFO, info)


def _nat(out: _Writer, family: Family, number: int, name: str) -> None:
    port, both = _Writer(), _Writer()
    port.attribute(_LOWEST_PORT, f"{name}_port", ">u2")
    both.attribute(_LOWEST_ADDRESS[family], name, _address(family))
    both.nest(_NAT_PROTO, port)
    out.nest(number, both)


def build(
    kind: Kind, family: Family, protocol: Protocol, rows: np.ndarray, lifetimes: np.ndarray, extra: int = 0
) -> np.ndarray:
    """One message a row of ``FLOW_ROW``, all of that family and protocol. ``lifetimes``: s, as ``flows.Timeouts`` has
    them; ``extra``: more bits of status."""
    out = layout(kind, family, protocol).messages(len(rows))
    if kind in _BY_REPLY:
        _fill_tuple(out, rows, family, "reply_", "reply_")
        return out
    _fill_tuple(out, rows, family, "", "")
    if kind in ("change", "create"):
        state = rows["state"] & 7
        out["status"] = (STATUSES if protocol == TCP else UDP_STATUSES)[state] | np.uint32(extra)
        out["timeout"] = lifetimes[timeout_index(rows["protocol"], state, rows["ended"])]
        if protocol == TCP:
            out["tcp_state"] = TCP_STATES[state]
    if kind == "create":
        # The kernel wants the reply tuple as it were without NAT, and turns it into the translated one by what follows.
        # Both, also where nothing is translated: else this node's rules would decide.
        _fill_tuple(out, rows, family, "reply_", "", inverse=True)
        out["mark"] = rows["mark"]
        _copy(out, "nat_source", rows["reply_daddr"], family)
        _copy(out, "nat_destination", rows["reply_saddr"], family)
        out["nat_source_port"], out["nat_destination_port"] = rows["reply_dport"], rows["reply_sport"]
    return out


def _fill_tuple(out: np.ndarray, rows: np.ndarray, family: Family, to: str, prefix: str, inverse: bool = False) -> None:
    source, destination = ("d", "s") if inverse else ("s", "d")
    _copy(out, f"{to}saddr", rows[f"{prefix}{source}addr"], family)
    _copy(out, f"{to}daddr", rows[f"{prefix}{destination}addr"], family)
    out[f"{to}protocol"] = rows["protocol"]
    out[f"{to}sport"], out[f"{to}dport"] = rows[f"{prefix}{source}port"], rows[f"{prefix}{destination}port"]


def _copy(out: np.ndarray, name: str, addresses: np.ndarray, family: Family) -> None:
    """Of a v4-mapped address the last four bytes."""
    whole = np.ascontiguousarray(addresses).view("V16").reshape(-1)
    out[name] = whole if family == 6 else np.ascontiguousarray(addresses[:, 12:]).view("V4").reshape(-1)


@cache
def question(family: Family) -> bytes:
    """For all entries of that family."""
    number = socket.AF_INET6 if family == 6 else socket.AF_INET
    return struct.pack("=IHHIIBBH", 20, GET, REQUEST | DUMP, 1, 0, number, 0, 0)


@cache
def _entry(family: Family) -> np.dtype[np.void]:
    """How the kernel's answer begins behind both headers, for protocols with ports: both tuples, always first."""
    address = _address(family)
    return np.dtype(
        [
            (name, kind)
            for prefix in ("", "reply_")
            for name, kind in (
                (f"_1{prefix}", "V12"),  # the heads of the tuple, of its addresses, of the first of them
                (f"{prefix}saddr", address),
                (f"_2{prefix}", "V4"),
                (f"{prefix}daddr", address),
                (f"_3{prefix}", "V8"),
                (f"{prefix}protocol", "u1"),
                (f"_4{prefix}", "V7"),
                (f"{prefix}sport", ">u2"),
                (f"_5{prefix}", "V6"),
                (f"{prefix}dport", ">u2"),
                (f"_6{prefix}", "V2"),
            )
        ]
    )


def parse(data: bytes, family: Family) -> tuple[np.ndarray, bool]:
    """What one read of an answer to ``question`` holds, as ``FLOW_ROW``; False: that was the last. ``OSError`` when the
    kernel gives up."""
    entry = _entry(family)
    at, starts, more = 0, [], True
    while at < len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == NEW and length >= 20 + entry.itemsize:
            starts.append(at + 20)
        elif kind == ERROR:
            code = -struct.unpack_from("=i", data, at + 16)[0]
            raise OSError(code, os.strerror(code))
        elif kind == DONE:
            more = False
        at += (length + 3) & ~3
    if not starts:
        return np.zeros(0, FLOW_ROW), more
    raw = np.frombuffer(data, "u1")[np.array(starts)[:, None] + np.arange(entry.itemsize)]
    found = raw.view(entry).reshape(-1)
    return _rows(found[np.isin(found["protocol"], PROTOCOLS)], family), more


def _rows(found: np.ndarray, family: Family) -> np.ndarray:
    out = np.zeros(len(found), FLOW_ROW)
    for prefix in ("", "reply_"):
        for name in ("saddr", "daddr"):
            address = np.ascontiguousarray(found[f"{prefix}{name}"]).view("u1").reshape(len(found), -1)
            if family == 4:
                out[f"{prefix}{name}"][:, 10:12] = 0xFF
            out[f"{prefix}{name}"][:, -address.shape[1] :] = address
        for name in ("sport", "dport"):
            out[f"{prefix}{name}"] = found[f"{prefix}{name}"]
    out["protocol"], out["family"] = found["protocol"], family
    return out
