# SPDX-License-Identifier: GPL-2.0-or-later
"""Do all nodes hold the same flow table? Compares their records field by field, straight out of the maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aa_cluster.dataplane.flows import DEAD, ESTABLISHED, SYN_SENT
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.pinned import maps_of

FIELDS = (
    *(f"{end}_{name}" for end in ("original", "reply") for name in ("saddr", "daddr", "sport", "dport", "protocol")),
    *("original_family", "reply_family", "mark", "owner", "state", "ended", "slot"),
)
"""What does not differ by time or place."""


def table(lab: Lab, node: str) -> np.ndarray:
    """A copy of the node's records by number from 1, those not in use with all zero."""
    with maps_of(lab, node) as maps:
        highest = int(maps["watermark"].get(0))  # type: ignore[arg-type]
        rows = maps["records"].view()[1 : highest + 1].copy()
    rows[(rows["state"] == 0) | (rows["state"] == DEAD)] = np.zeros((), rows.dtype)
    rows["state"][(rows["state"] != 0) & (rows["state"] < ESTABLISHED)] = SYN_SENT
    return rows


def entries(lab: Lab, node: str) -> int:
    """In the node's buckets: two for each flow."""
    with maps_of(lab, node) as maps:
        return int(np.count_nonzero(maps["buckets"].view()["word"]))


def differences(lab: Lab, nodes: Sequence[str]) -> list[str]:
    """One line for each field of each record in which a node differs from the first one; empty: all are equal."""
    first = table(lab, nodes[0])
    out = [_entries(lab, node) for node in nodes]
    for node in nodes[1:]:
        other = table(lab, node)
        size = max(len(first), len(other))
        a, b = (np.concatenate((rows, np.zeros(size - len(rows), rows.dtype))) for rows in (first, other))
        for name in FIELDS:
            wrong = np.flatnonzero((a[name] != b[name]).reshape(size, -1).any(axis=1))
            out += [f"{node}: record {number + 1}: {name} {b[name][number]} not {a[name][number]}" for number in wrong]
    return [line for line in out if line]


def _entries(lab: Lab, node: str) -> str:
    wanted = 2 * int(np.count_nonzero(table(lab, node)["state"]))
    found = entries(lab, node)
    return "" if found == wanted else f"{node}: {found} entries, {wanted} wanted"
