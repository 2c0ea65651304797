# SPDX-License-Identifier: GPL-2.0-or-later
"""How far it goes: auxiliaries a primary can feed, efficiency of larger clusters (modelled), memory a flow."""

from __future__ import annotations

import re
from pathlib import Path

from tools.bench import flowtable, live, loader, sessions, world
from tools.bench.model import Costs, efficiency, feeds
from tools.bench.session import Run

GROUP = "scale"
NODES = range(2, 9)
AT = 4096
SLABINFO = Path("/proc/slabinfo")


def measure(run: Run) -> None:
    if not run.wanted(GROUP):
        return
    _feeds(run)
    _efficiency(run, "long sessions, 60-byte packets", _packet_costs(run))
    _efficiency(run, "short sessions", _session_costs(run))
    _memory(run)


def _feeds(run: Run) -> None:
    """Full processing ÷ steering."""
    for size, sizes in ((live.SMALL, run.sizes), (live.LARGE, (live.LARGE_FLOWS,))):
        for flows in sizes:
            full = run.value(live.GROUP, live.MASQUERADE, flows, size)
            steering = run.value(live.GROUP, live.STEER, flows, size)
            if full and steering:
                name = "auxiliaries one primary core can feed"
                run.note(GROUP, name, [feeds(full, steering)], "nodes", flows=flows, size=size, note="full ÷ steering")


def _packet_costs(run: Run) -> Costs | None:
    full, steering = (run.value(live.GROUP, name, AT, live.SMALL) for name in (live.MASQUERADE, live.STEER))
    guard, own = (run.value("packet", name, AT) for name in ("guard: pass", "steer: own flow"))
    if full is None or steering is None or guard is None or own is None:
        return None
    return Costs(alone=full, feeding=steering, owning=full + guard, keeping=full + own)


def _session_costs(run: Run) -> Costs | None:
    names = (sessions.GATEWAY, sessions.ON_PRIMARY, sessions.ON_OWNER, sessions.OWN)
    alone, feeding, owning, keeping = (run.value(sessions.GROUP, name) for name in names)
    if alone is None or feeding is None or owning is None or keeping is None:
        return None
    return Costs(alone, feeding, owning, keeping)


def _efficiency(run: Run, what: str, costs: Costs | None) -> None:
    if costs is None:
        run.miss(GROUP, f"efficiency a node, {what}", "needs the per-packet, live and session figures of the same run")
        return
    for nodes in NODES:
        share = [100 * efficiency(costs, nodes)]
        run.note(GROUP, f"efficiency a node, {what}, {nodes} nodes", share, "%", note="modelled from measured costs")


def _memory(run: Run) -> None:
    with loader.product(run.cache, world.CAPACITY) as plane:
        whole = flowtable.memory(plane.maps)
    run.note(GROUP, "flow table, memory a flow", [whole / world.CAPACITY], "bytes", note=f"{world.CAPACITY} flows")
    entry = _conntrack_bytes()
    if entry:
        run.note(GROUP, "conntrack entry, for comparison", [entry], "bytes", note="without its hash table")


def _conntrack_bytes() -> int:
    """The slab object's size, 0 when the kernel does not tell."""
    try:
        found = re.search(r"^nf_conntrack \s*\d+ \s*\d+ \s*(\d+)", SLABINFO.read_text("ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
