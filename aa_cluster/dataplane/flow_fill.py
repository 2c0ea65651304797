# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing the flow table in bulk from user space: whole columns at a time, into the kernel's own memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aa_cluster.dataplane.accounts import is_on
from aa_cluster.dataplane.flows import (
    CLOSING,
    DEAD,
    ESTABLISHED,
    FINGERPRINT_SHIFT,
    HASH_KEYS,
    OWNER_SHIFT,
    RECORD_SHIFT,
    REPLY,
    SETTLED,
)
from aa_cluster.dataplane.maps import Map

_BITE = 1 << 16
"""Flows written at a time: what they need beside the table stays within some ten MiB."""


class Hasher:
    """The keyed hash of bpf/include/flow_table.h, written again over columns of ``FLOW_ROW``."""

    def __init__(self, key: bytes) -> None:
        words = np.frombuffer(key, "<u8")
        self._sums = words[:HASH_KEYS], words[HASH_KEYS : 2 * HASH_KEYS]

    def __call__(self, flows: np.ndarray, prefix: str = "") -> tuple[np.ndarray, np.ndarray]:
        """(fingerprint, bucket before masking), u32 each. ``prefix``: ``reply_`` for the reply tuple."""
        source, destination = (
            np.ascontiguousarray(flows[f"{prefix}{name}"]).view("<u4").reshape(-1, 4).astype("<u8")
            for name in ("saddr", "daddr")
        )
        ports = _memory(flows[f"{prefix}sport"]) | _memory(flows[f"{prefix}dport"]) << np.uint64(16)
        kind = flows["family"].astype("<u8") << np.uint64(8) | flows["protocol"]
        v4 = flows["family"] == 4
        rest = np.where(v4, kind, kind ^ self._network(source, destination))
        first, second = (self._sum(a, source[:, 3], destination[:, 3], ports, rest, v4) for a in self._sums)
        with np.errstate(over="ignore"):
            spread = (second ^ second >> np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15)
        return _upper(first), _upper(spread)

    def _network(self, source: np.ndarray, destination: np.ndarray) -> np.ndarray:
        """Of IPv6 addresses all but the last word, as one."""
        a = self._sums[0]
        with np.errstate(over="ignore"):
            pairs = [(a[2 * i] + destination[:, i]) * (a[2 * i + 1] + source[:, i]) for i in range(3)]
            out: np.ndarray = (pairs[0] + pairs[1] + pairs[2]) >> np.uint64(32)
        return out

    @staticmethod
    def _sum(
        a: np.ndarray, source: np.ndarray, destination: np.ndarray, ports: np.ndarray, rest: np.ndarray, v4: np.ndarray
    ) -> np.ndarray:
        with np.errstate(over="ignore"):
            total = (a[8] + rest) * (a[9] + ports) + a[HASH_KEYS - 1]
            even, odd = np.where(v4, a[0], a[6]), np.where(v4, a[1], a[7])
            out: np.ndarray = total + (even + destination) * (odd + source)
        return out


def _upper(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint64(32)).astype("<u4")


def _memory(ports: np.ndarray) -> np.ndarray:
    """Ports as they lie in memory, read little-endian, whatever the column's byte order says."""
    return np.ascontiguousarray(ports).view("<u2").astype("<u8")


def insert(maps: Mapping[str, Map], hasher: Hasher, flows: np.ndarray) -> np.ndarray:
    """Writes many flows (``FLOW_ROW``) straight into a table that no program is adding to; True where one found room.

    For filling a table before it is put to use. A flow whose fingerprint is taken, in the table or among ``flows``, or
    that finds both its buckets full or no record left, is left out whole.
    """
    placed = np.zeros(len(flows), bool)
    for start in range(0, len(flows), _BITE):
        placed[start : start + _BITE] = _insert_some(maps, hasher, flows[start : start + _BITE])
    recount(maps)
    return placed


def recount(maps: Mapping[str, Map]) -> None:
    """Sets the programs' counters to what the records say: for whoever wrote records, while no program does."""
    highest = maps["watermark"].get(0)
    used = maps["records"].view()[1 : (0 if highest is None else int(highest)) + 1]
    tally = maps["tallies"].view()
    live = used[(used["state"] != 0) & (used["state"] < CLOSING)]
    tally["live"][0] = np.bincount(live["owner"], minlength=tally["live"].shape[1])
    tally["half_open"][0] = np.count_nonzero(live["state"] < ESTABLISHED)


