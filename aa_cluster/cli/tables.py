# SPDX-License-Identifier: GPL-2.0-or-later
"""How the showing verbs look: tables, colours by state, numbers and ages for people."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {
    "ok": "bold green",
    "pass": "green",
    "active": "green",
    "degraded": "bold yellow",
    "warn": "yellow",
    "joining": "cyan",
    "draining": "yellow",
    "silent": "red",
    "dead": "bold red",
    "down": "bold red",
    "fail": "bold red",
    "left": "dim",
    "idle": "dim",
    "skip": "dim",
}
PIPE_WIDTH = 250
"""Columns when standard output is no terminal: nothing is folded, so that grep finds it."""


def console() -> Console:
    """Standard output; no colours and no folding when it is not a terminal. Nothing in a text is markup or an emoji's
    name: both ``[fd77::1]`` and ``fd77:a::1`` would be."""
    wide = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, width=wide, highlight=False, soft_wrap=False, markup=False, emoji=False)


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A borderless table; ``right`` names the columns of numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def state(word: str) -> Text:
    return Text(word, style=STYLES.get(word, ""))


def duration(seconds: float) -> str:
    """``0.3 s``, ``42 s``, ``3 min 10 s``, ``5 h 2 min``, ``9 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, below, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {below}"
    return f"{whole} s"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
