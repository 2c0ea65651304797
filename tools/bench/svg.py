# SPDX-License-Identifier: GPL-2.0-or-later
"""Two kinds of plot, as SVG text: bars with ranges, lines. Colours that read on white and on dark pages. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a500")
WIDTH = 860
LABELS = 300
"""Room for the bars' names, px."""
BAR, GAP, GROUP_GAP, TOP = 13, 2, 12, 64
LINES_HEIGHT, LEFT, RIGHT, BOTTOM = 420, 64, 270, 56
STYLE = "font-family:system-ui,sans-serif;font-size:12px;fill:#777"


@dataclass(frozen=True, slots=True)
class Value:
    """A median with its range."""

    at: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[tuple[float, float], ...]


def ticks(top: float) -> tuple[float, ...]:
    """Round values from 0 to at least ``top``, four to eight steps."""
    if top <= 0:
        return (0.0, 1.0)
    step = 10.0 ** math.floor(math.log10(top))
    step = next(step / divisor for divisor in (1, 2, 5, 10) if top / (step / divisor) >= 4)
    count = math.ceil(top / step - 1e-9)
    return tuple(round(step * number, 10) for number in range(count + 1))


def bars(title: str, unit: str, series: Sequence[str], rows: Sequence[tuple[str, Sequence[Value | None]]]) -> str:
    """Horizontal bars: for each row one a series; None leaves a gap. Lines over the bars are ranges."""
    top = max((value.high for _, values in rows for value in values if value), default=1.0)
    scale = ticks(top)
    room = WIDTH - LABELS - 80
    block = len(series) * (BAR + GAP) + GROUP_GAP
    height = TOP + len(rows) * block + 30
    out = [_head(WIDTH, height, title, unit), _legend(series)]

    def x(value: float) -> float:
        return LABELS + room * max(0.0, value) / scale[-1]

    for tick in scale:
        out.append(_grid(x(tick), TOP - 6, height - 30))
        out.append(_text(x(tick), height - 14, f"{tick:g}", "middle"))
    for number, (name, values) in enumerate(rows):
        y = TOP + number * block
        out.append(_text(LABELS - 8, y + (block - GROUP_GAP) / 2 + 4, name, "end"))
        for which, value in enumerate(values):
            if value is None:
                continue
            at, colour = y + which * (BAR + GAP), COLOURS[which % len(COLOURS)]
            wide = max(1.0, x(value.at) - LABELS)
            out.append(f'<rect x="{LABELS}" y="{at}" width="{wide:.1f}" height="{BAR}" fill="{colour}"/>')
            middle = at + BAR / 2
            out.append(
                f'<line x1="{x(value.low):.1f}" x2="{x(value.high):.1f}" y1="{middle}" y2="{middle}" stroke="#777"/>'
            )
            out.append(_text(max(x(value.high), LABELS + wide) + 5, at + BAR - 2, f"{value.at:.0f}", "start"))
    return "\n".join([*out, "</svg>\n"])


def lines(title: str, unit: str, across: str, series: Sequence[Line], logarithmic: bool = False) -> str:
    """Lines over a common axis; ``logarithmic`` is about the horizontal one."""
    points = [point for line in series for point in line.points]
    scale = ticks(max((y for _, y in points), default=1.0))
    places = sorted({x for x, _ in points}) or [0.0]
    width, tall = WIDTH - LEFT - RIGHT, LINES_HEIGHT - TOP - BOTTOM

    def warp(value: float) -> float:
        return math.log(value) if logarithmic else value

    span = warp(places[-1]) - warp(places[0]) or 1.0

    def spot(point: tuple[float, float]) -> tuple[float, float]:
        return (
            LEFT + width * (warp(point[0]) - warp(places[0])) / span,
            TOP + tall * (1 - point[1] / scale[-1]),
        )

    out = [_head(WIDTH, LINES_HEIGHT, title, unit)]
    for tick in scale:
        y = spot((places[0], tick))[1]
        out.append(f'<line x1="{LEFT}" x2="{LEFT + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#777" opacity=".25"/>')
        out.append(_text(LEFT - 8, y + 4, f"{tick:g}", "end"))
    for place in places:
        out.append(_text(spot((place, 0))[0], LINES_HEIGHT - BOTTOM + 18, short(place), "middle"))
    out.append(_text(LEFT + width / 2, LINES_HEIGHT - 12, across, "middle"))
    for number, line in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        spots = [spot(point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.extend(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots)
        y = TOP + 18 * number
        out.append(f'<rect x="{WIDTH - RIGHT + 24}" y="{y}" width="12" height="12" fill="{colour}"/>')
        out.append(_text(WIDTH - RIGHT + 42, y + 10, line.name, "start"))
    return "\n".join([*out, "</svg>\n"])


def short(count: float) -> str:
    """4096 → 4k, 1048576 → 1M; others as they are."""
    whole = int(count)
    for step, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if whole >= step and whole % step == 0:
            return f"{whole // step}{letter}"
    return f"{count:g}"


def _head(width: int, height: int, title: str, unit: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'style="{STYLE}">\n{_text(12, 22, title, "start", 15)}\n{_text(12, 40, unit, "start")}'
    )


def _legend(series: Sequence[str]) -> str:
    out = []
    x = LABELS
    for number, name in enumerate(series):
        out.append(f'<rect x="{x}" y="31" width="12" height="12" fill="{COLOURS[number % len(COLOURS)]}"/>')
        out.append(_text(x + 17, 41, name, "start"))
        x += 40 + 7 * len(name)
    return "\n".join(out)


def _grid(x: float, top: float, bottom: float) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="#777" opacity=".25"/>'


def _text(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
