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
from aa_cluster.dataplane.flows import ACCOUNT, STATE_NAMES
from aa_cluster.errors import UsageError

DEFAULT_LIMIT = 100
_MAPPED = bytes(10) + b"\xff\xff"
_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp"}


def flows(table: np.ndarray, query: Mapping[str, str], names: Mapping[int, str]) -> api.Flows:
    """``query``: node (name or id), address, port, state, sort, limit. ``UsageError`` when one makes no sense."""
    unknown = set(query) - {"node", "address", "port", "state", "sort", "limit"}
    if unknown:
        raise UsageError(f"unknown filter {', '.join(sorted(unknown))}", "use node, address, port, state, sort, limit")
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
    if "state" in query:
        mask &= table["state"] == _state(query["state"])
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


def _state(text: str) -> int:
    for number, name in STATE_NAMES.items():
        if name == text:
            return number
    raise UsageError(f"no flow state is called {text!r}", f"the states are: {', '.join(STATE_NAMES.values())}")


def row_of(flow: Any, names: Mapping[int, str], now: int) -> api.FlowRow:
    """``flow``: one numpy record of ``FLOW_ROW`` or ``ACCOUNTED_ROW``."""
    protocol, owner = int(flow["protocol"]), int(flow["owner"])
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
        state=STATE_NAMES.get(int(flow["state"]), str(flow["state"])),
        mark=int(flow["mark"]),
        age=max(0, now - int(flow["created_ns"])) / 1e9,
        idle=max(0, now - int(flow["seen_ns"])) / 1e9,
        **({name: int(flow[name]) for name in ACCOUNT} if is_accounted(flow) else {}),
    )


def _address(packed: np.ndarray) -> str:
    data = packed.tobytes()
    return str(ipaddress.IPv4Address(data[12:]) if data.startswith(_MAPPED) else ipaddress.IPv6Address(data))
