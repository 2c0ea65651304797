# SPDX-License-Identifier: GPL-2.0-or-later
"""`config`, `slots` and `ports`: what the programs of a node read for each packet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from aa_cluster.dataplane import accounts, decisions, flows
from aa_cluster.dataplane.maps import Map
from aa_cluster.dataplane.replication import FEATURES as REPLICATION
from aa_cluster.dataplane.settings import Port, Settings
from aa_cluster.errors import DataplaneError

PORT_TABLE = 256
"""AA_PORT_TABLE of bpf/include/types.h."""

LONGEST_TIMEOUT_S = 0xFFFFFFFF // 1000
"""conntrack takes milliseconds in 32 bits: 49 days."""

SHARE_HELPERS = 2
"""AA_FEATURE_SHARE_HELPERS of bpf/include/types.h."""


def write(maps: Mapping[str, Map], settings: Settings, heir: int = 0) -> None:
    """All of it; `config` last, in one map write. ``heir``: the node that is about to become primary, 0 for none."""
    _write_ports(maps, settings.ports)
    record = maps["config"].record()
    record["key"] = np.frombuffer(settings.block_key, "<u8")
    record["replica_key"] = np.frombuffer(settings.replica_key, "<u8")
    for name in ("generation", "epoch", "ha_ifindex", "cluster_id"):
        record[name] = getattr(settings, name)
    _fill_timeouts(record["timeout_s"], flows.Timeouts.of_this_namespace())
    record["hash_key"] = np.frombuffer(settings.table_key, "<u8")
    record["bucket_mask"] = maps["buckets"].info.entries - 1
    limit = maps["records"].info.entries - 1
    record["flow_limit"], record["half_open_limit"] = limit, max(1, int(limit * settings.half_open_share))
    record["features"] = _features(settings)
    record["source_key"] = np.frombuffer(decisions.source_key(settings.table_key), "<u8")
    decisions.fill_persistence(record, settings.persistence)
    record["self"], record["primary"] = settings.node_id, settings.primary_id
    record["heir"] = heir
    record["ha_mac"] = list(settings.ha_mac)
    record["primary_ha_mac"] = list(settings.primary_ha_mac)
    maps["config"].put(0, record)


def write_timeouts(maps: Mapping[str, Map], timeouts: Mapping[int, int]) -> None:
    """Seconds by state of a flow."""
    _fill_timeouts(maps["config"].view()["timeout_s"][0], timeouts)


def _write_ports(maps: Mapping[str, Map], ports: Iterable[Port]) -> None:
    check_ports(ports)
    for port in ports:
        record = maps["ports"].record()
        record["ifindex"], record["mtu"], record["slot"] = port.ifindex, port.mtu, port.slot
        record["physical_mac"] = list(port.physical_mac)
        record["virtual_mac"] = list(port.virtual_mac)
        record["solicitor"] = list(port.solicitor)
        maps["slots"].put(port.slot, record)
        maps["ports"].put(port.ifindex % PORT_TABLE, record)


def _fill_timeouts(by_state: np.ndarray, timeouts: Mapping[int, int]) -> None:
    for state, seconds in timeouts.items():
        by_state[state] = min(seconds, LONGEST_TIMEOUT_S)


def _features(settings: Settings) -> int:
    features = SHARE_HELPERS if settings.share_helpers else 0
    if settings.accounting:
        features |= accounts.FEATURE
    if settings.role == "primary":
        features |= REPLICATION[settings.replication]
    return features


def check_ports(ports: Iterable[Port]) -> None:
    """The programs find an interface by the low bits of its ifindex: two that share them are a ``DataplaneError``."""
    seen: dict[int, Port] = {}
    for port in ports:
        other = seen.setdefault(port.ifindex % PORT_TABLE, port)
        if other is not port:
            raise DataplaneError(
                f"interfaces {other.name} ({other.ifindex}) and {port.name} ({port.ifindex}) have numbers that differ "
                f"by a multiple of {PORT_TABLE}",
                f"recreate {port.name} to give it another number",
            )
