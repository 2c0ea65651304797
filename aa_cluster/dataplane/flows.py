# SPDX-License-Identifier: GPL-2.0-or-later
"""The flow table as user space sees it: the kernel's own memory, read by column; no Python object per flow.

How it is laid out and changed: docs/flow-table.md, bpf/include/flow_table.h. Writing in bulk: flow_fill.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aa_cluster.dataplane.maps import Map

SYN_SENT, SYN_RECV, ESTABLISHED, CLOSING, CLOSED, DEAD = 1, 2, 3, 4, 5, 6
DATAGRAMS, STREAM = 0, 7
"""In ``Timeouts``, beside the states: a UDP flow, and one that was answered and has lasted: a stream."""

TCP, UDP = 6, 17
"""IP protocol numbers: what has flows."""

STATE_NAMES = {
    SYN_SENT: "syn-sent",
    SYN_RECV: "syn-recv",
    ESTABLISHED: "established",
    CLOSING: "closing",
    CLOSED: "closed",
}

TOUCHED, EXACT, SETTLED, REPLY = 1, 2, 4, 8
ONE_SIDED, LASTS, TAKEN = 4, 8, 16
"""In a record's ``ended``: FLOW_ONE_SIDED, FLOW_LASTS and FLOW_TAKEN of bpf/include/types.h."""

OWNER_SHIFT, RECORD_SHIFT, FINGERPRINT_SHIFT = 4, 10, 32
RECORD_MASK = 0x3FFFFF

HASH_KEYS = 11
"""64-bit words for one sum; a key is two of these, fingerprint first: ``HASH_KEY_BYTES`` bytes."""

HASH_KEY_BYTES = 2 * HASH_KEYS * 8

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
        ("ended", "u1"),
        ("slot", "u1"),
        ("mark", "<u4"),
        ("created_ns", "<u8"),
        ("seen_ns", "<u8"),
    ]
)
"""One flow: both tuples as on the wire, addresses v4-mapped, times in ns of CLOCK_MONOTONIC, the record's ``ended``."""

ACCOUNT = ("packets", "octets", "reply_packets", "reply_octets")
ACCOUNTED_ROW = np.dtype(
    [*((name, FLOW_ROW[name]) for name in FLOW_ROW.names or ()), *((name, "<u8") for name in ACCOUNT)]
)
"""The same with what it carried by direction, IP headers included: where accounting is on."""


_TIMEOUTS = {
    DATAGRAMS: ("udp_timeout", 30),
    STREAM: ("udp_timeout_stream", 120),
    SYN_SENT: ("tcp_timeout_syn_sent", 120),
    SYN_RECV: ("tcp_timeout_syn_recv", 60),
    ESTABLISHED: ("tcp_timeout_established", 432_000),
    CLOSING: ("tcp_timeout_fin_wait", 120),
    CLOSED: ("tcp_timeout_time_wait", 120),
}
"""By state: the node's own conntrack setting, and the kernel's default."""


