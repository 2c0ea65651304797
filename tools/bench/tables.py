# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures as tables: rows are cases, columns are how many flows (or one value). Pure; terminal and page share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.bench.frames import KINDS, TCP4
from tools.bench.results import Figure, Report, find
from tools.bench.svg import short

TITLES = {
    "packet": "Per packet, BPF_PROG_TEST_RUN, net of an empty program",
    "design": "Designs of flow table, BPF_PROG_TEST_RUN, net of an empty program",
    "live": "Live frames, one core, one-armed veth, net of XDP drop",
    "session": "Short sessions: connect, one request, close (nine packets); a question by UDP and its answer (two)",
    "latency": "TCP ping-pong of 64 bytes, both ends on one core",
    "scale": "Scale",
    "agent": "The agents",
}
LIVE_BASE = "all-in"
KIND_CASES = (
    "steer: hit",
    "steer: hit, both directions",
    "steer: own flow",
    "steer: miss",
    "handoff: new SYN",
    "handoff: SYN again",
    "handoff: new SYN, own",
    "adopt: new SYN",
    "adopt: SYN again",
    "guard: pass",
)
"""Measured for each family and protocol. Of UDP a SYN is the first datagram."""


@dataclass(frozen=True, slots=True)
class Table:
    """``rows``: each as many cells as ``columns``."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report) -> tuple[Table, ...]:
    out = []
    for group, title in TITLES.items():
        figures = [each for each in report.figures if each.group == group]
        for size in sorted({each.size for each in figures}):
            here = [each for each in figures if each.size == size]
            heading = f"{title}, {size}-byte frames" if size else title
            if group in ("packet", "design", "live") or len({each.flows for each in here}) > 2:
                grid = _grid(heading, here, report, group if size in (0, 60) else "")
                out += [grid] if grid.rows else []
            else:
                out.append(_list(heading, here))
        if group == "packet":
            out.extend(_kinds(report))
    return tuple(out)


def _of_kind(case: str) -> bool:
    """Of another family or protocol than most: those have tables of their own."""
    return any(case.endswith(f", {kind}") for kind in KINDS if kind != TCP4)


def _kinds(report: Report) -> list[Table]:
    """By family and protocol, one table for each number of flows."""
    here = [each for each in report.figures if each.group == "packet"]
    out = []
    for flows in sorted({each.flows for each in here if _of_kind(each.case)}):
        rows = []
        for case in KIND_CASES:
            figures = [find(here, "packet", kind.named(case), flows) for kind in KINDS]
            rows.append((case, "ns", *("–" if each is None else cell(each) for each in figures)))
        title = f"By family and protocol, BPF_PROG_TEST_RUN, net of an empty program, {_flows(flows)}"
        columns = ("case (UDP: datagram for SYN)", "unit", *map(str, KINDS))
        out.append(Table(title, columns, tuple(rows)))
    return out


def _grid(title: str, figures: Sequence[Figure], report: Report, group: str) -> Table:
    """Cases by flows; a dash where there is none."""
    figures = [each for each in figures if not _of_kind(each.case)]
    flows = sorted({each.flows for each in figures})
    cases = list(dict.fromkeys(each.case for each in figures))
    if group:
        cases += [each.case for each in report.missing if each.group == group and not _of_kind(each.case)]
    at = {(each.case, each.flows): each for each in figures}
    rows = []
    for case in dict.fromkeys(cases):
        cells = [cell(at[case, count]) if (case, count) in at else "–" for count in flows]
        unit = next((each.unit for each in figures if each.case == case), "")
        rows.append((case, unit, *cells))
    return Table(title, ("case", "unit", *(_flows(count) for count in flows)), tuple(rows))


def _flows(count: int) -> str:
    return "1 flow" if count == 1 else f"{short(count)} flows" if count else "value"


def _list(title: str, figures: Sequence[Figure]) -> Table:
    rows = tuple(
        (each.case + (f" ({short(each.flows)} flows)" if each.flows else ""), each.unit, cell(each), each.note)
        for each in figures
    )
    return Table(title, ("what", "unit", "median (range)", "note"), rows)


def cell(figure: Figure) -> str:
    """``25 (24–27)``; the range is left out where there was one run."""
    text = number(figure.value)
    return text if figure.runs == 1 else f"{text} ({number(figure.low)}–{number(figure.high)})"


def number(value: float) -> str:
    """Three digits that count, no exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 or value == 0 else f"{value:.2f}"


def notes(report: Report) -> tuple[str, ...]:
    """What must be said with the figures: notes of cases, what is missing and why, what was dropped."""
    said = {
        f"{each.case}: {each.note}"
        for each in report.figures
        if each.note and each.group in ("packet", "live") and not _of_kind(each.case)
    }
    missing: dict[tuple[str, str, str], list[int]] = {}
    for each in report.missing:
        missing.setdefault((each.group, each.case, each.why), []).append(each.flows)
    lost = [
        f"no figure for {group}: {case}{_where(flows)}: {why}" for (group, case, why), flows in sorted(missing.items())
    ]
    return (*sorted(said), *lost, *report.notes)


def _where(flows: Sequence[int]) -> str:
    counts = ", ".join(short(count) for count in flows if count)
    return f" at {counts} flows" if counts else ""
