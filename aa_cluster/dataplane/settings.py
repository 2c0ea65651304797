# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dataplane is told from outside: its place in the cluster, its interfaces, its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aa_cluster.core import persistence
from aa_cluster.dataplane.maps import BINDINGS

MAX_PORTS = 16
"""AA_MAX_PORTS of bpf/include/types.h."""


@dataclass(frozen=True, slots=True)
class Port:
    """One data interface. ``slot`` is its index in the configuration, the same on every node. ``solicitor``: 16 bytes,
    the IPv6 address that this node asks for neighbours from (docs/ndp-relay.md); all zero when it has none there."""

    slot: int
    name: str
    ifindex: int
    physical_mac: bytes
    virtual_mac: bytes
    mtu: int
    solicitor: bytes = bytes(16)


@dataclass(frozen=True, slots=True)
class Member:
    """Where a node is reached: its MAC on the HA link and, by slot, on each data interface.

    ``local``: its flows were taken over, their packets stay on this node.
    """

    id: int
    ha_mac: bytes
    macs: tuple[bytes, ...]
    local: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What the programs are told. ``block_key``: 16 bytes of SipHash key. ``primary_id`` is 0 when unknown.

    ``table_key``: ``flows.HASH_KEY_BYTES`` bytes, the same as long as the pinned table lives.
    """

    role: Literal["primary", "auxiliary"]
    cluster_id: int
    node_id: int
    primary_id: int
    generation: int
    epoch: int
    block_key: bytes
    table_key: bytes
    ports: tuple[Port, ...]
    ha_ifindex: int
    ha_mac: bytes
    primary_ha_mac: bytes
    xdp: Literal["auto", "native", "generic"]
    flow_entries: int
    pins: Path
    cache: Path
    half_open_share: float = 1.0
    """Of the table, for flows whose handshake is not complete."""

    persistence: persistence.Settings | None = None
    bindings: int = BINDINGS
    """Clients that persistence remembers; taken when the maps are made."""

    accounting: bool = False
    """Packets and bytes are counted for each flow."""

    replication: Literal["all", "takeover", "periodic", "off"] = "off"
    """What the other nodes are told of the flow table, and when (docs/replication.md)."""

    replica_key: bytes = bytes(16)
    """SipHash key of replicas and pulses."""

    share_helpers: bool = False
    """Sessions with a conntrack helper are shared too, where the helper has a number on the wire."""
