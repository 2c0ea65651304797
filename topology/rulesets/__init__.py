# SPDX-License-Identifier: GPL-2.0-or-later
"""The rulesets that come with the lab, by name: nftables files beside this module."""

from __future__ import annotations

from pathlib import Path

from aa_cluster.errors import LabError

HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in HERE.glob("*.nft")))


def text(name: str) -> str:
    """The ruleset of that name; ``LabError`` naming those there are."""
    if name not in names():
        raise LabError(f"no ruleset {name!r} comes with the lab", f"there are {', '.join(names())}")
    return (HERE / f"{name}.nft").read_text()
