# SPDX-License-Identifier: GPL-2.0-or-later
"""The flow table, read in bulk and aged: numpy over batch reads, no Python object per flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aa_cluster.dataplane.maps import Map

SYN_SENT, SYN_RECV, ESTABLISHED, CLOSING, CLOSED = 1, 2, 3, 4, 5
STATE_NAMES = {
    SYN_SENT: "syn-sent",
    SYN_RECV: "syn-recv",
    ESTABLISHED: "established",
    CLOSING: "closing",
    CLOSED: "closed",
}

ORIGINAL = 0
TUPLE_BYTES = 40

FLOW_ROW = np.dtype(
    [
        ("saddr", "u1", 16),
        ("daddr", "u1", 16),
        ("sport", ">u2"),
        ("dport", ">u2"),
        ("protocol", "u1"),
        ("family", "u1"),
        ("reply_saddr", "u1", 16),
        ("reply_daddr", "u1", 16),
        ("reply_sport", ">u2"),
        ("reply_dport", ">u2"),
        ("owner", "u1"),
        ("state", "u1"),
        ("slot", "u1"),
        ("mark", "<u4"),
        ("created_ns", "<u8"),
        ("seen_ns", "<u8"),
    ]
)
"""One flow: both tuples as on the wire, addresses v4-mapped, times in ns of CLOCK_MONOTONIC."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds a flow may be idle, by state; read from the node's own conntrack settings."""

    by_state: Mapping[int, int]

    @classmethod
    def of_this_namespace(cls, root: Path = Path("/proc/sys/net/netfilter")) -> Timeouts:
        def seconds(name: str, default: int) -> int:
            try:
                return int((root / f"nf_conntrack_tcp_timeout_{name}").read_text("ascii"))
            except (OSError, ValueError):
                return default

        return cls(
            {
                SYN_SENT: seconds("syn_sent", 120),
                SYN_RECV: seconds("syn_recv", 60),
                ESTABLISHED: seconds("established", 432_000),
                CLOSING: seconds("fin_wait", 120),
                CLOSED: seconds("time_wait", 120),
            }
        )

    def nanoseconds(self, states: np.ndarray) -> np.ndarray:
        table = np.zeros(256, "<u8")
        for state, seconds in self.by_state.items():
            table[state] = seconds * 1_000_000_000
        chosen: np.ndarray = table[states]
        return chosen


def _as_tuples(fields: np.ndarray, prefix: str) -> np.ndarray:
    """The 40 bytes of each record's tuple, as one comparable column."""
    offset = fields.dtype.fields[f"{prefix}saddr"][1]  # type: ignore[index]
    raw = fields.view("u1").reshape(len(fields), fields.dtype.itemsize)
    packed = np.ascontiguousarray(raw[:, offset : offset + TUPLE_BYTES])
    return packed.view(f"V{TUPLE_BYTES}").reshape(-1)


def _partner(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each tuple of ``own`` its index in ``others``, or −1. Both are byte columns."""
    if not len(others):
        return np.full(len(own), -1)
    wanted, offered = _mixed(own), _mixed(others)
    order = np.argsort(offered, kind="stable")
    ordered = offered[order]
    at = np.searchsorted(ordered, wanted)
    at[at == len(ordered)] = 0
    return np.where(ordered[at] == wanted, order[at], -1)


def _mixed(tuples: np.ndarray) -> np.ndarray:
    """A 64-bit mix of the 40 bytes; a collision only makes two flows share their idle time for one reading."""
    words = tuples.view("<u8").reshape(-1, TUPLE_BYTES // 8)
    mixed = np.zeros(len(words), "<u8")
    for column in range(words.shape[1]):
        mixed = (mixed ^ words[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def rows(table: Map) -> np.ndarray:
    """Every flow once, as ``FLOW_ROW``; ``seen_ns`` is the later of its two directions."""
    keys, values = table.read()
    original = values["direction"] == ORIGINAL
    keys_o, values_o, values_r = keys[original], values[original], values[~original]
    out = np.zeros(len(keys_o), FLOW_ROW)
    for name in ("saddr", "daddr", "protocol", "family"):
        out[name] = keys_o[name]
    for name in ("sport", "dport"):
        out[name] = keys_o[name].view(">u2")
        out[f"reply_{name}"] = values_o[f"peer_{name}"].view(">u2")
    for name in ("saddr", "daddr"):
        out[f"reply_{name}"] = values_o[f"peer_{name}"]
    for name in ("owner", "state", "slot", "mark", "created_ns"):
        out[name] = values_o[name]
    seen = values_o["seen_ns"].copy()
    partner = _partner(_as_tuples(keys_o, ""), _as_tuples(values_r, "peer_"))
    found = partner >= 0
    seen[found] = np.maximum(seen[found], values_r["seen_ns"][partner[found]])
    out["seen_ns"] = seen
    return out


def sessions_by_owner(table: Map) -> dict[int, int]:
    """Flows that are neither closing nor closed, by owner id."""
    _, values = table.read()
    live = values[(values["direction"] == ORIGINAL) & (values["state"] < CLOSING)]
    counts = np.bincount(live["owner"], minlength=1)
    return {owner: int(count) for owner, count in enumerate(counts) if count}


def sweep(table: Map, now_ns: int, timeouts: Timeouts) -> int:
    """Deletes flows idle in both directions past the timeout of their state; gives how many flows went.

    A half without its other half (its twin was replaced by a newer session's) goes by its own idle time.
    """
    keys, values = table.read()
    if not len(keys):
        return 0
    seen = values["seen_ns"].copy()
    partner = _partner(_as_tuples(keys, ""), _as_tuples(values, "peer_"))
    found = partner >= 0
    seen[found] = np.maximum(seen[found], values["seen_ns"][partner[found]])
    idle = np.where(seen < now_ns, now_ns - seen, 0)
    old = idle > timeouts.nanoseconds(values["state"])
    if not old.any():
        return 0
    table.delete_all(np.ascontiguousarray(keys[old]))
    return int(np.count_nonzero(values["direction"][old] == ORIGINAL))
