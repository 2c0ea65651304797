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

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.flows import ESTABLISHED
from aa_cluster.dataplane.maps import Map

CLIENTS = int(IPv4Address("10.1.0.0"))
SERVERS = int(IPv4Address("10.2.0.1"))
SERVER_PORT = 80
FIRST_PORT, PORTS = 1024, 32768
BITE = 1 << 16
"""Flows written by one pair of system calls."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Many flows: host-order addresses and ports, one row each. ``public``: what the client looks like after NAT."""

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


def fill(maps: Mapping[str, Map], numbers: range, public: int, owner: int, state: int = ESTABLISHED) -> None:
    """Puts these flows into the table as ``handoff`` would have recorded them; those already there are replaced."""
    for start in range(numbers.start, numbers.stop, BITE):
        part = columns(np.arange(start, min(start + BITE, numbers.stop), dtype=np.uint32), public)
        _write(maps["flows"], part, owner, state)


def _write(table: Map, part: Columns, owner: int, state: int) -> None:
    original = _tuples(table.key, part.client, part.server, part.port, _same(part.port, SERVER_PORT))
    public = np.full(len(part.port), part.public, ">u4")
    reply = _tuples(table.key, part.server, public, _same(part.port, SERVER_PORT), part.port)
    for direction, (own, peer) in enumerate(((original, reply), (reply, original))):
        values = np.zeros(len(own), table.value)
        for name in table.key.names or ():
            values[f"peer_{name}"] = peer[name]
        values["owner"], values["state"], values["direction"] = owner, state, direction
        values["created_ns"] = values["seen_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        syscall.map_update_batch(table.fd, own.tobytes(), values.tobytes(), len(own))


def _same(like: np.ndarray, value: int) -> np.ndarray:
    return np.full(len(like), value, ">u2")


def _tuples(
    dtype: np.dtype, source: np.ndarray, destination: np.ndarray, sport: np.ndarray, dport: np.ndarray
) -> np.ndarray:
    made = np.zeros(len(source), dtype)
    for name, address in (("saddr", source), ("daddr", destination)):
        made[name][:, 10:12] = 0xFF
        made[name][:, 12:16] = address.view("u1").reshape(-1, 4)
    made["sport"], made["dport"] = sport.view("<u2"), dport.view("<u2")
    made["protocol"], made["family"] = 6, 4
    return made


def forget(maps: Mapping[str, Map], numbers: range, public: int) -> None:
    """Takes these flows out again."""
    part = columns(np.arange(numbers.start, numbers.stop, dtype=np.uint32), public)
    table = maps["flows"]
    server_port = _same(part.port, SERVER_PORT)
    for own in (
        _tuples(table.key, part.client, part.server, part.port, server_port),
        _tuples(table.key, part.server, np.full(len(part.port), public, ">u4"), server_port, part.port),
    ):
        table.delete_all(own)


def memory(maps: Mapping[str, Map]) -> int:
    """Bytes of kernel memory the flow table takes, with all that belongs to it (maps named flow…)."""
    return sum(map_memory(item.fd) for name, item in maps.items() if name.startswith("flow"))


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
