# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of the kernel's neighbour tables, of IPv4 and IPv6."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from aa_cluster.netlink.rtnl import attribute, converse

NUD_NOARP, NUD_PERMANENT = 0x40, 0x80


@dataclass(frozen=True, slots=True)
class Entry:
    """``permanent``: an operator's, which nothing that comes from the wire may change."""

    mac: bytes
    permanent: bool


def put(ifindex: int, address: str, mac: bytes) -> None:
    """Make ``address`` a REACHABLE neighbour with ``mac``, replacing what was there.

    It ages like any other entry: the kernel probes it when it goes stale and drops it when nobody answers.
    """
    converse(
        f"enter neighbour {address}",
        lambda socket: socket.neigh("replace", ifindex=ifindex, dst=address, lladdr=mac.hex(":"), state="reachable"),
    )


def read(ifindex: int) -> dict[str, bytes]:
    """MAC by address, of the entries of one interface that have a MAC."""
    return {address: entry.mac for address, entry in entries(ifindex).items()}


def entries(ifindex: int) -> dict[str, Entry]:
    """By address, the entries of one interface that have a MAC; not those of groups, whose MAC is calculated."""
    listed = converse("list neighbours", lambda socket: list(socket.get_neighbours(ifindex=ifindex)))
    found = {}
    for entry in listed:
        mac = attribute(entry, "NDA_LLADDR")
        if mac and not entry["state"] & NUD_NOARP:
            address = ipaddress.ip_address(attribute(entry, "NDA_DST"))
            packed = bytes.fromhex(mac.replace(":", ""))
            found[str(address)] = Entry(packed, bool(entry["state"] & NUD_PERMANENT))
    return found


def correct(ifindex: int, known: dict[str, bytes]) -> tuple[str, ...]:
    """Give the entries that exist for ``known`` addresses the MACs they have there; the addresses that were wrong.

    Makes no entry, and leaves permanent ones alone.
    """
    there = entries(ifindex)
    wrong = {
        address: mac
        for address, mac in known.items()
        if address in there and not there[address].permanent and there[address].mac != mac
    }
    for address, mac in wrong.items():
        put(ifindex, address, mac)
    return tuple(wrong)
