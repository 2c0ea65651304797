# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians and ranges. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def median(samples: Sequence[float]) -> float:
    """The middle one, or the mean of the two middle ones; ``ValueError`` when there are none."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples, expected at least one")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least ``share`` of all do not exceed (nearest rank); ``share`` in 0…1."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples, expected at least one")
    if not 0 <= share <= 1:
        raise ValueError(f"quantile {share}, expected 0 to 1")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def net(samples: Sequence[float], base: Sequence[float]) -> tuple[float, ...]:
    """Each sample less the median of the base measured in the same run; never below 0, which would be noise."""
    floor = median(base)
    return tuple(max(0.0, sample - floor) for sample in samples)
