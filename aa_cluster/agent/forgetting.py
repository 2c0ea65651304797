# SPDX-License-Identifier: GPL-2.0-or-later
"""An auxiliary whose flows the primary has taken over lets go of their conntrack entries.

They would outlive the sessions by days, and a later session that gets one of their tuples could not be adopted.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import numpy as np

from aa_cluster.netlink import ct_bulk

if TYPE_CHECKING:
    from aa_cluster.agent.survey import Survey

GRACE_SECONDS = 0.3
"""Packets that were on their way to this node when the primary's switch was made have been through it by then."""


async def forget(survey: Survey) -> int:
    """How many entries went: of TCP sessions that begin and end elsewhere, and that are there already now."""
    addresses = [text.partition("/")[0] for link in (*survey.data, survey.ha) for text in link.addresses]
    known = await asyncio.to_thread(ct_bulk.read)
    await asyncio.sleep(GRACE_SECONDS)
    return (await asyncio.to_thread(ct_bulk.delete, forwarded(known, addresses))).done


def forwarded(rows: np.ndarray, addresses: Iterable[str]) -> np.ndarray:
    """Those of TCP in which none of these addresses (IPv4; others are passed over) is an end."""
    own = np.array([int(IPv4Address(one)) for one in addresses if ":" not in one], ">u4")
    foreign = rows["protocol"] == socket.IPPROTO_TCP
    for name in ("saddr", "reply_saddr"):
        end = np.ascontiguousarray(rows[name][:, 12:]).view(">u4").reshape(-1)
        foreign &= ~np.isin(end, own) & (end >> np.uint32(24) != 127)
    chosen: np.ndarray = rows[foreign]
    return chosen
