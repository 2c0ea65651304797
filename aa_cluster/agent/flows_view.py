# SPDX-License-Identifier: GPL-2.0-or-later
"""``GET /v1/flows``: the flow table, filtered in numpy, and only what is shown turned into structs."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from aa_cluster import api
from aa_cluster.dataplane.flows import ACCOUNT, ESTABLISHED, LASTS, STATE_NAMES, SYN_SENT, UDP
from aa_cluster.errors import UsageError

DEFAULT_LIMIT = 100
FILTERS = ("node", "address", "port", "family", "protocol", "state", "sort", "limit")
FAMILIES = {"ipv4": 4, "ipv6": 6}
UDP_PHASES = ("unreplied", "answered", "stream")
"""Of a UDP flow: no answer yet; one; two seconds and more later still packets."""

_MAPPED = bytes(10) + b"\xff\xff"
_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp"}


def flows(table: np.ndarray, query: Mapping[str, str], names: Mapping[int, str]) -> api.Flows:
    """``query``: node (name or id), address, port, family, protocol, state, sort, limit. ``UsageError`` when one makes
    no sense."""
    unknown = set(query) - set(FILTERS)
    if unknown:
        raise UsageError(f"unknown filter {', '.join(sorted(unknown))}", f"use {', '.join(FILTERS)}")
    chosen = table[_mask(table, query, names)]
    limit = _number(query, "limit") if "limit" in query else DEFAULT_LIMIT
    first = chosen[np.argsort(_order(chosen, query.get("sort", "newest")), kind="stable")[::-1][:limit]]
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return api.Flows(total=len(chosen), flows=tuple(row_of(flow, names, now) for flow in first))


def _order(table: np.ndarray, sort: str) -> np.ndarray:
    """What is largest comes first."""
    columns = {"newest": ("created_ns",), "packets": ("packets", "reply_packets"), "bytes": ("octets", "reply_octets")}
    if sort not in columns:
        raise UsageError(f"flows cannot be sorted by {sort!r}", f"use {', '.join(columns)}")
    if sort != "newest" and not is_accounted(table):
        raise UsageError(
            f"flows cannot be sorted by {sort}: accounting is off",
            "set [flows] accounting = true on the primary and restart its agent",
        )
    total: np.ndarray = np.sum([table[name] for name in columns[sort]], axis=0)
    return total


def kind_name(protocol: int, family: int) -> str:
    """``udp/ipv6``."""
    return f"{_PROTOCOLS.get(protocol, str(protocol))}/{'ipv6' if family == 6 else 'ipv4'}"


def is_accounted(table: Any) -> bool:
    """Whether rows of this dtype (or this row) tell what flows carried."""
    return ACCOUNT[0] in (table.dtype.names or ())


def _mask(table: np.ndarray, query: Mapping[str, str], names: Mapping[int, str]) -> np.ndarray:
    mask = np.ones(len(table), bool)
    if "node" in query:
        mask &= table["owner"] == _node(query["node"], names)
    if "address" in query:
        wanted = np.frombuffer(_packed(query["address"]), "u1")
        fields = ("saddr", "daddr", "reply_saddr", "reply_daddr")
        mask &= np.logical_or.reduce([(table[name] == wanted).all(axis=1) for name in fields])
    if "port" in query:
        port = _number(query, "port")
        fields = ("sport", "dport", "reply_sport", "reply_dport")
        mask &= np.logical_or.reduce([table[name] == port for name in fields])
    if "family" in query:
        mask &= table["family"] == _family(query["family"])
    if "protocol" in query:
        mask &= table["protocol"] == _protocol(query["protocol"])
    if "state" in query:
        mask &= _in_state(table, query["state"])
    return mask


def _node(text: str, names: Mapping[int, str]) -> int:
    for number, name in names.items():
        if text in (name, str(number)):
            return number
    if text.isdigit():
        return int(text)
    raise UsageError(f"no node is called {text!r}", f"the nodes are: {', '.join(names.values()) or 'none'}")


def _packed(text: str) -> bytes:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise UsageError(f"{text!r} is not an IP address") from None
    return address.packed if address.version == 6 else _MAPPED + address.packed


def _number(query: Mapping[str, str], name: str) -> int:
    if not query[name].isdecimal():
        raise UsageError(f"{name} is {query[name]!r}, expected a number")
    return int(query[name])


def _family(text: str) -> int:
    if text not in FAMILIES:
        raise UsageError(f"no address family is called {text!r}", f"they are: {', '.join(FAMILIES)}")
    return FAMILIES[text]


def _protocol(text: str) -> int:
    for number, name in _PROTOCOLS.items():
        if text in (name, str(number)):
            return number
    raise UsageError(f"no flow has the protocol {text!r}", f"they are: {', '.join(_PROTOCOLS.values())}")


def _in_state(table: np.ndarray, text: str) -> np.ndarray:
    """A state, which may be of any protocol; or a phase of UDP."""
    if text in UDP_PHASES:
        mine: np.ndarray = (table["protocol"] == UDP) & (_udp_phase(table) == UDP_PHASES.index(text))
        return mine
    for number, name in STATE_NAMES.items():
        if name == text:
            found: np.ndarray = table["state"] == number
            return found
    known = ", ".join((*STATE_NAMES.values(), *UDP_PHASES))
    raise UsageError(f"no flow state is called {text!r}", f"the states are: {known}")


def _udp_phase(table: Any) -> Any:
    """The index in ``UDP_PHASES``, of each row or of one."""
    answered = table["state"] >= ESTABLISHED
    return np.where(answered, np.where(table["ended"] & LASTS != 0, 2, 1), 0)


def _phase(flow: Any, state: str) -> str:
    """A UDP flow has no states but these two."""
    if flow["protocol"] == UDP and flow["state"] in (SYN_SENT, ESTABLISHED):
        return UDP_PHASES[int(_udp_phase(flow))]
    return state


def row_of(flow: Any, names: Mapping[int, str], now: int) -> api.FlowRow:
    """``flow``: one numpy record of ``FLOW_ROW`` or ``ACCOUNTED_ROW``."""
    protocol, owner = int(flow["protocol"]), int(flow["owner"])
    state = STATE_NAMES.get(int(flow["state"]), str(flow["state"]))
    return api.FlowRow(
        family="ipv6" if flow["family"] == 6 else "ipv4",
        protocol=_PROTOCOLS.get(protocol, str(protocol)),
        source=_address(flow["saddr"]),
        source_port=int(flow["sport"]),
        destination=_address(flow["daddr"]),
        destination_port=int(flow["dport"]),
        reply_source=_address(flow["reply_saddr"]),
        reply_source_port=int(flow["reply_sport"]),
        reply_destination=_address(flow["reply_daddr"]),
        reply_destination_port=int(flow["reply_dport"]),
        owner=owner,
        owner_name=names.get(owner, ""),
        state=state,
        phase=_phase(flow, state),
        mark=int(flow["mark"]),
        age=max(0, now - int(flow["created_ns"])) / 1e9,
        idle=max(0, now - int(flow["seen_ns"])) / 1e9,
        **({name: int(flow[name]) for name in ACCOUNT} if is_accounted(flow) else {}),
    )


def _address(packed: np.ndarray) -> str:
    data = packed.tobytes()
    return str(ipaddress.IPv4Address(data[12:]) if data.startswith(_MAPPED) else ipaddress.IPv6Address(data))
