# SPDX-License-Identifier: GPL-2.0-or-later
"""The maps, as user space holds them: made with their real sizes, pinned, read and written as numpy records.

Layouts come with the compiled object, so a field is never described twice.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import direct, syscall
from aa_cluster.dataplane.object import MapDeclaration
from aa_cluster.errors import DataplaneError, KernelTooOld

QUESTIONS = 4096
"""ARP and NDP questions open at once; the oldest gives way."""

FRAGMENTS = 8192
"""Fragmented packets under way at once; the oldest gives way."""

EXPECTATIONS = 8192
"""Sessions that helpers expect, and sessions with a helper times two; the oldest give way."""

OWN_DATAGRAMS = 16_384
"""UDP sessions of a node's own that were announced; the oldest is announced again."""

MAX_NODES, LINKS = 64, 17
"""AA_MAX_NODES and AA_LINKS of bpf/include/types.h."""

EVENT_BYTES = 256 * 1024
"""Ring buffer from the programs to the agent; a power of two pages."""

PUNT_BYTES = 256 * 1024
"""Likewise, for SYNs that wait for the agent: over a hundred."""


class Map:
    """One open map. ``key``/``value`` are numpy dtypes with the field names of the C structs."""

    def __init__(self, name: str, fd: int, declaration: MapDeclaration) -> None:
        self.name = name
        self.fd = fd
        self.info = syscall.map_info(fd)
        self.key = declaration.key_dtype() if declaration.key_size else np.dtype("<u4")
        self.value = declaration.value_dtype() if declaration.value_size else np.dtype("<u8")
        self.entries = self.info.entries
        self._memory: mmap.mmap | None = None
        if name in direct.MAPS:
            self.entries = self.info.value_size // self.value.itemsize

    def get(self, key: int | bytes) -> np.ndarray | None:
        """A 0-d record, or None."""
        if self.name in direct.MAPS:
            index = self._index(key)
            element: np.ndarray = self.view()[index : index + 1].reshape(()).copy()
            return element
        raw = syscall.map_lookup(self.fd, self._key(key), self.info.value_size)
        if raw is None:
            return None
        value: np.ndarray = np.frombuffer(raw, self.value, 1).reshape(())
        return value

    def put(self, key: int | bytes, value: np.ndarray | bytes) -> None:
        if self.name in direct.MAPS:
            self.view()[self._index(key)] = value
            return
        syscall.map_update(self.fd, self._key(key), bytes(value) if isinstance(value, bytes) else value.tobytes())

    def delete(self, key: int | bytes) -> bool:
        return syscall.map_delete(self.fd, self._key(key))

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """All keys and values of a hash map."""
        keys, values = syscall.Batch(self.fd, self.info.key_size, self.info.value_size).read()
        return np.frombuffer(keys, self.key), np.frombuffer(values, self.value)

    def delete_all(self, keys: np.ndarray) -> int:
        return syscall.map_delete_batch(self.fd, keys.tobytes(), len(keys))

    def per_cpu_sum(self) -> np.ndarray:
        """The one value of a per-CPU array, as u64 counters summed over the CPUs: one system call."""
        cpus = possible_cpus()
        raw = syscall.map_lookup(self.fd, self._key(0), self.info.value_size * cpus)
        counters: np.ndarray = np.frombuffer(raw or b"", "<u8").reshape(cpus, -1).sum(axis=0)
        return counters

    def view(self) -> np.ndarray:
        """A memory-mapped array map, as it is at this moment and stays to be: the kernel's own bytes, not a copy."""
        return np.frombuffer(self.memory(), self.value, self.entries)

    def memory(self) -> mmap.mmap:
        """The bytes behind ``view``."""
        if self._memory is None:
            size = -(-self.entries * self.value.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
            self._memory = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        return self._memory

    def record(self) -> np.ndarray:
        """A zeroed value to fill in and ``put``."""
        return np.zeros((), self.value)

    def close(self) -> None:
        os.close(self.fd)

    @staticmethod
    def _index(key: int | bytes) -> int:
        return key if isinstance(key, int) else int.from_bytes(key, "little")

    def _key(self, key: int | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.to_bytes(self.info.key_size, "little")


JOURNAL = 65_536
"""AA_JOURNAL of bpf/include/types.h: changes of the flow table that can still be asked for; some seconds' worth."""

ENTRIES_PER_BUCKET = 8


def buckets_for(flow_entries: int) -> int:
    """A power of two such that a full table, two entries a flow, fills 28 to 56 % of the places."""
    wanted = 2 * 2 * flow_entries / ENTRIES_PER_BUCKET / 1.125
    return 1 << max(0, math.ceil(math.log2(wanted)))


RULE_LINES, RULE_COUNTERS = 128, 128
"""AA_RULE_LINES and AA_RULE_COUNTERS of bpf/include/types.h, of one bank."""

BINDINGS = 65_536
"""Clients that persistence remembers, where nothing else is said."""


FOLLOWERS = {"accounts": "records"}
"""Maps that, when they are wanted, are as large as another, whose pin may be of another size than is configured now."""


def sizes(flow_entries: int, bindings: int = BINDINGS) -> dict[str, tuple[int, int, int]]:
    """(kind, entries, flags) of the maps whose declaration does not say it.

    Memory-mapped arrays begin on a page: that is also what puts each bucket into one cache line.
    """
    return {
        "buckets": (syscall.MAP_ARRAY, buckets_for(flow_entries), syscall.MMAPABLE),
        "records": (syscall.MAP_ARRAY, flow_entries + 1, syscall.MMAPABLE),
        "accounts": (syscall.MAP_ARRAY, 1, syscall.MMAPABLE),
        "released": (syscall.MAP_QUEUE, flow_entries, 0),
        "tallies": (syscall.MAP_ARRAY, 1, syscall.MMAPABLE),
        "pulses": (syscall.MAP_ARRAY, MAX_NODES * LINKS, syscall.MMAPABLE),
        "journal": (syscall.MAP_ARRAY, JOURNAL, syscall.MMAPABLE),
        "replication": (syscall.MAP_ARRAY, 1, syscall.MMAPABLE),
        "arrived": (syscall.MAP_ARRAY, JOURNAL, syscall.MMAPABLE),
        "mirrored": (syscall.MAP_ARRAY, 1, syscall.MMAPABLE),
        "rules": (syscall.MAP_ARRAY, 2 * RULE_LINES, syscall.MMAPABLE),
        "rule_hits": (syscall.MAP_ARRAY, 2 * RULE_COUNTERS, syscall.MMAPABLE),
        "bindings": (syscall.MAP_LRU_HASH, bindings, 0),
        "questions": (syscall.MAP_LRU_HASH, QUESTIONS, 0),
        "fragments": (syscall.MAP_LRU_HASH, FRAGMENTS, 0),
        "expected": (syscall.MAP_LRU_HASH, EXPECTATIONS, 0),
        "expecting": (syscall.MAP_LRU_HASH, EXPECTATIONS, 0),
        "controls": (syscall.MAP_LRU_HASH, EXPECTATIONS, 0),
        "announced": (syscall.MAP_LRU_HASH, OWN_DATAGRAMS, 0),
        "events": (syscall.MAP_RINGBUF, EVENT_BYTES, 0),
        "punts": (syscall.MAP_RINGBUF, PUNT_BYTES, 0),
    }


def open_all(
    declarations: Mapping[str, MapDeclaration],
    pins: Path | None,
    flow_entries: int,
    mapped: Container[str] = frozenset(),
    *,
    bindings: int = BINDINGS,
    accounting: bool = False,
) -> dict[str, Map]:
    """Opens the maps pinned below ``pins``, makes and pins those that are not. ``pins`` None: not pinned (tests).

    ``mapped``: further arrays to be made so that ``Map.view`` works. ``bindings``: clients persistence remembers.
    A pinned map keeps the size it was made with; but accounts are made anew, all zero, when accounting was switched.
    """
    out: dict[str, Map] = {}
    special = sizes(flow_entries, bindings)
    for name in sorted(declarations, key=lambda name: name in FOLLOWERS):
        declaration = declarations[name]
        ordinary = declaration.kind, declaration.entries, syscall.MMAPABLE if name in mapped else 0
        kind, entries, flags = special.get(name, ordinary)
        if name in FOLLOWERS:
            entries = out[FOLLOWERS[name]].entries if accounting else entries
        shape = Shape(kind, declaration.key_size, declaration.value_size, entries, flags)
        if name in direct.MAPS:
            shape = Shape(kind, declaration.key_size, entries * declaration.value_size, 1, syscall.MMAPABLE)
        pin = pins / name if pins is not None else None
        if pin is not None and name in FOLLOWERS:
            _unpin_other_size(pin, entries)
        fd = _open_or_create(name, shape, pin)
        out[name] = Map(name, fd, declaration)
    return out


def _unpin_other_size(path: Path, entries: int) -> None:
    """Programs that hold the map go on with it; those loaded from now on get the new one."""
    if not path.exists():
        return
    fd = syscall.obj_get(str(path))
    try:
        if syscall.map_info(fd).entries != entries:
            path.unlink()
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a map is made as; sizes in bytes."""

    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int


def _open_or_create(name: str, shape: Shape, path: Path | None) -> int:
    if path is not None and path.exists():
        fd = syscall.obj_get(str(path))
        info = syscall.map_info(fd)
        found = (info.kind, info.key_size, info.value_size)
        wanted = (shape.kind, shape.key_size, shape.value_size)
        if found != wanted:
            os.close(fd)
            raise DataplaneError(
                f"the pinned map {path} has (kind, key, value) {found}, this version expects {wanted}",
                "`aa-cluster leave` with the version that made it, then join again",
            )
        return fd
    try:
        fd = syscall.map_create(shape.kind, shape.key_size, shape.value_size, shape.entries, shape.flags, name)
    except OSError as error:
        raise KernelTooOld(
            f"map {name} ({shape.entries} entries) cannot be made: {error.strerror}",
            "run as root; a smaller data.flow_table_size needs less memory",
        ) from None
    if path is not None:
        syscall.obj_pin(fd, str(path))
    return fd


def possible_cpus() -> int:
    """As the kernel counts them for per-CPU maps."""
    text = Path("/sys/devices/system/cpu/possible").read_text("ascii").strip()
    return max(int(part.split("-")[-1]) for part in text.split(",")) + 1
