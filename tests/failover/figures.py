# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rounds of each scenario came to: collected, judged, printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from aa_cluster.topology.claims import Claim
from aa_cluster.topology.streams import Newcomers, Verdict

SUMS = ("counted", "lost", "reset", "stuck", "wrong")
REST = ("gap before", "gap ms", "worst", "own lateness", "stood still", "new failed", "SYN again", "strays")
COLUMNS = ("scenario", "rounds", "streams", *SUMS[1:], *REST)
MEDIAN_OF = 3
"""Rounds at least, for a median to be one; a single round is held to the worst that is allowed."""
LATE_MS = 20.0
"""A generator that was later than this is named beside a gap that is too large."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One round. ``strays``: claims to be the cluster by somebody who was not; ``differences``: between nodes;
    ``extra``: further figures by name, printed below the table; ``stood_still_ms``: the longest that a core of this
    machine was away; what of that lies in a gap is not held against it."""

    verdict: Verdict
    newcomers: Newcomers
    strays: Sequence[Claim]
    differences: Sequence[str] = ()
    extra: dict[str, float] = field(default_factory=dict)
    stood_still_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """``worst_ms``/``median_ms``: of the largest gap of each round; ``again``: SYNs a new session may need again."""

    worst_ms: float
    median_ms: float
    again: int = 1


def complaints(rounds: Sequence[Outcome], limits: Limits) -> list[str]:
    """What does not hold, one sentence each; empty when all does."""
    found = [f"round {number}: {said}" for number, one in enumerate(rounds, start=1) for said in _round(one, limits)]
    verdicts = sorted((one.verdict for one in rounds), key=lambda verdict: verdict.net_ms)
    if len(verdicts) >= MEDIAN_OF and median(one.net_ms for one in verdicts) > limits.median_ms:
        each = ", ".join(f"{one.gap_ms:.0f} ({one.net_ms:.0f})" for one in verdicts)
        found.append(f"the median of the largest gaps (net) is more than {limits.median_ms:.0f} ms: {each}")
    return found


def _round(one: Outcome, limits: Limits) -> list[str]:
    verdict, new = one.verdict, one.newcomers
    found = list(one.differences)
    if verdict.counted == 0:
        found.append("no stream was established before")
    if verdict.lost:
        ended = ", ".join(f"{count} {state}" for state, count in sorted(verdict.states.items()) if state != "open")
        found.append(f"of {verdict.counted} established streams lost: {ended} ({'; '.join(verdict.losses)})")
    if verdict.wrong:
        found.append(f"{verdict.wrong} bytes wrong")
    if verdict.net_ms > limits.worst_ms:
        found.append(_too_long(verdict, limits.worst_ms))
    if new.failed:
        found.append(f"{new.failed} new sessions failed: {new.why}")
    if new.again > limits.again:
        found.append(f"a new session needed {new.again} more SYNs")
    if one.strays:
        first = one.strays[0]
        claim = f"{first.member} by {first.by} on {first.segment}"
        found.append(f"{len(one.strays)} claims to be the cluster by others, first {claim}")
    return found


def _too_long(verdict: Verdict, limit: float) -> str:
    late = f"; the generator itself was late by up to {verdict.late_ms:.0f} ms" if verdict.late_ms > LATE_MS else ""
    kinds = ", ".join(f"{kind} {gap:.0f}" for kind, gap in sorted(verdict.by_kind.items()))
    still = f", {verdict.net_ms:.0f} while all cores ran" if verdict.net_ms < verdict.gap_ms else ""
    before = f"; before that {verdict.before_ms:.0f} ms ({verdict.before_told})" if verdict.before_told else ""
    gap = f"largest gap {verdict.gap_ms:.0f} ms ({verdict.gap_told}){still}"
    return f"{gap}, more than {limit:.0f}; {kinds}{late}{before}"


class Figures:
    """All rounds of all scenarios."""

    def __init__(self) -> None:
        self._rounds: dict[str, list[Outcome]] = {}

    def add(self, scenario: str, outcome: Outcome) -> None:
        self._rounds.setdefault(scenario, []).append(outcome)

    def judge(self, scenario: str, limits: Limits) -> None:
        """``AssertionError`` with all that does not hold."""
        rounds = self._rounds.get(scenario, [])
        assert rounds, f"{scenario}: no round was run"
        found = complaints(rounds, limits)
        assert not found, f"{scenario}: " + "; ".join(found)

    def table(self) -> list[str]:
        """Lines of text; none when nothing was run."""
        if not self._rounds:
            return []
        rows = [COLUMNS, *(_row(scenario, rounds) for scenario, rounds in self._rounds.items())]
        widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        return lines + [line for scenario, rounds in self._rounds.items() for line in _extra(scenario, rounds)]


def _row(scenario: str, rounds: Sequence[Outcome]) -> tuple[str, ...]:
    verdicts = [one.verdict for one in rounds]
    gaps = [verdict.gap_ms for verdict in verdicts]
    return (
        scenario,
        str(len(rounds)),
        *(str(sum(getattr(verdict, name) for verdict in verdicts)) for name in SUMS),
        f"{max(verdict.before_ms for verdict in verdicts):.0f}",
        f"{median(gaps):.0f}",
        f"{max(gaps):.0f}",
        f"{max(verdict.late_ms for verdict in verdicts):.0f}",
        f"{max(one.stood_still_ms for one in rounds):.0f}",
        str(sum(one.newcomers.failed for one in rounds)),
        str(max(one.newcomers.again for one in rounds)),
        str(sum(len(one.strays) for one in rounds)),
    )


def _extra(scenario: str, rounds: Sequence[Outcome]) -> list[str]:
    out = []
    for name in rounds[0].extra:
        values = [one.extra[name] for one in rounds if name in one.extra]
        out.append(f"{scenario}: {name} {median(values):.0f} (worst {max(values):.0f})")
    return out
