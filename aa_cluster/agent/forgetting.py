# SPDX-License-Identifier: GPL-2.0-or-later
"""An auxiliary whose flows the primary has taken over lets go of their conntrack entries.

They would outlive the sessions by days, and a later session that gets one of their tuples could not be adopted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from aa_cluster.dataplane.decisions import mapped
from aa_cluster.netlink import ct_bulk

if TYPE_CHECKING:
    from aa_cluster.agent.survey import Survey

GRACE_SECONDS = 0.3
"""Packets that were on their way to this node when the primary's switch was made have been through it by then."""


async def forget(survey: Survey) -> int:
    """How many entries went: of sessions that begin and end elsewhere, and that are there already now."""
    addresses = [text.partition("/")[0] for link in (*survey.data, survey.ha) for text in link.addresses]
    known = await asyncio.to_thread(ct_bulk.read)
    await asyncio.sleep(GRACE_SECONDS)
    return (await asyncio.to_thread(ct_bulk.delete, forwarded(known, addresses))).done


def forwarded(rows: np.ndarray, addresses: Iterable[str]) -> np.ndarray:
    """Those in which no end is one of these addresses, or one that nobody forwards to (loopback, multicast, …)."""
    own = np.frombuffer(b"".join(map(mapped, addresses)), "V16")
    foreign = np.ones(len(rows), bool)
    for name in ("saddr", "reply_saddr"):
        end = np.ascontiguousarray(rows[name])
        foreign &= ~np.isin(end.view("V16").reshape(-1), own) & ~_stays_here(end, rows["family"] == 4)
    chosen: np.ndarray = rows[foreign]
    return chosen


def _stays_here(address: np.ndarray, is_ipv4: np.ndarray) -> np.ndarray:
    """127/8 and 224/3 (RFC 1122, 3.2.1.3; RFC 1112), ::1, fe80::/10 and ff00::/8 (RFC 4291, 2.4)."""
    first = address[:, 12]
    loopback = ~address[:, :15].any(axis=1) & (address[:, 15] == 1)
    link_local = (address[:, 0] == 0xFE) & (address[:, 1] & 0xC0 == 0x80)
    six = loopback | link_local | (address[:, 0] == 0xFF)
    out: np.ndarray = np.where(is_ipv4, (first == 127) | (first >= 224), six)
    return out
