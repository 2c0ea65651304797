# SPDX-License-Identifier: GPL-2.0-or-later
"""Two reports side by side: ``python -m tools.bench compare OLD.json NEW.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from tools.bench.results import Figure, Report
from tools.bench.svg import short
from tools.bench.tables import cell

Verdict = Literal["lower", "higher", "same", "gone", "added"]


@dataclass(frozen=True, slots=True)
class Difference:
    """``change``: relative, 0.1 is 10 % more; None where one side is missing or zero.

    Lower and higher are said only where the ranges do not overlap.
    """

    old: Figure | None
    new: Figure | None
    change: float | None
    verdict: Verdict


def compare(old: Report, new: Report) -> tuple[Difference, ...]:
    """Every figure of either, in the order of the new one, what is gone last."""
    before = {each.key: each for each in old.figures}
    after = {each.key for each in new.figures}
    out = [_difference(before.get(each.key), each) for each in new.figures]
    return (*out, *(Difference(each, None, None, "gone") for each in old.figures if each.key not in after))


def _difference(old: Figure | None, new: Figure) -> Difference:
    if old is None:
        return Difference(None, new, None, "added")
    change = (new.value - old.value) / old.value if old.value else None
    if new.high < old.low:
        return Difference(old, new, change, "lower")
    if new.low > old.high:
        return Difference(old, new, change, "higher")
    return Difference(old, new, change, "same")


def show(old: Report, new: Report, console: Console) -> None:
    if old.machine != new.machine:
        console.print("The machines differ: compare ratios within a run, not the figures.")
    table = Table("case", "unit", "old", "new", "change", "")
    for each in compare(old, new):
        known = each.new or each.old
        if known is None:
            continue
        where = f" ({short(known.flows)} flows)" if known.flows else ""
        size = f", {known.size} bytes" if known.size else ""
        change = "" if each.change is None else f"{each.change:+.1%}"
        old_text, new_text = (cell(side) if side else "–" for side in (each.old, each.new))
        table.add_row(f"{known.group}: {known.case}{where}{size}", known.unit, old_text, new_text, change, each.verdict)
    console.print(table)
