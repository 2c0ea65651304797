# SPDX-License-Identifier: GPL-2.0-or-later
"""Which node a client had (docs/scheduling.md): bindings of client prefixes to nodes, each good for an idle time.

A session's owner is asked here first; only a client without a good binding takes a turn of the schedule. The dataplane
(bpf/include/persist.h) does the same with an LRU map; this is what its tests compare it with.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


@dataclass(frozen=True, slots=True)
class Settings:
    """``idle_s`` counts from the begin of the client's last session. Prefix lengths say what one client is."""

    idle_s: float = 300
    prefix_v4: int = 32
    prefix_v6: int = 128


def client(address: str | IPv4Address | IPv6Address, settings: Settings) -> IPv4Address | IPv6Address:
    """The first address of the client's prefix."""
    parsed = ip_address(address)
    length = settings.prefix_v4 if parsed.version == 4 else settings.prefix_v6
    return ip_network((parsed, length), strict=False).network_address


def mask(length: int, bits: int) -> bytes:
    """A prefix length as a mask over a 16-byte address; that of IPv4 (``bits`` 32) over the v4-mapped form."""
    whole = (1 << 128) - (1 << (bits - length))
    return whole.to_bytes(16, "big")


@dataclass(slots=True)
class Bindings:
    """The oracle. Times are seconds of any monotonic clock; the caller reads it."""

    settings: Settings
    nodes: dict[IPv4Address | IPv6Address, tuple[int, float]] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0

    def recall(self, address: str, now: float, usable: Collection[int]) -> int | None:
        """The client's node, which it keeps for another idle time; None: one has to be chosen."""
        key = client(address, self.settings)
        node, seen = self.nodes.get(key, (0, now))
        if node in usable and now < seen + self.settings.idle_s:
            self.nodes[key] = node, now
            self.hits += 1
            return node
        self.misses += 1
        return None

    def remember(self, address: str, node: int, now: float) -> None:
        self.nodes[client(address, self.settings)] = node, now
