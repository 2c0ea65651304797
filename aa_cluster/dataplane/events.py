# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring buffer the programs tell events through (Documentation/bpf/ringbuf.rst)."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Literal

EventKind = Literal["neighbour", "refused_block", "table_full", "journal", "gap"]

_KINDS: dict[int, EventKind] = {1: "neighbour", 2: "refused_block", 3: "table_full", 4: "journal", 5: "gap"}
EVENT = struct.Struct("<Q16s6sBB")  # struct event of bpf/include/types.h
_BUSY, _DISCARDED, _HEADER = 1 << 31, 1 << 30, 8
_POSITION = 8


@dataclass(frozen=True, slots=True)
class Event:
    """Something a program told. ``time_ns`` is CLOCK_MONOTONIC; ``address`` IPv4 or IPv6 text."""

    time_ns: int
    kind: EventKind
    slot: int
    address: str
    mac: bytes


class ByteRing:
    """Reads what was written since the last reader stopped, be it another process. One reader at a time."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self._size = size
        self._consumer = mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(fd, mmap.PAGESIZE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE)

    def records(self) -> list[bytes]:
        out: list[bytes] = []
        at = struct.unpack_from("=Q", self._consumer)[0]
        while at < struct.unpack_from("=Q", self._producer)[0]:
            place = mmap.PAGESIZE + at % self._size
            length = struct.unpack_from("=I", self._producer, place)[0]
            if length & _BUSY:
                break
            if not length & _DISCARDED:
                out.append(self._producer[place + _HEADER : place + _HEADER + length])
            at += (_HEADER + (length & ~(_BUSY | _DISCARDED)) + 7) & ~7
            struct.pack_into("=Q", self._consumer, 0, at)
        return out

    def waits(self) -> bool:
        """Whether there is something to read; for any thread, without a system call."""
        return self._consumer[:_POSITION] != self._producer[:_POSITION]

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()


class Ring(ByteRing):
    """Of events."""

    def read(self) -> list[Event]:
        return [_decode(one[: EVENT.size]) for one in self.records()]


def _decode(raw: bytes) -> Event:
    time_ns, address, mac, kind, slot = EVENT.unpack(raw)
    return Event(time_ns, _KINDS[kind], slot, address_text(address), mac)


def address_text(raw: bytes) -> str:
    """16 bytes as the programs keep them → ``10.0.0.1`` or ``2001:db8::1``."""
    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address)