def timeout_index(protocol: np.ndarray, state: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Which of ``Timeouts`` is each flow's: TCP's by state; a UDP flow has one, and another when it is a stream."""
    stream = (state >= ESTABLISHED) & (ended & LASTS != 0)
    out: np.ndarray = np.where(protocol == UDP, np.where(stream, STREAM, DATAGRAMS), state & 7)
    return out


class Timeouts:
    """Seconds a flow may be idle, by state: the conntrack settings of the namespace it was made in.

    The files stay open until ``close``: the primary reads them every second.
    """

    def __init__(self, root: Path = Path("/proc/sys/net/netfilter")) -> None:
        self._files = {state: _opened(root / f"nf_conntrack_{name}") for state, (name, _) in _TIMEOUTS.items()}

    @classmethod
    def of_this_namespace(cls) -> dict[int, int]:
        """As they are now."""
        timeouts = cls()
        try:
            return timeouts.read()
        finally:
            timeouts.close()

    def read(self) -> dict[int, int]:
        return {state: _number(handle, _TIMEOUTS[state][1]) for state, handle in self._files.items()}

    def close(self) -> None:
        for handle in self._files.values():
            if handle >= 0:
                os.close(handle)
        self._files = {}


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _number(handle: int, default: int) -> int:
    try:
        return int(os.pread(handle, 32, 0))
    except (OSError, ValueError):
        return default


def in_use(records: Map, watermark: Map) -> np.ndarray:
    """The records ever given out, uncopied; one that is changing under us may be half-way."""
    highest = watermark.get(0)
    count = min(0 if highest is None else int(highest), records.info.entries - 1)
    return records.view()[1 : count + 1]


@dataclass(frozen=True, slots=True)
class Owned:
    """``numbers``: of their records; ``rows``: ``FLOW_ROW``; ``one_sided``: began on the owner itself."""

    numbers: np.ndarray
    rows: np.ndarray
    one_sided: np.ndarray


STRETCH = 16_384
"""Records looked at at a time: two megabytes, whose columns are read several times while they are in the cache."""

Choice = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(records, indices among them) → which of these, as booleans. Record numbers are one more. It is given the kernel's
memory: what it reads costs by column. It is asked once for each ``STRETCH`` of the table."""


def owned(records: Map, watermark: Map, owners: Collection[int], wanted: Choice | None = None) -> Owned:
    """The flows of these nodes, all or those that are ``wanted``."""
    used = in_use(records, watermark)
    theirs = np.zeros(256, bool)
    theirs[list(owners)] = True
    stretches = (_owned_from(used, start, theirs, wanted) for start in range(0, len(used), STRETCH))
    at = np.concatenate([np.zeros(0, np.intp), *stretches])
    live = used[at]
    there = (live["state"] != 0) & (live["state"] != DEAD)  # a packet may have ended one meanwhile
    if not there.all():
        at, live = at[there], live[there]
    return Owned(at + 1, _as_rows(live), live["ended"] & ONE_SIDED != 0)


def _owned_from(used: np.ndarray, start: int, theirs: np.ndarray, wanted: Choice | None) -> np.ndarray:
    """Indices among ``used``, of one stretch. ``theirs``: by owner id, whether it is asked for."""
    part = used[start : start + STRETCH]
    state = part["state"]
    at = np.flatnonzero((state != 0) & (state != DEAD) & theirs[part["owner"]]) + start
    return at if wanted is None else at[wanted(used, at)]


def unchanged(records: Map, found: Owned) -> Owned:
    """Those that are in the table as they were: not ended since, and their numbers not another flow's."""
    now = records.view()[found.numbers]
    same = np.ones(len(now), bool)
    for name in ("created_ns", "state", "owner"):
        same &= now[name] == found.rows[name]
    return found if same.all() else Owned(found.numbers[same], found.rows[same], found.one_sided[same])


def rows(records: Map, watermark: Map, accounts: Map | None = None) -> np.ndarray:
    """Every flow once, as ``FLOW_ROW`` or, with ``accounts``, ``ACCOUNTED_ROW``.

    ``seen_ns`` lags behind a flow's last packet by ten seconds at most.
    """
    used = in_use(records, watermark)
    at = np.flatnonzero((used["state"] != 0) & (used["state"] != DEAD))
    live = used[at]
    there = (live["state"] != 0) & (live["state"] != DEAD)
    if not there.all():
        at, live = at[there], live[there]
    out = _as_rows(live, FLOW_ROW if accounts is None else ACCOUNTED_ROW)
    if accounts is not None:
        carried = accounts.view()[at + 1]
        for name in ("packets", "octets"):
            out[name], out[f"reply_{name}"] = carried[name].T
    return out


def _as_rows(live: np.ndarray, dtype: np.dtype[np.void] = FLOW_ROW) -> np.ndarray:
    """Copies of records."""
    out = np.zeros(len(live), dtype)
    for name in ("saddr", "daddr", "protocol", "family"):
        out[name] = live[f"original_{name}"]
    for name in ("saddr", "daddr"):
        out[f"reply_{name}"] = live[f"reply_{name}"]
    for name in ("sport", "dport"):
        out[name] = live[f"original_{name}"].view(">u2")
        out[f"reply_{name}"] = live[f"reply_{name}"].view(">u2")
    for name in ("owner", "state", "ended", "slot", "mark", "created_ns", "seen_ns"):
        out[name] = live[name]
    return out


def count(records: Map, watermark: Map) -> int:
    """Flows in the table, whatever their state."""
    state = in_use(records, watermark)["state"]
    return int(np.count_nonzero((state != 0) & (state != DEAD)))


def sessions_by_owner(records: Map, watermark: Map) -> dict[int, int]:
    """Flows that are neither closing nor closed, by owner id."""
    used = in_use(records, watermark)
    owners = used["owner"][(used["state"] != 0) & (used["state"] < CLOSING)]
    counts = np.bincount(owners, minlength=1)
    return {owner: int(number) for owner, number in enumerate(counts) if number}


def live_by_kind(records: Map, watermark: Map) -> dict[tuple[int, int], int]:
    """Flows that are neither closing nor closed, by (protocol, family)."""
    used = in_use(records, watermark)
    live = used[(used["state"] != 0) & (used["state"] < CLOSING)]
    kinds = live["original_protocol"].astype("u2") << np.uint16(8) | live["original_family"]
    found, counts = np.unique(kinds, return_counts=True)
    return {(int(kind) >> 8, int(kind) & 0xFF): int(count) for kind, count in zip(found, counts, strict=True)}


def begun_since(records: Map, watermark: Map, since_ns: int) -> dict[int, int]:
    """Flows that began after that time (CLOCK_MONOTONIC), closed ones too, by owner id."""
    used = in_use(records, watermark)
    owners = used["owner"][(used["state"] != 0) & (used["state"] != DEAD) & (used["created_ns"] > since_ns)]
    counts = np.bincount(owners, minlength=1)
    return {owner: int(number) for owner, number in enumerate(counts) if number}
