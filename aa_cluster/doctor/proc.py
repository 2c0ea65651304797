# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings under /proc; those under /proc/sys/net are of the reader's network namespace."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def text_of(path: Path) -> str | None:
    """What the file holds, ``None`` when there is none."""
    try:
        return path.read_text()
    except OSError:
        return None


def number_of(path: Path) -> int | None:
    """The file's number, ``None`` when there is no file or no number in it."""
    text = text_of(path)
    return int(text) if text is not None and text.strip().isdecimal() else None
