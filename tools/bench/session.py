# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of the bench: the time that is left, how often each case is repeated, and the book of what came out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.bench.results import Figure, Missing, figure, find

FULL = (1, 4096, 65536, 1 << 20)
QUICK = (1, 4096)


@dataclass
class Run:
    """``deadline``: on ``clock``; a case that is under way then finishes its repetition, no more are begun.

    ``say`` tells the user what is being measured.
    """

    deadline: float
    clock: Callable[[], float]
    say: Callable[[str], None]
    cache: Path
    quick: bool = False
    cpu: int = field(default_factory=lambda: max(os.sched_getaffinity(0)))
    only: str = ""
    figures: list[Figure] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped: int = 0
    case_end: float = math.inf
    started: float = 0.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Flows in the table: every case is measured at each."""
        return QUICK if self.quick else FULL

    @property
    def repetitions(self) -> int:
        return 3 if self.quick else 7

    def left(self) -> float:
        """s."""
        return self.deadline - self.clock()

    def wanted(self, case: str) -> bool:
        """As ``--only`` chose: a part of the case's name."""
        return self.only in case

    def pace(self, cases: int) -> None:
        """So many cases of the group are still to come: the next has its equal part of what is left, and no more."""
        self.case_end = self.clock() + max(0.0, self.left()) / max(1, cases)

    def turns(self, wanted: int | None = None) -> Iterator[int]:
        """Counts repetitions, at least one, and ends early at the deadline, which is noted."""
        count = self.repetitions if wanted is None else wanted
        for turn in range(count):
            if turn and self.clock() >= min(self.deadline, self.case_end):
                self.dropped += count - turn
                return
            yield turn

    def note(
        self,
        group: str,
        case: str,
        samples: Sequence[float],
        unit: str,
        *,
        flows: int = 0,
        size: int = 0,
        net_of: str = "",
        note: str = "",
    ) -> None:
        made = figure(group, case, samples, unit, flows=flows, size=size, net_of=net_of, note=note)
        self.figures.append(made)
        where = f" at {flows} flows" if flows else ""
        self.say(f"{group}: {case}{where}: {made.value:.1f} {unit} ({made.low:.1f}–{made.high:.1f}, {made.runs} runs)")

    def miss(self, group: str, case: str, why: str, flows: int = 0) -> None:
        self.missing.append(Missing(group, case, flows, why))
        self.say(f"{group}: {case}{f' at {flows} flows' if flows else ''}: no figure: {why}")

    def value(self, group: str, case: str, flows: int = 0, size: int = 0) -> float | None:
        """The median of a figure taken earlier in this run."""
        made = find(self.figures, group, case, flows, size)
        return None if made is None else made.value


def monotonic() -> float:
    return time.monotonic()
