# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU and memory of the agents of two nodes: at rest, while sessions come, with a million flows in the table."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from aa_cluster.api import Stats, Status, Sync
from aa_cluster.dataplane import kfuncs
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.maps import Map, open_all
from aa_cluster.errors import LabError
from aa_cluster.topology import rulesets
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import batch
from tools.bench import flowtable, loader, place, wire
from tools.bench.duet import PHASES, WINDOW
from tools.bench.frames import mac
from tools.bench.session import Run
from tools.bench.world import OTHER, PUBLIC

GROUP = "agent"
CAPACITY = 1 << 21
FLOWS = 1 << 20
FILL_FROM = 1 << 22
"""Number of the first flow that is filled in; those below are the sessions'."""
EQUAL_SECONDS = 120.0
RATES = (5_000, 20_000)
REACHED = 0.95
"""Share of the asked rate that counts as reached."""
NODES = ("node1", "node2")


def measure(run: Run) -> None:
    if not run.wanted(GROUP):
        return
    seconds = 3.0 if run.quick else 10.0
    with place.roomy_conntrack(), loader.bench(loader.LIVE, run.cache) as live, _lab() as lab:
        _cpu(run, lab, "at rest", seconds)
        sender = _Sender(lab, live, run.cpu)
        for rate in RATES:
            if run.left() > seconds:
                _under(run, lab, sender, rate, seconds)
            else:
                run.miss(GROUP, f"primary at {rate} sessions a second", "no time was left")
        flows = FLOWS // 16 if run.quick else FLOWS
        with _pinned_maps(lab, run.cache) as maps:
            flowtable.fill(maps, range(FILL_FROM, FILL_FROM + flows), PUBLIC, OTHER)
        _wait_equal(lab, flows)
        _cpu(run, lab, "with a full table", 2 * seconds, flows, note="while take-overs of these flows are prepared")
        run.note(GROUP, "primary's peak memory", [_peak_mb(lab, "node1")], "MB", flows=flows)


def _wait_equal(lab: Lab, flows: int) -> None:
    """Nobody told the other node of what was filled in: digests find that, and all is told again."""
    client = lab.client("node1")

    def equal() -> bool:
        answer = client.get("/v1/sync", {})
        return isinstance(answer, Sync) and any(row.state == "equal" and row.flows >= flows for row in answer.nodes)

    until(f"the auxiliary to have all {flows} flows", equal, EQUAL_SECONDS, every=0.5)


def _cpu(run: Run, lab: Lab, when: str, seconds: float, flows: int = 0, note: str = "") -> None:
    """% of a core, over two windows."""
    took: dict[str, list[float]] = {node: [] for node in NODES}
    for _ in run.turns(2):
        before, start = _clocks(lab), time.monotonic()
        time.sleep(seconds)  # the window: what the agents do of themselves meanwhile is what is measured
        _add(took, lab, before, time.monotonic() - start)
    for node, role in zip(NODES, ("primary", "auxiliary"), strict=True):
        run.note(GROUP, f"{role} {when}", took[node], "% of a core", flows=flows, note=note)


def _add(took: dict[str, list[float]], lab: Lab, before: Mapping[str, int], seconds: float) -> None:
    for node, clock in _clocks(lab).items():
        took[node].append((clock - before[node]) / seconds / 1e7)


def _under(run: Run, lab: Lab, sender: _Sender, rate: int, seconds: float) -> None:
    """% of a core while whole sessions come at ``rate`` a second, or as fast as they can."""
    took: dict[str, list[float]] = {node: [] for node in NODES}
    reached = []
    for _ in run.turns(2):
        before, scheduled, start = _clocks(lab), _scheduled(lab), time.monotonic()
        sender.keep(rate, seconds)
        lasted = time.monotonic() - start
        _add(took, lab, before, lasted)
        reached.append((_scheduled(lab) - scheduled) / lasted)
    note = "" if min(reached) >= REACHED * rate else f"only {min(reached):.0f} a second were reached on this machine"
    for node, role in zip(NODES, ("primary", "auxiliary"), strict=True):
        run.note(GROUP, f"{role} at {rate} sessions a second", took[node], "% of a core", note=note)
    run.note(
        GROUP, f"sessions a second reached, {rate} asked", reached, "/s", note="generator and hosts share the cores"
    )


