# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run of the bench leaves: figures, what has none and why, the machine. docs/bench/bench.json is this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tools.bench.machine import Machine
from tools.bench.stats import median

VERSION = 1


class Figure(msgspec.Struct, frozen=True):
    """One number of one case: the median of ``runs`` runs, and their range.

    ``flows``: how many are in the table (0: does not apply). ``size``: bytes a frame (0: does not apply). ``net_of``:
    what was taken away, empty for an absolute figure.
    """

    group: str
    case: str
    flows: int
    size: int
    value: float
    low: float
    high: float
    runs: int
    unit: str
    net_of: str = ""
    note: str = ""

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.group, self.case, self.flows, self.size


class Missing(msgspec.Struct, frozen=True):
    """A case without a figure, and why."""

    group: str
    case: str
    flows: int
    why: str


class Report(msgspec.Struct, frozen=True):
    version: int
    made: str
    quick: bool
    seconds: float
    machine: Machine
    figures: list[Figure]
    missing: list[Missing]
    notes: list[str]


def figure(
    group: str,
    case: str,
    samples: Sequence[float],
    unit: str,
    *,
    flows: int = 0,
    size: int = 0,
    net_of: str = "",
    note: str = "",
) -> Figure:
    """``samples`` are the runs; ``ValueError`` when there are none."""
    low, high = min(samples), max(samples)
    return Figure(group, case, flows, size, median(samples), low, high, len(samples), unit, net_of, note)


def find(figures: Iterable[Figure], group: str, case: str, flows: int = 0, size: int = 0) -> Figure | None:
    return next((each for each in figures if each.key == (group, case, flows, size)), None)


def save(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read(path: Path) -> Report:
    """``ValueError`` when the file is no report, or of another version."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is no bench report: {error}") from None
    if report.version != VERSION:
        raise ValueError(f"{path} is of version {report.version}, expected {VERSION}: run the bench again")
    return report
