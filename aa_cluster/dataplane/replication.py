# SPDX-License-Identifier: GPL-2.0-or-later
"""The two ends of replication (docs/replication.md) as user space holds them: the primary's journal and what an
auxiliary has of it. Frames are made and taken by programs; here is what an agent adds: sending what pends, asking for
what is missing, comparing.

Positions count the entries of the primary's journal from 0 on, in its generation. Ranges are half-open.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.accounts import is_on
from aa_cluster.dataplane.flow_fill import recount
from aa_cluster.dataplane.flows import CLOSED, DATAGRAMS, DEAD, ESTABLISHED, LASTS, STREAM, SYN_RECV, SYN_SENT, TCP, UDP
from aa_cluster.dataplane.maps import JOURNAL, Map

RECORDS_PER_FRAME = 15
"""REPLICA_MOST of bpf/include/replica.h."""

REJOURNAL_BITE = 64
"""Records a run; AA_REJOURNAL_BITE of bpf/flush.bpf.c."""

FRAMES_PER_CALL = 256
"""Frames a system call: about a millisecond."""

JOURNAL_SAFE = JOURNAL - 1024
"""JOURNAL_SAFE of bpf/compose.bpf.c: what is older may be written over at this moment."""

DIGEST_BLOCK = 1024
"""Record numbers a digest covers: block ``b`` has those from ``b * DIGEST_BLOCK`` on."""

DIGEST_STRETCH = 4 * DIGEST_BLOCK
"""Records digested at a time: half a megabyte, which stays in the cache while its columns are read one by one."""

FEATURES = {"off": 0, "periodic": 4, "all": 4 | 16, "takeover": 4 | 8 | 16}
"""AA_FEATURE_REPLICATE… of bpf/include/types.h, by mode."""

_RANGE = 0x41415233  # COMPOSE_RANGE of bpf/include/replica.h
_FRAME = bytes(64)  # `compose` writes it over
_CONTEXT_BYTES, _CB_AT = 192, 48  # struct __sk_buff
_WORDS = 16  # of a record
_GRACE_NS = 6_000_000_000  # twice as long as the sweep takes to look at a flow again (STALE_SHARE of bpf/sweep.bpf.c)
_ORIGINAL, _REPLY, _CREATED, _STATUS = 0, 5, 10, 13  # where its parts begin
_MULTIPLIER, _NUMBERS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True, slots=True)
class SenderState:
    """``head``: entries ever written; before ``cursor`` they have been sent. ``skipped``: written over before that."""

    head: int
    cursor: int
    frames: int
    records: int
    again: int
    skipped: int


class Sender:
    """The primary's end. ``flush_fd`` and ``rejournal_fd``: the loaded programs, owned by this object."""

    def __init__(self, flush_fd: int, rejournal_fd: int, maps: Mapping[str, Map]) -> None:
        self._flush_fd = flush_fd
        self._rejournal_fd = rejournal_fd
        self._state = maps["replication"].view()
        self._walk = maps["walk"]
        self._watermark = maps["watermark"]

    def head(self) -> int:
        return int(self._state["head"][0])

    def cursor(self) -> int:
        """Up to where the journal has been sent; new sessions move it too."""
        return int(self._state["cursor"][0])

    def pending(self) -> int:
        """Entries that have not been sent; 0 while nobody listens."""
        if not self.listeners():
            return 0
        return max(0, self.head() - self.cursor())

    def state(self) -> SenderState:
        row = self._state[0]
        return SenderState(*(int(row[name]) for name in ("head", "cursor", "frames", "records", "again", "skipped")))

    def set_listeners(self, count: int) -> None:
        """How many nodes mirror the table. Without any nothing is sent; a first one begins with what changes next."""
        if count and not int(self._state["listeners"][0]):
            self._state["cursor"][0] = self._state["head"][0]
        self._state["listeners"][0] = count

    def listeners(self) -> int:
        return int(self._state["listeners"][0])

    def arm(self) -> bool:
        """The next entry tells a ``journal`` event. False: something pends already (and may have told)."""
        self._state["armed"][0] = min(1, self.listeners())
        if not self.pending():
            return True
        self._state["armed"][0] = 0
        return False

    def flush(self, frames: int = FRAMES_PER_CALL) -> int:
        """Sends what pends, in ``frames`` frames at most; gives how many entries pend then."""
        wanted = min(frames, -(-self.pending() // RECORDS_PER_FRAME))
        if wanted:
            _run(self._flush_fd, wanted)
        return self.pending()

    def resend(self, node: int, first: int, end: int) -> int:
        """Sends entries once more, to that node alone; gives how many: not those that are too old or still pend."""
        head = self.head()
        first, end = max(first, head - JOURNAL_SAFE), min(end, int(self._state["cursor"][0]))
        before = int(self._state["again"][0])
        for at in range(first, end, RECORDS_PER_FRAME):
            count = min(RECORDS_PER_FRAME, end - at)
            _run(self._flush_fd, 1, _context(_RANGE, node, at & 0xFFFFFFFF, at >> 32, count))
        return int(self._state["again"][0]) - before

    def rejournal(self, first: int, last: int, free: bool = False) -> None:
        """Journals the records of these numbers again, ``last`` included; ``free``: also numbers not in use.

        Fifteen a frame, and the journal holds ``JOURNAL``: keep bites well below that, and flush in between.
        """
        highest = self._watermark.get(0)
        last = min(last, 0 if highest is None else int(highest))
        first = max(1, first)
        if first > last:
            return
        range_ = self._walk.record()
        range_["at"], range_["last"], range_["free"] = first, last, free
        self._walk.put(0, range_)
        _run(self._rejournal_fd, -(-(last - first + 1) // REJOURNAL_BITE))

    def close(self) -> None:
        os.close(self._flush_fd)
        os.close(self._rejournal_fd)


@dataclass(frozen=True, slots=True)
class MirrorState:
    """``low``: all entries before it have come (or were given up); ``head``: the primary's, as far as is known.

    ``refused``: records without room in this table. ``generation``: whose journal that is, as ``forget`` was told.
    """

    low: int
    head: int
    frames: int
    records: int
    stale: int
    refused: int
    gaps: int
    heard_ns: int
    generation: int

    @property
    def lag(self) -> int:
        """Entries that have not come."""
        return self.head - self.low


class Mirror:
    """An auxiliary's end: the flow table that `mirror` writes, and what has come."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self._maps = maps
        self._state = maps["mirrored"].view()
        self._arrived = maps["arrived"].view()

    def state(self) -> MirrorState:
        row = self._state[0]
        names = ("frames", "records", "stale", "refused", "gaps", "heard_ns", "generation")
        head = max(int(row["head"]), int(row["next"]), int(row["low"]))
        return MirrorState(int(row["low"]), head, *(int(row[name]) for name in names))

    def note_head(self, head: int) -> None:
        """The primary's journal is that long: what the last frames had is missed, too, when they were lost."""
        self._state["head"][0] = max(head, int(self._state["head"][0]))

    def missing(self, most: int = 64) -> list[tuple[int, int]]:
        """Ranges that have not come, the oldest first, ``most`` at most; moves ``low`` on. See ``beyond``."""
        state = self.state()
        low, head = max(state.low, state.head - JOURNAL), state.head
        positions = np.arange(low, head, dtype=np.int64)
        came = self._arrived[positions & (JOURNAL - 1)] == (positions + 1).astype("<u8")
        gone = np.flatnonzero(~came)
        if state.head - state.low <= JOURNAL:
            self._state["low"][0] = int(positions[gone[0]]) if len(gone) else head
        if not len(gone):
            return []
        breaks = np.flatnonzero(np.diff(gone) > 1)
        starts = gone[np.concatenate(([0], breaks + 1))]
        ends = gone[np.concatenate((breaks, [len(gone) - 1]))] + 1
        return [(low + int(a), low + int(b)) for a, b in zip(starts[:most], ends[:most], strict=True)]

    def beyond(self) -> bool:
        """More is missing than the journal can tell again: compare digests, then ``give_up``."""
        state = self.state()
        return state.lag > JOURNAL_SAFE

    def give_up(self, position: int) -> int:
        """What has not come before that position is not waited for any more; gives how many entries that were."""
        low = int(self._state["low"][0])
        skipped = max(0, position - low)
        self._state["low"][0] = max(low, position)
        return skipped

    def arm(self) -> None:
        """The next gap tells a ``gap`` event."""
        self._state["armed"][0] = 1

    def forget(self, position: int = 0, generation: int = 0) -> None:
        """Another primary's journal begins, of which entries from that position on will come; the contents stay."""
        with self._closed():
            self._in_use()["position"] = 0
            self._begin(position, generation)

    def clear(self, position: int = 0, generation: int = 0) -> None:
        """The same with an empty table."""
        with self._closed():
            records = self._in_use()
            records["state"] = records["position"] = 0
            self._maps["buckets"].view()["word"][:] = 0
            self._maps["watermark"].put(0, np.array(0, "<u8"))
            self._drain()
            recount(self._maps)
            self._begin(position, generation)

    def become_source(self) -> int:
        """What promotion needs of this table; gives how many flows it holds. `mirror` takes nothing from then on.

        Numbers that are free become DEAD ones, long rested: the next sweep gives them back. Those above all flows were
        never used. TCP's flows were seen just now, but those that have closed are as old as they are: `_make_young`.
        The journal begins anew, with nothing sent.
        """
        self._state["closed"][0] = 1
        self._state["generation"][0] = 0  # should this node stay an auxiliary after all, it begins anew
        syscall.wait_for_programs()
        self._drain()
        self._trim()
        used = self._in_use()
        free = (used["state"] == 0) | (used["state"] == DEAD)
        used["seen_ns"][free] = 0
        self._make_young(used, ~free)
        used["held_ns"] = used["position"] = 0
        used["state"][free] = DEAD
        # Its answer may have been seen: an ACK is enough. A UDP flow has no such state, and the next answer will do.
        used["state"][(used["state"] == SYN_SENT) & (used["original_protocol"] == TCP)] = SYN_RECV
        recount(self._maps)
        if is_on(self._maps["accounts"]):
            self._maps["accounts"].view()[:] = np.zeros((), self._maps["accounts"].value)
        self._maps["journal"].view()[:] = 0
        state = self._maps["replication"].view()
        for name in ("head", "cursor", "listeners", "armed"):
            state[name][0] = 0
        return int(np.count_nonzero(~free))

    def _make_young(self, used: np.ndarray, live: np.ndarray) -> None:
        """A mirror is not told of TCP's packets, so a flow that lives was seen just now. A closed one only ages.

        UDP's ages it knows (`tell_age` of bpf/sweep.bpf.c): flows that nobody ends would pile up when the role moves
        again and again. What it knows may lag, so each has `_GRACE_NS` to show that it is there.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        datagrams = live & (used["original_protocol"] == UDP)
        used["seen_ns"][live & ~datagrams & (used["state"] != CLOSED)] = now
        timeout_s = self._maps["config"].view()["timeout_s"][0]
        for flows, timeout in (
            (datagrams & (used["ended"] & LASTS == 0), timeout_s[DATAGRAMS]),
            (datagrams & (used["ended"] & LASTS != 0), timeout_s[STREAM]),
        ):
            oldest = max(0, now - int(timeout) * 1_000_000_000 + _GRACE_NS)
            used["seen_ns"][flows] = np.maximum(used["seen_ns"][flows], np.uint64(oldest))

    def _trim(self) -> None:
        """The highest number is that of a flow: else each promotion would use up as many as begin before a sweep."""
        used = self._in_use()
        live = np.flatnonzero((used["state"] != 0) & (used["state"] != DEAD))
        highest = int(live[-1]) + 1 if len(live) else 0
        used["state"][highest:] = used["position"][highest:] = 0
        self._maps["watermark"].put(0, np.array(highest, "<u8"))

    def _begin(self, position: int, generation: int) -> None:
        self._state["generation"][0] = generation
        for name in ("low", "next", "head"):
            self._state[name][0] = position
        self._arrived[:] = 0

    @contextmanager
    def _closed(self) -> Iterator[None]:
        """Frames that come meanwhile are dropped, and asked for again afterwards."""
        self._state["closed"][0] = 1
        syscall.wait_for_programs()
        try:
            yield
        finally:
            self._state["closed"][0] = 0

    def _in_use(self) -> np.ndarray:
        """All records up to the highest number there was."""
        highest = self._maps["watermark"].get(0)
        return self._maps["records"].view()[1 : (0 if highest is None else int(highest)) + 1]

    def _drain(self) -> None:
        """Numbers that this node, as a primary, once had to give out."""
        while syscall.map_pop(self._maps["released"].fd, 4) is not None:
            pass


def digests(records: Map, watermark: Map) -> np.ndarray:
    """A u64 for each ``DIGEST_BLOCK`` record numbers, 0 for a block without flows: equal where nodes know the same.

    Over number, both tuples, mark, owner, state, slot and what has ended, of the flows whose handshake is complete: of
    others the nodes are not told in a flood. Times and places differ from node to node.
    """
    highest = watermark.get(0)
    count = min(0 if highest is None else int(highest), records.entries - 1) + 1
    table = records.view()[:count]
    return np.concatenate([_digests_from(table, start) for start in range(0, count, DIGEST_STRETCH)])


def _digests_from(table: np.ndarray, start: int) -> np.ndarray:
    """Of the blocks of one stretch."""
    part = table[start : start + DIGEST_STRETCH]
    words = part.view("<u8").reshape(-1, _WORDS)
    state = part["state"].copy()
    total = np.zeros(-(-len(part) // DIGEST_BLOCK) * DIGEST_BLOCK, "<u8")
    rows = total[: len(part)]
    rows[:] = np.arange(start, start + len(part), dtype="<u8") * _NUMBERS
    for column in (*range(_ORIGINAL, _CREATED), _STATUS):
        rows ^= words[:, column]
        rows *= _MULTIPLIER
        rows ^= rows >> np.uint64(29)
    rows[(state < ESTABLISHED) | (state >= DEAD)] = 0
    sums: np.ndarray = total.reshape(-1, DIGEST_BLOCK).sum(axis=1, dtype="<u8")
    return sums


def differing(ours: np.ndarray, theirs: np.ndarray) -> list[int]:
    """Blocks whose digests differ; one that only one side has counts as empty on the other."""
    size = max(len(ours), len(theirs))
    a, b = (np.pad(side, (0, size - len(side))) for side in (ours, theirs))
    return [int(block) for block in np.flatnonzero(a != b)]


def _run(fd: int, repeat: int, context: bytes = b"") -> None:
    """A signal may end it early: what was not sent then still pends."""
    try:
        syscall.run_program(fd, _FRAME, repeat=repeat, context=context)
    except InterruptedError:
        return


def _context(*words: int) -> bytes:
    """struct __sk_buff with these in cb."""
    raw = bytearray(_CONTEXT_BYTES)
    struct.pack_into(f"={len(words)}I", raw, _CB_AT, *words)
    return bytes(raw)
