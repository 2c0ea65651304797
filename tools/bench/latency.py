# SPDX-License-Identifier: GPL-2.0-or-later
"""What steering adds to a packet's way: TCP ping-pong through an auxiliary against the same through one gateway.

Two labs stand side by side, one with a cluster of two (the primary's weight 0, so every session is steered), one with a
plain gateway with the same rules. Both ends run on one core, so that waking another is not what is measured. A round
trip has two steered packets: the figures are half of the difference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from aa_cluster.api import Stats, WeightRequest
from aa_cluster.errors import LabError
from aa_cluster.topology.lab import Lab
from tools.bench.session import Run
from tools.bench.stats import quantile

GROUP = "latency"
PORT = 7007
ROUNDS, QUICK_ROUNDS = 10_000, 2_000
SERVER = "10.77.2.100"
QUANTILES = (("p50", 0.5), ("p99", 0.99))


def measure(run: Run) -> None:
    if run.wanted(GROUP):
        _measure(run)


def _measure(run: Run) -> None:
    name = f"bn{os.getpid() % 100000}"
    with ExitStack() as stack:
        cluster = stack.enter_context(Lab(f"{name}c", nodes=2))
        plain = stack.enter_context(Lab(f"{name}s", nodes=1, agents=False))
        plain.connect("node1")
        cluster.client("node1").post("/v1/weight", WeightRequest(node="node1", weight=0))
        labs = (("one gateway", plain), ("cluster", cluster))
        for _, lab in labs:
            stack.enter_context(_serving(lab, run.cpu))
        took: dict[str, list[list[int]]] = {"one gateway": [], "cluster": []}
        for _ in run.turns():
            for label, lab in labs:
                before = _steered(cluster)
                took[label].append(_ask(lab, run))
                if lab is cluster and _steered(cluster) - before < 2 * len(took[label][-1]):
                    run.miss(GROUP, "added to a steered packet", "the packets were not steered")
                    return
    _report(run, took)


def _report(run: Run, took: dict[str, list[list[int]]]) -> None:
    for label, share in QUANTILES:
        each = {way: [quantile(rounds, share) / 1000 for rounds in runs] for way, runs in took.items()}
        for way, samples in each.items():
            run.note(GROUP, f"round trip, {label}: {way}", samples, "µs")
        added = [(one - other) / 2 for one, other in zip(each["cluster"], each["one gateway"], strict=True)]
        run.note(
            GROUP, f"added to a steered packet, {label}", added, "µs", net_of="one gateway", note="half a round trip's"
        )


def _steered(lab: Lab) -> int:
    """Packets the primary has steered so far."""
    answer = lab.client("node1").get("/v1/stats", {})
    if not isinstance(answer, Stats):
        raise LabError(f"stats answered {type(answer).__name__}")
    return next(row.packets for row in answer.reasons if row.name == "STEER_TX")


def _program(run_cpu: int, *arguments: str) -> list[str]:
    return ["taskset", "-c", str(run_cpu), sys.executable, "-m", "tools.bench.pingpong", *arguments]


def _ask(lab: Lab, run: Run) -> list[int]:
    rounds = QUICK_ROUNDS if run.quick else ROUNDS
    done = lab.exec("client", _program(run.cpu, "ask", SERVER, str(PORT), str(rounds)))
    if done.returncode:
        raise LabError(f"ping-pong failed: {done.stderr.strip()[-400:]}")
    took: list[int] = json.loads(done.stdout)
    return took


@contextmanager
def _serving(lab: Lab, cpu: int) -> Iterator[None]:
    process = lab.popen("server", _program(cpu, "serve", str(PORT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        try:
            if not process.stdout or process.stdout.readline() != "ready\n":
                raise LabError("the ping-pong server did not start")
            yield
        finally:
            process.kill()
