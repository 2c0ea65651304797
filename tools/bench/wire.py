# SPDX-License-Identifier: GPL-2.0-or-later
"""Wires of the bench: veth pairs between namespaces, programs on their ends, live frames sent into them and counted."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyroute2 import IPRoute

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.attach import Attacher, Hook, Point
from aa_cluster.topology.namespaces import batch, checked, enter, inside
from tools.bench.loader import Loaded

DELIVERED, OTHER, DROPPED, CUT, SECOND = range(5)
"""``enum bench_arrival``."""
QUIESCENCE = 1.0
"""Seconds that frames on their way may take to arrive."""


def cable(one: tuple[Path, str, str], other: tuple[Path, str, str]) -> None:
    """A veth pair that is up; each end is (namespace, interface, MAC). One queue, GRO off, checksums finished."""
    line = f"link add name {one[1]} netns {one[0].name} address {one[2]} numtxqueues 1 numrxqueues 1 type veth "
    batch([line + f"peer name {other[1]} netns {other[0].name} address {other[2]} numtxqueues 1 numrxqueues 1"])
    for path, name, _ in (one, other):
        batch([f"link set {name} up"], path.name)
        checked([*enter(path), "ethtool", "-K", name, "tx", "off", "gro", "off"])


def poll(path: Path, interface: str) -> None:
    """Lets an end without an XDP program take XDP frames: GRO on, as it is on a network card."""
    checked([*enter(path), "ethtool", "-K", interface, "gro", "on"])


def index(path: Path, interface: str) -> int:
    return int(checked(["ip", "-n", path.name, "-o", "link", "show", interface]).split(":", 1)[0])


def attach(path: Path, hook: Hook, interface: str, fd: int) -> None:
    """Puts a program on a hook of an interface in the namespace; it goes with the namespace."""
    ifindex = index(path, interface)

    def put() -> None:
        with tempfile.TemporaryDirectory() as marks, IPRoute() as ipr:
            Attacher(ipr, Path(marks)).attach(Point(hook, ifindex, "bench"), fd, "native")

    inside(path, put)


@dataclass(frozen=True, slots=True)
class Burst:
    """``ns``: CPU time a frame, of the generator's core with all it did for the frame. ``arrived``: by kind."""

    ns: float
    sent: int
    arrived: np.ndarray


def send(live: Loaded, where: Path, program: str, frame: bytes, frames: int, cpu: int) -> Burst:
    """Live frames made by ``program`` in namespace ``where``, on one core.

    The kernel's own duration counts what the core did between the generator's batches, the soft interrupts of all
    wires included; what it left to its ksoftirqd thread is added.
    """
    return inside(where, lambda: _send(live, program, frame, frames, cpu))


def _send(live: Loaded, program: str, frame: bytes, frames: int, cpu: int) -> Burst:
    os.sched_setaffinity(0, {cpu})
    arrivals = live.maps["bench_arrivals"]
    before = arrivals.per_cpu_sum()
    late = _ksoftirqd_ns(cpu)
    duration = syscall.run_live(live.fds[program], frame, frames)
    arrived = _settled(live, before, frames)
    return Burst(duration + (_ksoftirqd_ns(cpu) - late) / frames, frames, arrived)


def inject(live: Loaded, where: Path, program: str, frame: bytes, frames: int, cpu: int) -> None:
    """As ``send``, but nobody counts."""

    def give() -> None:
        os.sched_setaffinity(0, {cpu})
        syscall.run_live(live.fds[program], frame, frames)

    inside(where, give)


def _settled(live: Loaded, before: np.ndarray, frames: int) -> np.ndarray:
    """The counters once every frame has arrived, or no more come."""
    arrivals, deadline = live.maps["bench_arrivals"], time.monotonic() + QUIESCENCE
    found: np.ndarray = arrivals.per_cpu_sum() - before
    while found.sum() < frames and time.monotonic() < deadline:
        time.sleep(0.002)  # between looks at counters; the deadline is above
        again = arrivals.per_cpu_sum() - before
        if (again == found).all() and time.monotonic() > deadline - QUIESCENCE / 2:
            break
        found = again
    return found


def _ksoftirqd_ns(cpu: int) -> int:
    """CPU time of the core's soft-interrupt thread so far."""
    pid = _ksoftirqd_pid(cpu)
    return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0])


_pids: dict[int, int] = {}


def _ksoftirqd_pid(cpu: int) -> int:
    if cpu not in _pids:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _command(entry) == f"ksoftirqd/{cpu}":
                _pids[cpu] = int(entry.name)
    return _pids[cpu]


def _command(entry: Path) -> str:
    try:
        return (entry / "comm").read_text("ascii", "replace").strip()
    except OSError:
        return ""


def ways(live: Loaded, by_last_byte: Mapping[int, tuple[int, int]]) -> None:
    """The hub's table: last byte of the destination MAC → (action, ifindex)."""
    for last, (action, ifindex) in by_last_byte.items():
        record = live.maps["bench_ways"].record()
        record["action"], record["ifindex"] = action, ifindex
        live.maps["bench_ways"].put(last, record)
