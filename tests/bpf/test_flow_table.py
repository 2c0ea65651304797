# SPDX-License-Identifier: GPL-2.0-or-later
"""The flow table against an oracle: ten million random operations, and readers on another CPU meanwhile.

The oracle is written from docs/flow-table.md, not from the programs: Python lists for buckets, a dictionary for flows.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest

from aa_cluster.dataplane import flows, syscall
from aa_cluster.dataplane.flow_fill import Hasher, insert
from aa_cluster.dataplane.flows import FLOW_ROW, HASH_KEYS
from aa_cluster.dataplane.maps import buckets_for
from tests.bpf.harness import TABLE_KEY, Plane, namespace, operated, tuple_of

pytestmark = pytest.mark.bpf

OPERATIONS = int(os.environ.get("AA_TABLE_OPS", "10000000"))
BATCH = 100_000
INSERT, LOOK_UP, TOUCH, END = range(4)
DONE, KNOWN, NO_RECORD, NO_PLACE, COLLISION = range(1, 6)
MASK64 = (1 << 64) - 1


def tuples(flow: int) -> tuple[bytes, bytes]:
    """The 40 bytes of both tuples, as bpf/tests/table_ops.bpf.c makes them."""
    family, protocol = 6 if flow & 1 else 4, 17 if flow & 2 else 6
    if family == 4:
        source = bytes(10) + b"\xff\xff" + (0x0A000000 + (flow >> 2)).to_bytes(4, "big")
        destination = bytes(10) + b"\xff\xff" + IPv4Address("192.0.2.1").packed
    else:
        low = bytes((flow >> 10 & 0xFF, flow >> 2 & 0xFF))
        source = bytes((0x20, 0, 0, 0, 0, 0, 0, flow >> 16 & 0xFF)) + bytes(6) + low
        destination = b"\x20" + bytes(14) + b"\x01"
    tail = struct.pack("BBxx", protocol, family)
    original = source + destination + struct.pack("!HH", 1024 + (flow & 0x3FFF), 443) + tail
    reply = destination + source + struct.pack("!HH", 443, 20000 + (flow & 0x3FFF)) + tail
    return original, reply


def hashed(raw: bytes, mask: int) -> tuple[int, int]:
    """(fingerprint, bucket) of any tuple, from the formula in docs/flow-table.md, in plain integers."""
    words = struct.unpack("<10I", raw)
    family = raw[37]
    keys = [struct.unpack_from(f"<{HASH_KEYS}Q", TABLE_KEY, 8 * start) for start in (0, HASH_KEYS)]
    network = sum((keys[0][2 * i] + words[4 + i]) * (keys[0][2 * i + 1] + words[i]) for i in range(3)) & MASK64
    rest = family << 8 | raw[36]
    pairs = [(0, words[3], words[7]), (8, words[8], rest)]
    if family == 6:
        pairs = [(6, words[3], words[7]), (8, words[8], rest ^ network >> 32)]
    sums = [sum((key[at] + y) * (key[at + 1] + x) for at, x, y in pairs) + key[HASH_KEYS - 1] & MASK64 for key in keys]
    spread = (sums[1] ^ sums[1] >> 32) * 0x9E3779B97F4A7C15 & MASK64
    return sums[0] >> 32 & mask, spread >> 32


@dataclass
class Oracle:
    """``limit`` records, ``count`` buckets, fingerprints under ``mask``."""

    limit: int
    count: int
    mask: int
    given: int = 0
    released: deque[int] = field(default_factory=deque)
    buckets: dict[int, list[tuple[int, int, int] | None]] = field(default_factory=dict)
    live: dict[int, list[bool]] = field(default_factory=dict)
    dead: int = 0
    places: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    hashes: dict[tuple[int, int], tuple[int, int, int]] = field(default_factory=dict)

    def where(self, flow: int, reply: int) -> tuple[int, int, int]:
        """(fingerprint, first bucket, other bucket)."""
        found = self.hashes.get((flow, reply))
        if found is None:
            fingerprint, bucket = hashed(tuples(flow)[reply], self.mask)
            first = bucket & self.count - 1
            found = self.hashes[flow, reply] = fingerprint, first, (first ^ (fingerprint | 1)) & self.count - 1
        return found

    def find(self, flow: int, reply: int) -> tuple[int, int] | None:
        """(flow, direction) of the entry that a look-up meets."""
        fingerprint, first, other = self.where(flow, reply)
        for bucket in (first, other):
            for slot in self.buckets.get(bucket, ()):
                if slot is not None and slot[0] == fingerprint:
                    return slot[1], slot[2]
        return None

    def place(self, flow: int, reply: int) -> bool:
        if self.find(flow, reply) is not None:
            return False
        fingerprint, first, other = self.where(flow, reply)
        for bucket in (first, other):
            slots = self.buckets.setdefault(bucket, [None] * 8)
            if None in slots:
                index = slots.index(None)
                slots[index] = fingerprint, flow, reply
                self.places[flow, reply] = bucket, index
                return True
        return False

    def drop(self, flow: int, reply: int) -> None:
        bucket, index = self.places.pop((flow, reply))
        self.buckets[bucket][index] = None

    def take(self) -> bool:
        """A record: one that was given back, else a new one."""
        if self.released:
            self.released.popleft()
        elif self.given < self.limit:
            self.given += 1
        else:
            return False
        return True

    def insert(self, flow: int, reply: int) -> int:
        if self.find(flow, 0) == (flow, 0):
            return KNOWN
        if not self.take():
            return NO_RECORD
        if not self.place(flow, 1):
            self.released.append(0)
            return NO_PLACE
        if not self.place(flow, 0):
            self.drop(flow, 1)
            self.released.append(0)
            return NO_PLACE
        self.live[flow] = [False, False]
        return DONE

    def meet(self, flow: int, reply: int) -> int:
        found = self.find(flow, reply)
        if found is None:
            return 0
        return DONE if found == (flow, reply) else COLLISION

    def look_up(self, flow: int, reply: int) -> int:
        met = self.meet(flow, reply)
        return 0x100 | 1 + flow % 63 if met == DONE else met

    def touch(self, flow: int, reply: int) -> int:
        met = self.meet(flow, reply)
        if met == DONE:
            self.live[flow][reply] = True
        return met

    def end(self, flow: int, reply: int) -> int:
        met = self.meet(flow, reply)
        if met == DONE:
            self._remove(flow)
        return met

    def _remove(self, flow: int) -> None:
        self.drop(flow, 0)
        self.drop(flow, 1)
        del self.live[flow]
        self.dead += 1

    def sweep(self) -> None:
        """All timeouts are zero: who was not touched since the last sweep goes, who went before it is given back."""
        self.released.extend([0] * self.dead)
        self.dead = 0
        for flow in [flow for flow, touched in self.live.items() if not any(touched)]:
            self._remove(flow)
        for touched in self.live.values():
            touched[:] = False, False


@pytest.fixture
def in_namespace(root: None) -> Iterator[None]:
    with namespace(f"ft{os.getpid()}"):
        yield


def configure(plane: Plane, timeout_s: int) -> None:
    record = plane.maps["config"].record()
    record["hash_key"] = np.frombuffer(TABLE_KEY, "<u8")
    record["bucket_mask"] = plane.maps["buckets"].info.entries - 1
    record["flow_limit"] = plane.maps["records"].info.entries - 1
    record["timeout_s"][:] = timeout_s
    plane.maps["config"].put(0, record)


def run_batch(plane: Plane, kinds: np.ndarray, which: np.ndarray, replies: np.ndarray) -> np.ndarray:
    ops = plane.maps["ops"].view()
    count = len(kinds)
    ops["kind"][:count], ops["flow"][:count], ops["reply"][:count] = kinds, which, replies
    plane.maps["next_op"].put(0, np.array(0, "<u8"))
    syscall.run_program(plane.fds["table_op"], bytes(64), repeat=count)
    results: np.ndarray = ops["result"][:count].copy()
    return results


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("flow_entries", "universe", "mask", "share"),
    [(1024, 4000, 0xFFFFFFFF, 0.6), (1024, 1500, 0x3F, 0.2), (4096, 65536, 0xFFF, 0.2)],
    ids=["full table", "colliding fingerprints", "many flows"],
)
def test_random_operations_agree_with_the_oracle(
    in_namespace: None, object_cache: Path, flow_entries: int, universe: int, mask: int, share: float
) -> None:
    """Insert, look up, touch, end, sweep; full table, full buckets, shared fingerprints: every result, one by one."""
    dice = np.random.default_rng(flow_entries + mask)
    oracle = Oracle(flow_entries, buckets_for(flow_entries), mask)
    work = (oracle.insert, oracle.look_up, oracle.touch, oracle.end)
    seen: dict[tuple[int, int], int] = {}
    with operated(
        object_cache, "table_ops", BATCH, flow_entries, {"AA_FINGERPRINT_MASK": mask, "AA_REST_NS": 0}
    ) as plane:
        configure(plane, 0)
        for batch in range(max(1, int(OPERATIONS * share) // BATCH)):
            kinds = dice.choice(4, BATCH, p=[0.4, 0.35, 0.2, 0.05]).astype("<u4")
            which = dice.integers(0, universe, BATCH, dtype="<u4")
            replies = np.where(kinds == INSERT, 0, dice.integers(0, 2, BATCH)).astype("<u4")
            got = run_batch(plane, kinds, which, replies).tolist()
            operations = list(zip(kinds.tolist(), which.tolist(), replies.tolist(), strict=True))
            expected = [work[kind](flow, reply) for kind, flow, reply in operations]
            if got != expected:
                at = next(i for i, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1])
                pytest.fail(f"batch {batch}, {operations[at]}: the table says {got[at]}, the oracle {expected[at]}")
            for kind, result in zip(kinds.tolist(), expected, strict=True):
                key = kind, result & 0x1FF if result < 0x100 else 0x100
                seen[key] = seen.get(key, 0) + 1
            plane.sweep()
            oracle.sweep()
            assert plane.entry_count() == 2 * len(oracle.live)
            assert plane.flow_count() == len(oracle.live)
    print(f"{flow_entries} flows, fingerprint mask {mask:#x}: outcomes {seen}")
    assert {(INSERT, DONE), (INSERT, KNOWN), (LOOK_UP, 0), (LOOK_UP, 0x100), (END, DONE)} <= set(seen)
    if mask == 0x3F:
        assert (LOOK_UP, COLLISION) in seen
        assert (INSERT, NO_PLACE) in seen
    elif universe == 4000:
        assert (INSERT, NO_RECORD) in seen


def test_readers_never_meet_a_wrong_owner(in_namespace: None, object_cache: Path) -> None:
    """One CPU inserts, ends and sweeps as fast as it can while another looks up: no look-up gives a foreign owner."""
    universe = 0x10000
    dice = np.random.default_rng(7)
    with operated(object_cache, "table_ops", BATCH, 65536) as plane:
        configure(plane, 0)
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                syscall.run_program(plane.fds["reader"], bytes(64), repeat=200_000)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for _ in range(30):
                kinds = dice.choice([INSERT, TOUCH, END], BATCH, p=[0.6, 0.2, 0.2]).astype("<u4")
                which = dice.integers(0, universe, BATCH, dtype="<u4")
                run_batch(plane, kinds, which, np.zeros(BATCH, "<u4"))
                plane.sweep()
        finally:
            stop.set()
            thread.join()
        reading = plane.maps["readings"].get(0)
    assert reading is not None
    print(f"{int(reading['looked'])} look-ups, {int(reading['hits'])} hits beside 3,000,000 operations")
    assert int(reading["looked"]) > 1_000_000
    assert int(reading["hits"]) > 100_000
    assert int(reading["wrong"]) == 0


def flow_rows(numbers: range) -> np.ndarray:
    """The flows of bpf/tests/table_ops.bpf.c as ``FLOW_ROW``."""
    rows = np.zeros(len(numbers), FLOW_ROW)
    for row, flow in zip(rows, numbers, strict=True):
        for prefix, raw in zip(("", "reply_"), tuples(flow), strict=True):
            row[f"{prefix}saddr"], row[f"{prefix}daddr"] = list(raw[:16]), list(raw[16:32])
            row[f"{prefix}sport"], row[f"{prefix}dport"] = struct.unpack("!HH", raw[32:36])
        row["protocol"], row["family"] = raw[36], raw[37]
        row["owner"], row["state"] = 1 + flow % 63, flows.ESTABLISHED
    return rows


def test_user_spaces_hash_is_the_formula() -> None:
    """Columns against plain integers, both families and protocols, both directions."""
    numbers = range(400)
    hasher = Hasher(TABLE_KEY)
    for direction, prefix in enumerate(("", "reply_")):
        fingerprint, bucket = hasher(flow_rows(numbers), prefix)
        expected = [hashed(tuples(flow)[direction], 0xFFFFFFFF) for flow in numbers]
        assert list(zip(fingerprint.tolist(), bucket.tolist(), strict=True)) == expected


def test_flows_written_in_bulk_are_found_by_the_programs(in_namespace: None, object_cache: Path) -> None:
    """… and operators read back what was written. A table filled to the brim leaves out few, and those whole."""
    rows = flow_rows(range(4096))
    with operated(object_cache, "table_ops", BATCH, 4000) as plane:
        configure(plane, 60)
        placed = insert(plane.maps, Hasher(TABLE_KEY), rows)
        assert 3900 < np.count_nonzero(placed) <= 4000
        assert plane.entry_count() == 2 * np.count_nonzero(placed)
        for reply in (0, 1):
            which = np.arange(4096, dtype="<u4")
            found = run_batch(plane, np.full(4096, LOOK_UP, "<u4"), which, np.full(4096, reply, "<u4"))
            assert np.array_equal(found, np.where(placed, 0x100 | 1 + which % 63, 0))
        assert np.array_equal(
            np.sort(flows.rows(plane.maps["records"], plane.maps["watermark"])), np.sort(rows[placed])
        )


def test_what_user_space_filled_the_programs_go_on_with(in_namespace: None, object_cache: Path) -> None:
    with operated(object_cache, "table_ops", BATCH, 4096) as plane:
        configure(plane, 60)
        assert insert(plane.maps, Hasher(TABLE_KEY), flow_rows(range(100))).all()
        zeros = np.zeros(200, "<u4")
        results = run_batch(plane, zeros, np.arange(200, dtype="<u4"), zeros)
        assert results.tolist() == [KNOWN] * 100 + [DONE] * 100
        assert not insert(plane.maps, Hasher(TABLE_KEY), flow_rows(range(150, 160))).any(), "they are there already"


class TestAgeing:
    """The sweep, look by look."""

    @pytest.fixture
    def plane(self, in_namespace: None, object_cache: Path) -> Iterator[Plane]:
        with operated(object_cache, "table_ops", BATCH, 1024) as plane:
            configure(plane, 60)
            yield plane

    ORIGINAL, REPLY = tuple_of("10.0.0.1", 1, "10.0.0.2", 2), tuple_of("10.0.0.2", 2, "10.0.0.1", 3)

    def add(self, plane: Plane, idle_s: float, state: int = flows.ESTABLISHED) -> np.ndarray:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        index = plane.add_flow(self.ORIGINAL, self.REPLY, 2, state, seen_ns=now - int(idle_s * 1e9))
        record: np.ndarray = plane.maps["records"].view()[index : index + 1]
        return record

    def test_idle_past_its_timeout(self, plane: Plane) -> None:
        self.add(plane, 61)
        plane.sweep()
        assert (plane.flow_count(), plane.entry_count()) == (0, 0)

    def test_not_yet(self, plane: Plane) -> None:
        self.add(plane, 59)
        plane.sweep()
        assert (plane.flow_count(), plane.entry_count()) == (1, 2)

    @pytest.mark.parametrize("direction", [0, 1])
    def test_a_touch_in_either_direction_keeps_it(self, plane: Plane, direction: int) -> None:
        record = self.add(plane, 70)  # past its timeout; the clock starts at boot
        place = int(record["place"][0][direction])
        plane.maps["buckets"].view()["word"][place // 8, place % 8] |= np.uint64(flows.TOUCHED)
        before = int(record["seen_ns"][0])
        plane.sweep()
        assert plane.flow_count() == 1
        assert int(record["seen_ns"][0]) - before > 65e9
        assert not (plane.word(self.ORIGINAL) | plane.word(self.REPLY)) & flows.TOUCHED

    def test_a_number_rests_before_it_is_given_out(self, plane: Plane) -> None:
        record = self.add(plane, 61)
        plane.sweep()
        plane.sweep()
        assert syscall.map_pop(plane.maps["released"].fd, 4) is None, "a second has not passed"
        record["seen_ns"] -= np.uint64(2_000_000_000)
        plane.sweep()
        assert syscall.map_pop(plane.maps["released"].fd, 4) == (1).to_bytes(4, "little")

    def test_timeouts_go_by_state(self, plane: Plane) -> None:
        record = plane.maps["config"].get(0)
        assert record is not None
        changed = record.copy()
        changed["timeout_s"][flows.CLOSED] = 5
        plane.maps["config"].put(0, changed)
        self.add(plane, 30, flows.CLOSED)
        plane.sweep()
        assert plane.flow_count() == 0