class _Sender:
    """Whole sessions into the lab's switch, in bursts of one window."""

    def __init__(self, lab: Lab, live: loader.Loaded, cpu: int) -> None:
        self._live = live
        self._where = lab.plan.path("switch")
        self._cpu = cpu
        self._next = 0
        self._plans = []
        macs = _virtual_macs(lab)
        for way, template in PHASES:
            net = lab.plan.network(way)
            frame = macs[way] + mac(net.mac(100)) + template.frame[12:]
            plan = loader.plan_record(live.maps["bench_phases"], replace(template, frame=frame), public=PUBLIC)
            plan["out"] = wire.index(self._where, lab.plan.port("node1", net))
            self._plans.append(plan)
        live.maps["bench_phase_count"].put(0, loader.count(len(PHASES)))

    def keep(self, rate: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            if due > now:
                time.sleep(due - now)  # the pace
            self._burst()
            due = max(due + WINDOW / rate, time.monotonic() - 1.0)

    def _burst(self) -> None:
        for number, plan in enumerate(self._plans):
            plan["first"] = self._next
            self._live.maps["bench_phases"].put(number, plan)
        self._live.maps["bench_walk"].put(0, loader.count(0))
        self._next += WINDOW
        wire.inject(self._live, self._where, "generate_session", PHASES[0][1].frame, WINDOW * len(PHASES), self._cpu)


@contextmanager
def _lab() -> Iterator[Lab]:
    """Two nodes with a flow table that holds a million flows, and routes to the hosts the generator plays."""
    rules = rulesets.text("default").replace("masquerade random", "masquerade")
    with Lab(f"bn{os.getpid() % 100000}a", nodes=2, ruleset=rules, joined=0) as lab:
        for node in NODES:
            site = lab.site(node)
            site.kill()
            site.config.write_text(
                site.config.read_text().replace("[data]\n", f"[data]\nflow_table_size = {CAPACITY}\n")
            )
            lab.restart_agent(node)
            hosts = ("route add 10.1.0.0/16 via 10.77.1.100", "route add 10.2.0.0/16 via 10.77.2.100")
            batch(hosts, lab.plan.namespace(node))
        lab.join("node1", primary=True)
        lab.join("node2")
        yield lab


@contextmanager
def _pinned_maps(lab: Lab, cache: Path) -> Iterator[dict[str, Map]]:
    """The primary's own maps."""
    compiled = objects.load(("steer", "handoff"), kfuncs.offsets(), cache)
    declarations = {name: item for each in compiled.values() for name, item in each.maps.items()}
    maps = open_all(declarations, lab.site("node1").pins / "maps", CAPACITY)
    try:
        yield maps
    finally:
        for item in maps.values():
            item.close()


def _clocks(lab: Lab) -> dict[str, int]:
    """ns of CPU each agent has used, all its threads, ended ones too (clock_getcpuclockid(3))."""
    return {node: time.clock_gettime_ns((~_pid(lab, node) << 3) | 2) for node in NODES}


def _pid(lab: Lab, node: str) -> int:
    pid = lab.site(node).pid()
    if pid is None:
        raise LabError(f"the agent of {node} has ended:\n{lab.site(node).tail()}")
    return pid


def _peak_mb(lab: Lab, node: str) -> float:
    text = Path(f"/proc/{_pid(lab, node)}/status").read_text("ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:")) / 1024


def _scheduled(lab: Lab) -> int:
    """Sessions the primary has given to a node so far."""
    answer = lab.client("node1").get("/v1/stats", {})
    if not isinstance(answer, Stats):
        raise LabError(f"stats answered {type(answer).__name__}")
    return sum(row.packets for row in answer.reasons if row.name in ("HANDOFF_SENT", "HANDOFF_LOCAL"))


def _virtual_macs(lab: Lab) -> dict[str, bytes]:
    status: Status = lab.status("node1")
    return {interface.name: mac(interface.virtual_mac) for interface in status.interfaces}
