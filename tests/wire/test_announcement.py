# SPDX-License-Identifier: GPL-2.0-or-later
"""The announcement block: layout, round trips, damage."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.errors import WireError
from aa_cluster.wire import announcement as wire
from aa_cluster.wire.announcement import Announcement
from aa_cluster.wire.block import FlowTuple

KEY = bytes(range(16))
CARRIER = FlowTuple(IPv4Address("10.77.2.1"), IPv4Address("10.77.2.100"), 50000, 80)
SESSION = FlowTuple(IPv4Address("10.77.2.1"), IPv4Address("10.77.2.100"), 40000, 80)
EXAMPLE = Announcement(wire.KIND_FLOW, 0x0102, 3, 1, 7, 9, 0x11223344, bytes.fromhex("020000000c01"), wire.OWN, SESSION)


@st.composite
def announcements(draw: st.DrawFn) -> Announcement:
    address = st.ip_addresses(v=draw(st.sampled_from((4, 6))))
    port, number = st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1)
    session = FlowTuple(draw(address), draw(address), draw(port), draw(port), draw(st.integers(0, 255)))
    kind, node = draw(st.sampled_from((2, 3, 4))), draw(st.integers(1, 63))
    next_hop, flags = draw(st.binary(min_size=6, max_size=6)), draw(st.integers(0, 255))
    return Announcement(
        kind,
        draw(port),
        node,
        draw(st.integers(0, 15)),
        draw(number),
        draw(number),
        draw(number),
        next_hop,
        flags,
        session,
    )


def test_layout() -> None:
    assert wire.encode(EXAMPLE, KEY, CARRIER, 1000)[:72].hex() == (
        "0102" "03" "01" "04" "06" "0000" "00000007" "00000009" "11223344" "020000000c01" "01" "00" "9c40" "0050"
        "00000000000000000000ffff0a4d0201" "00000000000000000000ffff0a4d0264" "41414842" "01" "02" "0050"
    )  # fmt: skip


@given(announcements(), st.integers(0, 2**32 - 1))
def test_round_trip(announcement: Announcement, sequence: int) -> None:
    data = wire.encode(announcement, KEY, CARRIER, sequence)
    assert wire.decode(data, KEY, CARRIER, sequence) == announcement


@given(st.integers(0, 79), st.integers(1, 255))
def test_any_changed_byte_is_refused(place: int, change: int) -> None:
    data = bytearray(wire.encode(EXAMPLE, KEY, CARRIER, 1000))
    data[place] ^= change
    with pytest.raises(WireError):
        wire.decode(bytes(data), KEY, CARRIER, 1000)


@pytest.mark.parametrize("length", [0, 79, 81])
def test_another_length(length: int) -> None:
    with pytest.raises(WireError, match=f"{length} bytes, expected 80"):
        wire.decode(bytes(length), KEY, CARRIER)


def test_out_of_range() -> None:
    with pytest.raises(WireError, match="out of range"):
        wire.encode(Announcement(2, 1 << 16, 3, 1, 7, 9, 0, bytes(6), 0, SESSION), KEY, CARRIER)
