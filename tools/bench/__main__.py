# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m tools.bench [--only NAME] [--quick]`` measures; ``python -m tools.bench compare OLD NEW`` compares."""

from __future__ import annotations

import argparse
import datetime
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from aa_cluster.errors import AaError
from tools.bench import (
    agents,
    compare,
    designs,
    latency,
    live,
    machine,
    packets,
    place,
    report,
    results,
    scale,
    sessions,
    takeover,
)
from tools.bench.session import Run, monotonic

MINUTES = 15.0
SAFETY = 45.0
"""Seconds kept back for a case under way at the deadline, and for cleaning up."""
OUT = Path("docs/bench")

GROUPS: list[tuple[str, Callable[[Run], None]]] = [
    (packets.GROUP, packets.measure),
    (designs.GROUP, designs.measure),
    (live.GROUP, live.measure),
    (sessions.GROUP, sessions.measure),
    (latency.GROUP, latency.measure),
    (agents.GROUP, agents.measure),
    (takeover.GROUP, takeover.measure),
    (scale.GROUP, scale.measure),
]
"""In this order: the last computes from what the others found."""


def main(arguments: Sequence[str]) -> int:
    given = _arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        if given.command == "compare":
            compare.show(results.read(given.old), results.read(given.new), console)
            return 0
        return _measure(given, console)
    except (AaError, ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: stopped; namespaces are removed", file=sys.stderr, flush=True)
        os._exit(130)  # a thread may still be at its test-runs, in a namespace that is gone when the process is


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="a group, or a part of a case's name")
    parser.add_argument("--quick", action="store_true", help="1 and 4k flows, few and short runs: indicative only")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="repetitions are dropped after that")
    parser.add_argument("--out", type=Path, help=f"where to write (default {OUT}; nowhere with --only or --quick)")
    parser.set_defaults(command="run")
    commands = parser.add_subparsers(metavar="compare")
    two = commands.add_parser("compare", help="two bench.json side by side")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    two.set_defaults(command="compare")
    return parser.parse_args(arguments)


def _measure(given: argparse.Namespace, console: Console) -> int:
    if os.geteuid() != 0:
        raise ValueError("the bench makes namespaces and loads BPF programs: run it as root")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that namespaces go then too
    place.remove_leftovers()
    names = [name for name, _ in GROUPS]
    with tempfile.TemporaryDirectory() as cache:
        run = Run(
            deadline=0.0,
            clock=monotonic,
            say=lambda text: print(text, file=sys.stderr, flush=True),
            cache=Path(cache),
            quick=given.quick,
            only="" if given.only in names else given.only,
        )
        run.started = run.clock()
        run.notes.extend(machine.unrest())
        end = run.started + 60 * given.minutes - SAFETY
        chosen = [group for group in GROUPS if given.only not in names or group[0] == given.only]
        try:
            for number, group in enumerate(chosen):
                run.deadline = share_of(run.clock(), end, [name for name, _ in chosen[number:]])
                run.case_end = math.inf
                _group(run, group)
        finally:
            made = _report(run, given.quick)
            report.show(made, console)
    out = given.out or (None if given.only or given.quick else OUT)
    if out is not None:
        for path in report.write(made, out):
            console.print(f"wrote {path}")
    return 0


def _group(run: Run, group: tuple[str, Callable[[Run], None]]) -> None:
    """One group; what it stumbles over is told, and the others are measured all the same."""
    name, measure = group
    try:
        measure(run)
    except (AaError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        run.miss(name, "the rest of the group", str(error).splitlines()[0])


WEIGHTS = {
    packets.GROUP: 5,
    designs.GROUP: 2,
    live.GROUP: 8,
    sessions.GROUP: 1,
    latency.GROUP: 1,
    agents.GROUP: 2,
    takeover.GROUP: 2,
    scale.GROUP: 0.1,
}


def share_of(now: float, end: float, groups: Sequence[str]) -> float:
    """The deadline of the first of ``groups``: its part of what is left, so that those after it have theirs."""
    whole = sum(WEIGHTS[name] for name in groups)
    return now + max(0.0, end - now) * WEIGHTS[groups[0]] / whole


def _report(run: Run, quick: bool) -> results.Report:
    notes = list(run.notes)
    if run.dropped:
        notes.append(f"{run.dropped} repetitions were dropped to keep to the time given")
    return results.Report(
        version=results.VERSION,
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        quick=quick,
        seconds=round(run.clock() - run.started, 1),
        machine=machine.describe(),
        figures=run.figures,
        missing=run.missing,
        notes=notes,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