def _insert_some(maps: Mapping[str, Map], hasher: Hasher, flows: np.ndarray) -> np.ndarray:
    watermark = maps["watermark"].get(0)
    first = (0 if watermark is None else int(watermark)) + 1
    numbers = np.arange(first, first + len(flows), dtype="<u8")
    room = numbers < maps["records"].info.entries
    table = maps["buckets"].view()["word"]
    places = np.full((2, len(flows)), -1)
    for direction, prefix in ((1, "reply_"), (0, "")):
        fingerprint, bucket = hasher(flows, prefix)
        settled = np.where(flows["state"] >= ESTABLISHED, SETTLED, 0).astype("<u8")
        words = (
            fingerprint.astype("<u8") << np.uint64(FINGERPRINT_SHIFT)
            | numbers << np.uint64(RECORD_SHIFT)
            | flows["owner"].astype("<u8") << np.uint64(OWNER_SHIFT)
            | settled
            | np.uint64(REPLY if direction else 0)
        )
        wanted = room if direction else room & (places[1] >= 0)
        places[direction] = _place(table, words, bucket, wanted)
    lost = room & (places[1] >= 0) & (places[0] < 0)
    table.reshape(-1)[places[1][lost]] = 0
    placed: np.ndarray = places[0] >= 0
    _fill_records(maps["records"], flows, numbers, places, placed)
    if is_on(maps["accounts"]):
        maps["accounts"].view()[numbers[placed].astype(np.int64)] = np.zeros((), maps["accounts"].value)
    maps["records"].view()["state"][numbers[room & ~placed].astype(np.int64)] = DEAD  # the sweep gives them back
    maps["watermark"].put(0, np.array(first + int(np.count_nonzero(room)) - 1, "<u8"))
    return placed


def _place(table: np.ndarray, words: np.ndarray, bucket: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Puts words into their first bucket or, where that is full, the other; gives places, −1 where there was none."""
    mask = len(table) - 1
    fingerprint = (words >> np.uint64(FINGERPRINT_SHIFT)).astype(np.int64)
    both = np.empty((2, len(words)), np.int64)
    both[0] = bucket.astype(np.int64) & mask
    both[1] = (both[0] ^ (fingerprint | 1)) & mask
    taken = np.zeros(len(words), bool)
    for choice in both:
        line = table[choice]
        taken |= ((line >> np.uint64(FINGERPRINT_SHIFT) == fingerprint[:, None].astype("<u8")) & (line != 0)).any(
            axis=1
        )
    identity = both.min(axis=0) << 32 | fingerprint
    earliest = np.zeros(len(words), bool)
    earliest[np.unique(identity, return_index=True)[1]] = True
    waiting = wanted & ~taken & earliest
    places = np.full(len(words), -1)
    for choice in both:
        chosen = np.flatnonzero(waiting)
        chosen = chosen[np.argsort(choice[chosen], kind="stable")]
        buckets = choice[chosen]
        rank = np.arange(len(buckets)) - np.searchsorted(buckets, buckets)
        free = np.cumsum(table[buckets] == 0, axis=1, dtype=np.int8)
        fits = free[:, -1] > rank
        at = buckets * table.shape[1] + (free > rank[:, None]).argmax(axis=1)
        table.reshape(-1)[at[fits]] = words[chosen[fits]]
        places[chosen[fits]] = at[fits]
        waiting[chosen[fits]] = False
    return places


def _fill_records(records: Map, flows: np.ndarray, numbers: np.ndarray, places: np.ndarray, placed: np.ndarray) -> None:
    chosen = numbers[placed].astype(np.int64)
    out = np.zeros(len(chosen), records.value)
    rows_in = flows[placed]
    for name in ("saddr", "daddr", "sport", "dport"):
        out[f"original_{name}"] = _same_bytes(rows_in[name])
        out[f"reply_{name}"] = _same_bytes(rows_in[f"reply_{name}"])
    for name in ("protocol", "family"):
        out[f"original_{name}"] = out[f"reply_{name}"] = rows_in[name]
    for name in ("owner", "state", "ended", "slot", "mark", "created_ns", "seen_ns"):
        out[name] = rows_in[name]
    out["place"] = places[:, placed].T
    records.view()[chosen] = out


def _same_bytes(column: np.ndarray) -> np.ndarray:
    """Ports change their type, not their bytes."""
    return np.ascontiguousarray(column).view("<u2") if column.dtype == np.dtype(">u2") else column
