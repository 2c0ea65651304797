# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs and maps of the bench and of the product, loaded unpinned: all gone when the process ends."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from aa_cluster.dataplane import kfuncs, programs, source, syscall
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.maps import Map, open_all
from tools.bench.frames import Template

FEEDER = "bench/feeder"
LIVE = "bench/live"
XDP = frozenset(
    (
        *("feed_xdp", "empty_xdp", "generate", "generate_session", "sink", "hub"),
        *("drop_all", "pass_all", "send_back", "plain_xdp"),
    )
)
"""The bench's programs that hook XDP; all others are classifiers."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Program name → fd, map name → map."""

    fds: Mapping[str, int]
    maps: Mapping[str, Map]

    def reasons(self) -> np.ndarray:
        """The product's reason counters, by number."""
        return self.maps["reasons"].per_cpu_sum()


@contextmanager
def product(cache: Path, flow_entries: int) -> Iterator[Loaded]:
    """Every program of the product on one set of maps with room for ``flow_entries`` flows."""
    compiled = objects.load(source.programs(), kfuncs.offsets(), cache)
    declarations = {name: item for each in compiled.values() for name, item in each.maps.items()}
    with ExitStack() as stack:
        maps = open_all(declarations, None, flow_entries, accounting=True)
        stack.callback(_close, maps)
        fds = programs.load(compiled, maps)
        stack.callback(_close_fds, fds)
        yield Loaded(fds, maps)


@contextmanager
def bench(
    name: str, cache: Path, entries: Mapping[str, int] | None = None, mapped: Container[str] = frozenset()
) -> Iterator[Loaded]:
    """One of the bench's own objects; ``entries`` gives sizes of maps that the source leaves open, ``mapped`` the
    arrays that user space looks into.
    """
    compiled = objects.load((name,), kfuncs.offsets(), cache)[name]
    declarations = {
        label: msgspec.structs.replace(item, entries=(entries or {}).get(label, item.entries))
        for label, item in compiled.maps.items()
    }
    with ExitStack() as stack:
        maps = open_all(declarations, None, 1, mapped)
        stack.callback(_close, maps)
        fds: dict[str, int] = {}
        stack.callback(_close_fds, fds)
        for label, program in compiled.programs.items():
            fds[label] = _load(label, program, maps)
        yield Loaded(fds, maps)


def _load(label: str, program: objects.Program, maps: Mapping[str, Map]) -> int:
    kind = syscall.PROG_XDP if label in XDP or label.startswith("design_") else syscall.PROG_SCHED_CLS
    modules = kfuncs.module_btf_fds()
    try:
        return programs.load_one(kind, label, program, maps, modules)
    finally:
        _close_fds(modules)


def _close(maps: Mapping[str, Map]) -> None:
    for item in maps.values():
        item.close()


def _close_fds(fds: Mapping[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def plan_record(
    like: Map, template: Template, *, public: int = 0, first: int = 0, flows: int = 1, linear: bool = False
) -> np.ndarray:
    """A ``struct bench_plan``; ``flows`` must be a power of two. ``public``: the masqueraded address as an integer."""
    if flows & (flows - 1):
        raise ValueError(f"{flows} flows, expected a power of two")
    record = like.record()
    room = record["frame"].nbytes
    record["frame"] = np.frombuffer(template.frame[:room].ljust(room, b"\0"), "<u8")
    record["length"], record["shape"] = template.length, int(template.shape)
    record["ip_sum"], record["tcp_sum"] = template.ip_sum, template.tcp_sum
    kind = template.kind
    record["family"], record["protocol"], record["headers"] = kind.family, kind.protocol, kind.headers
    record["first"], record["mask"], record["linear"] = first, flows - 1, int(linear)
    record["public"] = int.from_bytes(public.to_bytes(4, "big"), "little")
    return record


def count(value: int) -> np.ndarray:
    """A u64 for a map."""
    return np.array(value, "<u8")
