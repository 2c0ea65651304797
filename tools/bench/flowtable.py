# SPDX-License-Identifier: GPL-2.0-or-later
"""Flow n of the bench, as tuples, and put into the flow table: the one place that knows how the table is laid out.

The tuples are those of bpf/bench/traffic.h.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import flow_fill, flows
from aa_cluster.dataplane.flows import ESTABLISHED
from aa_cluster.dataplane.maps import Map
from tools.bench.frames import PREFIX, TCP4, Kind

CLIENTS = int(IPv4Address("10.1.0.0"))
SERVERS = int(IPv4Address("10.2.0.1"))
SERVER_PORT = 80
FIRST_PORT, PORTS = 1024, 32768
LOST = 1e-2
"""Share of flows that may find both their buckets full, when the table is full to the last record."""
BITE = 1 << 16
"""Flows written by one pair of system calls."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Many flows: IPv4 addresses (of IPv6 ones the last four bytes) and ports, one row each. ``public``: what the
    client looks like after NAT."""

    client: np.ndarray
    server: np.ndarray
    port: np.ndarray
    public: int


def columns(numbers: np.ndarray, public: int) -> Columns:
    """Flows by number."""
    return Columns(
        client=(CLIENTS | (numbers & 0xFFFF)).astype(">u4"),
        server=(SERVERS + (numbers >> 15)).astype(">u4"),
        port=(FIRST_PORT + (numbers & (PORTS - 1))).astype(">u2"),
        public=public,
    )


def fill(
    maps: Mapping[str, Map], numbers: range, public: int, owner: int, state: int = ESTABLISHED, kind: Kind = TCP4
) -> int:
    """Puts these flows into the table as ``handoff`` would have recorded them; gives how many found no place.

    ``RuntimeError`` when they are more than the share ``LOST``.

    The table's hash key is the one in its configuration.
    """
    hasher = hasher_of(maps)
    lost = 0
    for start in range(numbers.start, numbers.stop, BITE):
        part = columns(np.arange(start, min(start + BITE, numbers.stop), dtype=np.uint32), public)
        placed = flow_fill.insert(maps, hasher, rows(part, owner, state, kind))
        lost += int(np.count_nonzero(~placed))
    if lost > LOST * max(len(numbers), 1):
        raise RuntimeError(f"{lost} of {len(numbers)} flows found no place in the flow table")
    return lost


def hasher_of(maps: Mapping[str, Map]) -> flow_fill.Hasher:
    """With the key in the maps' configuration."""
    return flow_fill.Hasher(_config(maps)["hash_key"].tobytes())


def _config(maps: Mapping[str, Map]) -> np.ndarray:
    found = maps["config"].get(0)
    if found is None:
        raise RuntimeError("there is no configuration in the maps")
    return found


def rows(part: Columns, owner: int, state: int, kind: Kind = TCP4) -> np.ndarray:
    """As ``flows.FLOW_ROW``."""
    made = np.zeros(len(part.port), flows.FLOW_ROW)
    public = np.full(len(part.port), part.public, ">u4")
    for name, address in (
        ("saddr", part.client),
        ("daddr", part.server),
        ("reply_saddr", part.server),
        ("reply_daddr", public),
    ):
        if kind.family == 4:
            made[name][:, 10:12] = 0xFF
        else:
            made[name][:, :12] = list(PREFIX)
        made[name][:, 12:16] = address.view("u1").reshape(-1, 4)
    made["sport"] = made["reply_dport"] = part.port
    made["dport"] = made["reply_sport"] = SERVER_PORT
    made["protocol"], made["family"] = kind.protocol, kind.family
    made["owner"], made["state"] = owner, state
    made["created_ns"] = made["seen_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return made


def rewrite(maps: Mapping[str, Map], owner: int, state: int) -> None:
    """Gives every flow in the table this owner and state."""
    words = maps["buckets"].view()["word"]
    used = words != 0
    kept = ~np.uint64(63 << flows.OWNER_SHIFT | flows.SETTLED | flows.EXACT)
    settled = flows.SETTLED if state >= ESTABLISHED else 0
    words[used] = words[used] & kept | np.uint64(owner << flows.OWNER_SHIFT | settled)
    records = maps["records"].view()[1 : highest(maps) + 1]
    records["owner"], records["state"], records["ended"] = owner, state, 0
    flow_fill.recount(maps)


def highest(maps: Mapping[str, Map]) -> int:
    """The highest record number given out; to be given to ``forget`` later."""
    found = maps["watermark"].get(0)
    return 0 if found is None else int(found)


def forget(maps: Mapping[str, Map], after: int) -> None:
    """Takes out every flow recorded since ``highest`` was ``after``; no program may be running."""
    records = maps["records"].view()[after + 1 : highest(maps) + 1]
    places = records["place"][records["state"] != 0].reshape(-1)
    maps["buckets"].view()["word"].reshape(-1)[places] = 0
    records[:] = np.zeros((), records.dtype)
    maps["watermark"].put(0, np.array(after, "<u8"))
    flow_fill.recount(maps)


def configure(maps: Mapping[str, Map], record: np.ndarray) -> None:
    """The flow table's part of a configuration record, with a hash key that is the same in every run."""
    random = np.random.default_rng(1)
    record["hash_key"] = random.integers(0, 1 << 63, record["hash_key"].shape, "<u8")
    record["bucket_mask"] = maps["buckets"].info.entries - 1
    record["flow_limit"] = maps["records"].info.entries - 1
    record["half_open_limit"] = record["flow_limit"]
    record["timeout_s"] = 3600


TABLE = ("buckets", "records", "released", "watermark")
"""Its maps."""


def memory(maps: Mapping[str, Map]) -> int:
    """Bytes of kernel memory the flow table takes, with all that belongs to it."""
    return sum(map_memory(maps[name].fd) for name in TABLE)


def map_memory(fd: int) -> int:
    """As the kernel accounts for it (memlock in fdinfo; exact from 6.4 on)."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields["memlock"])


def plain_keys(numbers: range) -> np.ndarray:
    """Keys of the plain programs' own table (``struct bench_tuple``): the original tuples."""
    part = columns(np.arange(numbers.start, numbers.stop, dtype=np.uint32), 0)
    keys = np.zeros(len(part.port), [("s", ">u4"), ("d", ">u4"), ("sp", ">u2"), ("dp", ">u2"), ("z", "<u4")])
    keys["s"], keys["d"], keys["sp"], keys["dp"] = part.client, part.server, part.port, SERVER_PORT
    return keys
