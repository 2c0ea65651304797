# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of the kernel's neighbour table."""

from __future__ import annotations

from aa_cluster.netlink.rtnl import attribute, converse


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
    entries = converse("list neighbours", lambda socket: list(socket.get_neighbours(ifindex=ifindex)))
    found = {}
    for entry in entries:
        mac = attribute(entry, "NDA_LLADDR")
        if mac:
            found[str(attribute(entry, "NDA_DST"))] = bytes.fromhex(mac.replace(":", ""))
    return found
