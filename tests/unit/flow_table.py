# SPDX-License-Identifier: GPL-2.0-or-later
"""A flow table in this process's memory, for what looks at its columns."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

SIDE = [("saddr", "u1", 16), ("daddr", "u1", 16), ("sport", "<u2"), ("dport", "<u2")]
SIDE += [("protocol", "u1"), ("family", "u1"), ("zero", "<u2")]
RECORD = np.dtype(
    [
        *((f"{end}_{name}", *kind) for end in ("original", "reply") for name, *kind in SIDE),
        ("created_ns", "<u8"),
        ("seen_ns", "<u8"),
        ("place", "<u4", 2),
        ("mark", "<u4"),
        *((name, "u1") for name in ("owner", "state", "ended", "slot")),
        ("held_ns", "<u8"),
        ("position", "<u8"),
    ]
)


@dataclass
class Table:
    """Stands for the two maps: ``records``, by number, and the ``highest`` number ever given out."""

    rows: np.ndarray
    highest: int

    @property
    def entries(self) -> int:
        return len(self.rows)

    @property
    def info(self) -> SimpleNamespace:
        return SimpleNamespace(entries=len(self.rows))

    def view(self) -> np.ndarray:
        return self.rows

    def get(self, key: int) -> int:
        assert key == 0
        return self.highest

    def copy(self) -> Table:
        return Table(self.rows.copy(), self.highest)
