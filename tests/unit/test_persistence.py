# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistence: what one client is, how long a binding holds, and what it does not survive."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.core.persistence import Bindings, Settings, client, mask
from aa_cluster.dataplane.decisions import client_key, mapped

ADDRESS = st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(2**112, 2**128 - 1).map(IPv6Address)


@given(ADDRESS, st.integers(1, 32), st.integers(1, 128))
def test_the_dataplanes_mask_is_the_prefix(address: IPv4Address | IPv6Address, v4: int, v6: int) -> None:
    settings = Settings(prefix_v4=v4, prefix_v6=v6)
    bits = mask(v4, 32) if address.version == 4 else mask(v6, 128)
    masked = bytes(a & b for a, b in zip(mapped(str(address)), bits, strict=True))
    assert masked == client_key(str(address), settings)


def test_a_client_is_its_prefix() -> None:
    settings = Settings(prefix_v4=24, prefix_v6=64)
    assert client("10.1.2.200", settings) == ip_address("10.1.2.0")
    assert client("2001:db8:0:1:2:3:4:5", settings) == ip_address("2001:db8:0:1::")


def test_a_binding_holds_for_the_idle_time_and_each_session_renews_it() -> None:
    table = Bindings(Settings(idle_s=10))
    assert table.recall("10.0.0.1", 0, {1, 2}) is None
    table.remember("10.0.0.1", 2, 0)
    assert [table.recall("10.0.0.1", now, {1, 2}) for now in (9, 18, 27)] == [2, 2, 2]
    assert table.recall("10.0.0.1", 37, {1, 2}) is None
    assert (table.hits, table.misses) == (3, 2)


def test_a_node_that_cannot_take_it_is_not_used() -> None:
    table = Bindings(Settings())
    table.remember("10.0.0.1", 2, 0)
    assert table.recall("10.0.0.1", 1, {1, 3}) is None
    assert table.recall("10.0.0.1", 2, {1, 2, 3}) == 2
