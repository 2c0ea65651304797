# SPDX-License-Identifier: GPL-2.0-or-later
"""Death of the active node and what it costs to be ready for it: ours beside keepalived with conntrackd (FTFW)."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import kfuncs, syscall
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.flows import ESTABLISHED, SYN_SENT, in_use
from aa_cluster.dataplane.maps import Map, open_all
from aa_cluster.errors import LabError
from aa_cluster.topology import rulesets
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.streams import judge, load
from aa_cluster.topology.traffic.ends import Ways
from tools.bench.pair import Pair, pair
from tools.bench.session import Run
from tools.bench.stats import quantile

GROUP = "takeover"
STREAMS, ARRIVALS = 1000, 200.0
BEFORE, AFTER = 1.5, 4.0
"""Seconds of load before the death, and after it."""
RATE, SECONDS = 1000.0, 5.0
"""Short sessions a second whose replication is paid for."""
OPENED, PORT, PUBLISHED = 300, 7003, 7103
PATIENCE = 1.0
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
PROGRAMS = ("compose", "flush", "mirror")
QUANTILES = (("p50", 0.5), ("p99", 0.99))


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. ``cpu``: s that all its parts have used so far; ``asking``: who looks a client's port up on the
    other node, where it must be established."""

    name: str
    lab: Lab
    cpu: Callable[[], float]
    asking: Callable[[], Callable[[int], bool]]


def measure(run: Run) -> None:
    for name, make in (("aa-cluster", _ours), ("keepalived + conntrackd", _theirs)):
        if run.wanted(name) or run.wanted(GROUP):
            _side(run, name, make)


def _side(run: Run, name: str, make: Callable[[str], Iterator[Side]]) -> None:
    gaps, lost, lags, missed = [], [], [], 0
    for turn in run.turns(2 if run.quick else 5):
        with contextmanager(make)(f"bn{os.getpid() % 100000}t") as side:
            took = _lags(side, OPENED // 3 if run.quick else OPENED)  # first: conntrackd's cache is quickly asked yet
            lags.append(took)
            missed += sum(lag >= 1000 * PATIENCE for lag in took)
            if turn == 0:
                _cost(run, side)
            gap, gone = _death(side)
            gaps.append(gap)
            lost.append(gone)
    note = f"{missed} of {sum(map(len, lags))} were not there after {PATIENCE:g} s" if missed else ""
    for label, share in QUANTILES:
        run.note(GROUP, f"lag, {label}: {name}", [quantile(took, share) for took in lags], "ms", note=note)
    run.note(GROUP, f"largest gap: {name}", gaps, "ms")
    run.note(GROUP, f"streams lost: {name}", lost, f"of {STREAMS}")


def _death(side: Side) -> tuple[float, float]:
    """Largest gap in ms, streams lost."""
    with load(side.lab, STREAMS, ARRIVALS) as running:
        _pass(BEFORE)
        died = time.monotonic()
        side.lab.kill("node1")
        _pass(AFTER)
        running.order("speak")
        _pass(0.3)
        verdict = judge(running.stop()[0], died)
    return verdict.gap_ms, float(verdict.lost)


def _cost(run: Run, side: Side) -> None:
    """CPU of both nodes for 1,000 sessions, net of the quietest of three looks at rest (a node may still compile)."""
    took = []
    with _program_times():
        rest = min(_spent(side, lambda: _pass(SECONDS)) for _ in range(3))
        for _ in range(3):
            with load(side.lab, 12, RATE, probes=0) as running:
                used = _spent(side, lambda: _pass(SECONDS))
                came = running.stop()[1]
            took.append(1000 * (used - rest) / (SECONDS * RATE / 1000))
            if came.completed < 0.95 * SECONDS * RATE:
                run.miss(GROUP, f"CPU per 1,000 sessions: {side.name}", f"{came.completed} sessions completed")
                return
    run.note(GROUP, f"CPU per 1,000 sessions: {side.name}", took, "ms", net_of="at rest")


def _spent(side: Side, meanwhile: Callable[[], None]) -> float:
    before = side.cpu()
    meanwhile()
    return side.cpu() - before


def _lags(side: Side, sessions: int) -> list[float]:
    """ms from the moment a session is open until the other node can go on with it, session by session. A look counts
    when it has ended, so that what the machine takes from the observer is in it."""
    plan = side.lab.plan
    ways, known = Ways(plan.path("client"), plan.path("server"), PORT, PUBLISHED), side.asking()
    took = []
    for _ in range(sessions):
        with closing(ways.begin("masquerade")) as connection:
            _wait_open(connection)
            since, port = time.monotonic(), connection.getsockname()[1]
            while not known(port) and time.monotonic() < since + PATIENCE:
                pass
            took.append(1000 * (time.monotonic() - since))
    for listener in ways.listeners:
        listener.close()
    return took


def _wait_open(connection: socket.socket) -> None:
    _, ready, _ = select.select([], [connection], [], 5)
    if not ready or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise LabError("a session did not open", "the lab's nodes do not forward")


def _pass(seconds: float) -> None:
    """A duration of the measurement."""
    threading.Event().wait(seconds)


# -- ours


def _ours(name: str) -> Iterator[Side]:
    with Lab(name, 2, rulesets.text("failover"), election=True) as lab:
        pids = [lab.site(node).pid() or 0 for node in lab.plan.node_names]
        yield Side(
            "aa-cluster", lab, lambda: sum(map(_process_seconds, pids)) + _program_seconds(lab), lambda: _mirror(lab)
        )


def _mirror(lab: Lab) -> Callable[[int], bool]:
    """Looks into the auxiliary's records: one in any live state is enough to go on with the session."""
    compiled = objects.load(("mirror",), kfuncs.offsets(), Path(lab.plan.run / "cache"))
    wanted = {name: compiled["mirror"].maps[name] for name in ("records", "watermark")}
    maps: Mapping[str, Map] = open_all(wanted, lab.site("node2").pins / "maps", 1)

    def known(port: int) -> bool:
        rows = in_use(maps["records"], maps["watermark"])
        found = rows["state"][rows["original_sport"].view(">u2") == port]
        return bool(np.any((found >= SYN_SENT) & (found <= ESTABLISHED)))

    return known


@contextmanager
def _program_times() -> Iterator[None]:
    """The kernel counts the time programs run, for tens of ns a run."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def _program_seconds(lab: Lab) -> float:
    """Of the programs that replicate, on both nodes."""
    pinned: Sequence[Path] = [path for name in PROGRAMS for path in lab.plan.pins.glob(f"node*/programs-*/{name}")]
    return sum(map(_run_time, pinned)) / 1e9


def _run_time(pin: Path) -> int:
    handle = syscall.obj_get(str(pin))
    try:
        found = re.search(r"run_time_ns:\s*(\d+)", Path(f"/proc/self/fdinfo/{handle}").read_text())
        return int(found[1]) if found else 0
    finally:
        os.close(handle)


# -- theirs


def _theirs(name: str) -> Iterator[Side]:
    with pair(name) as made:
        pids = list(made.daemons.values())
        yield Side("keepalived + conntrackd", made.lab, lambda: sum(map(_process_seconds, pids)), lambda: _cache(made))


def _cache(made: Pair) -> Callable[[int], bool]:
    def known(port: int) -> bool:
        want = f"sport={port} dport={PORT}".encode()
        return any(want in line and b" ESTABLISHED " in line for line in made.known("node2").splitlines())

    return known


def _process_seconds(pid: int) -> float:
    """CPU of the process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
