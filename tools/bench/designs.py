# SPDX-License-Identifier: GPL-2.0-or-later
"""Flow tables side by side: what a look-up costs in each design that was tried, fed the same packets in one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.flows import ESTABLISHED, OWNER_SHIFT
from aa_cluster.dataplane.maps import Map, buckets_for
from aa_cluster.topology.namespaces import inside
from tools.bench import flowtable, loader, packets, place, world
from tools.bench.packets import XDP_TX, Case
from tools.bench.session import Run
from tools.bench.world import OTHER, PUBLIC, World

GROUP = "design"
MOST = 1 << 20
BITE = 1 << 16
_ENTRIES = {"design_whole": 2 * MOST, "design_lru": 2 * MOST, "design_compact": 2 * MOST}
_LINES = {"design_wide": 2 * buckets_for(MOST), "design_words": buckets_for(MOST)}

DESIGNS = {
    "no look-up": "design_none",
    "kernel hash, whole tuples": "design_hash_whole",
    "kernel LRU hash, whole tuples": "design_hash_lru",
    "kernel hash, 12-byte IPv4 key": "design_hash_compact",
    "lines of four, 64-bit fingerprint": "design_line_of_four",
    "lines of eight words, no branch": "design_line_of_eight_branchless",
    "lines of eight words": "design_line_of_eight",
}
"""The last is what the product has, without what else `steer` does."""


def measure(run: Run) -> None:
    wanted = {name: program for name, program in DESIGNS.items() if run.wanted(name) or run.wanted(GROUP)}
    if not wanted:
        return
    with place.roomy_conntrack(), place.namespace("run", place.ROUTER) as path:
        inside(path, lambda: _all(run, wanted, path))


def _all(run: Run, wanted: Mapping[str, str], path: Path) -> None:
    os.sched_setaffinity(0, {run.cpu})
    entries = _ENTRIES | _LINES
    with world.world(run.cache, path) as made, loader.bench("bench/designs", run.cache, entries, _LINES) as designs:
        made.more.append(designs)
        for name in ("config", "nodes"):
            designs.maps[name].view()[:] = made.plane.maps[name].view()
        filled = 0
        for flows in run.sizes:
            _fill(designs.maps, made, range(filled, flows))
            filled = flows
            for name, program in wanted.items():
                packets.one(run, made, Case(name, program, XDP_TX, world.from_client), flows, GROUP)


def _fill(maps: Mapping[str, Map], made: World, numbers: range) -> None:
    hasher = flowtable.hasher_of(made.plane.maps)
    for start in range(numbers.start, numbers.stop, BITE):
        part = flowtable.columns(np.arange(start, min(start + BITE, numbers.stop), dtype=np.uint32), PUBLIC)
        rows = flowtable.rows(part, OTHER, ESTABLISHED)
        for prefix in ("", "reply_"):
            for name in ("design_whole", "design_lru"):
                _write_whole(maps[name], rows, prefix)
            _write_compact(maps["design_compact"], rows, prefix)
            fingerprint, bucket = hasher(rows, prefix)
            _place(maps["design_words"], fingerprint, bucket, 8, _write_words)
            _place(maps["design_wide"], fingerprint, bucket, 4, partial(_write_wide, full=bucket))


def _write_whole(table: Map, rows: np.ndarray, prefix: str) -> None:
    keys, values = np.zeros(len(rows), table.key), np.zeros(len(rows), table.value)
    for name in ("saddr", "daddr"):
        keys[name] = rows[prefix + name]
    for name in ("sport", "dport"):
        keys[name] = _bytes_of(rows[prefix + name])
    keys["protocol"], keys["family"] = 6, 4
    values["owner"] = OTHER
    syscall.map_update_batch(table.fd, keys.tobytes(), values.tobytes(), len(rows))


def _write_compact(table: Map, rows: np.ndarray, prefix: str) -> None:
    keys = np.zeros(len(rows), table.key)
    for name in ("saddr", "daddr"):
        keys[name] = np.ascontiguousarray(rows[prefix + name][:, 12:]).view("<u4").reshape(-1)
    for name in ("sport", "dport"):
        keys[name] = _bytes_of(rows[prefix + name])
    syscall.map_update_batch(table.fd, keys.tobytes(), np.full(len(rows), OTHER, "<u8").tobytes(), len(rows))


def _bytes_of(ports: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(ports).view("<u2")


Writer = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""(lines, line number, place in it, fingerprint, which flows)."""


def _place(table: Map, fingerprint: np.ndarray, bucket: np.ndarray, width: int, write: Writer) -> None:
    """Into the first bucket, or the other; who finds no room in either is left out (and later counted as not sent)."""
    lines = table.view()
    used = _occupied(lines)
    mask = len(lines) - 1
    first = bucket.astype(np.int64) & mask
    waiting = np.arange(len(first))
    for choice in (first, (first ^ (fingerprint.astype(np.int64) | 1)) & mask):
        order = waiting[np.argsort(choice[waiting], kind="stable")]
        where = choice[order]
        rank = np.arange(len(where)) - np.searchsorted(where, where)
        at = np.count_nonzero(used[where], axis=1) + rank  # lines fill from the front
        fits = at < width
        write(lines, where[fits], at[fits], fingerprint[order[fits]], order[fits])
        waiting = order[~fits]
        used = _occupied(lines)


def _occupied(lines: np.ndarray) -> np.ndarray:
    used: np.ndarray = lines["word" if "word" in (lines.dtype.names or ()) else "entry"] != 0
    return used


def _write_words(lines: np.ndarray, where: np.ndarray, at: np.ndarray, fingerprint: np.ndarray, _: np.ndarray) -> None:
    lines["word"][where, at] = fingerprint.astype("<u8") << np.uint64(32) | np.uint64(1 << 10 | OTHER << OWNER_SHIFT)


def _write_wide(
    lines: np.ndarray, where: np.ndarray, at: np.ndarray, fingerprint: np.ndarray, which: np.ndarray, full: np.ndarray
) -> None:
    lines["fingerprint"][where, at] = full[which].astype("<u8") << np.uint64(32) | fingerprint
    lines["entry"][where, at] = OTHER
