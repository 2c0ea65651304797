# SPDX-License-Identifier: GPL-2.0-or-later
"""One round: load on, something happens, a while passes, everybody speaks, what became of the streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from aa_cluster.errors import LabError
from aa_cluster.topology.claims import Reign, Watch, strays
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.load import Standstill, longest_ms, standstill
from aa_cluster.topology.streams import Load, failed, judge, load, lost, newcomers
from aa_cluster.topology.traffic.ends import EVERY_WAY
from tests.failover.autopsy import Witness, autopsy, said
from tests.failover.figures import Outcome

ELECTION = '\n[election]\nkind = "keepalived"\n'
STREAMS, RATE, FRESH = 1000, 200.0, 20.0
TOLD = 5
"""Lost streams and new sessions that failed whose traces are looked for on every node, and strays whose times are
told."""
LONG_MS, LONG_BEFORE_MS = 700, 150
"""After a gap of more than this, or before anything happened, it is told what the agents said."""
SETTLE = 0.8
"""Seconds the load runs before anything happens."""
AFTER = 2.0
"""Seconds it runs on after the last thing that happened: more than the largest gap allowed, and TCP's answer to
it."""


def go_on(seconds: float) -> None:
    """The load runs for so long: a duration of the experiment, not a wait for anything."""
    threading.Event().wait(seconds)


class Round:
    """``times``: when each thing began that happened (CLOCK_MONOTONIC, s)."""

    def __init__(self, lab: Lab, running: Load, watch: Watch, still: Standstill, witness: Witness) -> None:
        self.lab, self.running, self.watch, self.still, self.witness = lab, running, watch, still, witness
        self.times: list[float] = []

    def happen(self, what: Callable[..., object], *given: object) -> float:
        """Do it; when it began. Streams and sessions are judged from the first time on."""
        self.times.append(time.monotonic())
        what(*given)
        return self.times[-1]

    def end(
        self,
        reigns: Sequence[Reign],
        after: float = AFTER,
        extra: dict[str, float] | None = None,
        differences: Callable[[], Sequence[str]] = tuple,
    ) -> Outcome:
        """Everybody speaks, the load ends. ``reigns``: who may have been the cluster when; ``differences`` is asked
        while the streams are still open."""
        go_on(after)
        self.running.order("speak")
        go_on(0.3)
        found = differences()
        mixed, arrived = self.running.stop()
        first = self.times[0] if self.times else time.monotonic()
        for row in lost(mixed, first)[:TOLD]:
            print("\n".join([f"lost: {row}", *autopsy(self.lab, row.port, self.witness)]))
        for one in failed(arrived, first)[:TOLD]:
            print("\n".join([f"new and failed: {one}", *autopsy(self.lab, one.port, self.witness)]))
        if lost(mixed, first) or failed(arrived, first):
            print("\n".join(self.witness.counted()))
        claims = strays(self.watch.claims(), reigns)
        for claim in claims[:TOLD]:
            print(f"{1000 * (claim.at - first):+.0f} ms: {claim.member} claims {claim.segment} by {claim.by}")
        away = self.still.stop()
        verdict = judge(mixed, first, absences=away, faults=self.times)
        if verdict.net_ms > LONG_MS or verdict.before_ms > LONG_BEFORE_MS:
            print(f"a gap of {verdict.gap_ms:.0f} ms ({verdict.gap_told})")
            print(f"{verdict.before_ms:.0f} before ({verdict.before_told})")
            print("\n".join(said(self.lab, node) for node in self.lab.plan.node_names))
        return Outcome(verdict, newcomers(arrived, first), claims, found, extra or {}, stood_still_ms=longest_ms(away))


@contextmanager
def under_load(
    lab: Lab, count: int = STREAMS, rate: float = RATE, fresh: float = FRESH, patience: float = 6.0
) -> Iterator[Round]:
    """Streams are open and have run for a moment when the block begins."""
    sessions = load(lab, count, rate, fresh, min(72, count // 4), patience, EVERY_WAY)
    with standstill(lab) as still, Watch(lab) as watch, Witness(lab) as witness, _opened(sessions, witness) as running:
        go_on(SETTLE)
        yield Round(lab, running, watch, still, witness)


@contextmanager
def _opened(sessions: AbstractContextManager[Load], witness: Witness) -> Iterator[Load]:
    """Where some streams do not open, who reset them is told."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(sessions)
        except LabError:
            print("\n".join([*(f"reset: {one}" for one in witness.resets()[:TOLD]), *witness.counted()]))
            raise
        yield running
