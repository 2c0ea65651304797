# SPDX-License-Identifier: GPL-2.0-or-later
"""A primary and an auxiliary of one cluster, each with maps of its own, and frames carried between them by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.flows import DEAD, HASH_KEYS
from aa_cluster.dataplane.replication import FEATURES, Mirror, Sender, digests
from aa_cluster.wire.block import FlowTuple
from aa_cluster.wire.siphash import siphash24
from tests.bpf.harness import GENERATION, OTHER, SELF, TABLE_KEY, Plane, loaded, skb_context, tuple_fields, tuple_of

REPLICA_KEY = bytes(range(100, 116))
PENDING, RANGE = 0x41415232, 0x41415233
ETHERNET, HEAD, RECORD, TAG = 14, 40, 96, 8
STABLE = (
    *(f"{end}_{name}" for end in ("original", "reply") for name in ("saddr", "daddr", "sport", "dport", "protocol")),
    *("original_family", "reply_family", "mark", "owner", "state", "ended", "slot"),
)
__all__ = ["HASH_KEYS", "Pair", "pair", "seal"]


def seal(frame: bytes, key: bytes = REPLICA_KEY) -> bytes:
    """The frame with its tag made anew."""
    body = frame[ETHERNET:-TAG]
    return frame[:ETHERNET] + body + siphash24(key, body)


@dataclass
class Pair:
    primary: Plane
    auxiliary: Plane

    @property
    def mirror(self) -> Mirror:
        return Mirror(self.auxiliary.maps)

    def sender(self) -> Sender:
        return Sender(self.primary.fds["flush"], self.primary.fds["rejournal"], self.primary.maps)

    def compose(self, cb: tuple[int, ...] = (PENDING,)) -> bytes | None:
        """The frame that `compose` makes, or None when it makes none."""
        context = bytearray(skb_context(0, 0, 0))
        struct.pack_into(f"={len(cb)}I", context, 48, *cb)
        ran = syscall.run_program(self.primary.fds["compose"], bytes(64), context=bytes(context), room=2048)
        return ran.packet if ran.verdict == 0 else None

    def frames(self) -> list[bytes]:
        """All that pends."""
        out = []
        while (frame := self.compose()) is not None:
            out.append(frame)
        return out

    def again(self, first: int, end: int) -> list[bytes]:
        at = [(n, min(15, end - n)) for n in range(first, end, 15)]
        return [f for n, c in at if (f := self.compose((RANGE, OTHER, n, 0, c))) is not None]

    def take(self, *frames: bytes) -> dict[str, int]:
        """What `mirror` counted."""
        total: dict[str, int] = {}
        for frame in frames:
            for name, count in self.auxiliary.run("mirror", frame).why.items():
                total[name] = total.get(name, 0) + count
        return total

    def replicate(self) -> dict[str, int]:
        return self.take(*self.frames())

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        return used(self.primary), used(self.auxiliary)

    def assert_equal(self, counters: bool = True) -> None:
        """Every record, field by field, and what is found by its tuples; and the counters of both."""
        ours, theirs = self.tables()
        size = max(len(ours), len(theirs))
        for name in STABLE:
            for number in range(size):
                a = ours[name][number] if number < len(ours) and ours["state"][number] else 0
                b = theirs[name][number] if number < len(theirs) and theirs["state"][number] else 0
                assert np.array_equal(a, b), (name, number + 1)
        self.assert_sound()
        left, right = (plane.maps["tallies"].view() for plane in (self.primary, self.auxiliary))
        if counters:
            assert left["live"].tolist() == right["live"].tolist()
            assert left["half_open"].tolist() == right["half_open"].tolist()
        assert np.array_equal(*padded(*(digests(p.maps["records"], p.maps["watermark"]) for p in self.planes())))

    def planes(self) -> tuple[Plane, Plane]:
        return self.primary, self.auxiliary

    def assert_sound(self) -> None:
        """On the auxiliary each flow has its two entries, and there are no others."""
        flows = used(self.auxiliary)
        words = self.auxiliary.maps["buckets"].view()["word"].reshape(-1)
        live = np.flatnonzero(flows["state"])
        for number in live:
            for direction in (0, 1):
                word = int(words[flows["place"][number][direction]])
                assert word >> 10 & 0x3FFFFF == number + 1
                assert bool(word & 8) == bool(direction)
                assert word >> 4 & 63 == flows["owner"][number]
        assert np.count_nonzero(words) == 2 * len(live)


def padded(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = max(len(a), len(b))
    return np.pad(a, (0, size - len(a))), np.pad(b, (0, size - len(b)))


def used(plane: Plane) -> np.ndarray:
    """A copy of all records up to the watermark, those that are gone with state 0."""
    count = int(plane.maps["watermark"].get(0))
    rows = plane.maps["records"].view()[1 : count + 1].copy()
    rows["state"][rows["state"] == DEAD] = 0
    return rows


def flow(number: int) -> tuple[FlowTuple, FlowTuple]:
    client = f"10.77.1.{number % 250 + 1}"
    port = 1024 + number % 60000
    return tuple_of(client, port, "10.77.2.100", 80), tuple_of("10.77.2.100", 80, "10.77.2.1", port)


def write(plane: Plane, index: int, original: dict[str, object], reply: dict[str, object], **fields: int) -> None:
    """A record by hand, as a program leaves it, without entries."""
    record = plane.maps["records"].view()[index]
    for end, values in (("original", original), ("reply", reply)):
        for name, value in values.items():
            record[f"{end}_{name}"] = value
    for name, number in fields.items():
        record[name] = number


def add(plane: Plane, number: int, owner: int = OTHER, state: int = 3) -> int:
    return plane.add_flow(*flow(number), owner, state)


def fields_of(number: int) -> tuple[dict[str, object], dict[str, object]]:
    original, reply = flow(number)
    return tuple_fields(original), tuple_fields(reply)


@contextmanager
def pair(cache: Path, entries: int = 1024) -> Iterator[Pair]:
    with loaded(cache, entries) as primary, loaded(cache, entries, ("mirror",)) as auxiliary:
        yield Pair(primary, auxiliary)


def configure(pair_: Pair, mode: str = "all") -> None:
    """Both empty, and of one cluster."""
    pair_.primary.reset()
    key = np.frombuffer(REPLICA_KEY, "<u8")
    pair_.primary.configure(features=FEATURES[mode], replica_key=key)
    state = pair_.primary.maps["replication"].view()
    for name in state.dtype.names or ():
        state[name] = 0
    pair_.primary.maps["journal"].view()[:] = 0
    pair_.primary.maps["records"].view()["position"][:] = 0
    pair_.primary.maps["replication"].view()["listeners"] = 1
    pair_.auxiliary.configure(self=OTHER, primary=SELF, generation=GENERATION, replica_key=key)
    mirrored = pair_.auxiliary.maps["mirrored"].view()
    for name in mirrored.dtype.names or ():
        mirrored[name] = 0
    pair_.mirror.clear()


assert len(TABLE_KEY) == 2 * HASH_KEYS * 8
