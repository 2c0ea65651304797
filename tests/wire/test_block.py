# SPDX-License-Identifier: GPL-2.0-or-later
"""The handoff block: layout, round trips, and that nothing but WireError gets out of damaged bytes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.errors import WireError
from aa_cluster.wire import block as wire
from aa_cluster.wire.block import FlowTuple, HandoffBlock

KEY = bytes(range(16))
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFF_FFFF)


@st.composite
def blocks(draw: st.DrawFn) -> HandoffBlock:
    family = draw(st.sampled_from((4, 6)))
    address = st.ip_addresses(v=family)
    return HandoffBlock(
        cluster_id=draw(U16),
        owner=draw(st.integers(1, 63)),
        ingress_slot=draw(st.integers(0, 255)),
        family=family,
        protocol=draw(st.integers(0, 255)),
        generation=draw(U32),
        epoch=draw(U32),
        connmark=draw(U32),
        mark=draw(U32),
        ct_status=draw(U32),
        source_port=draw(U16),
        destination_port=draw(U16),
        source=draw(address),
        destination=draw(address),
        helper=draw(st.sampled_from((0, *wire.HELPERS))),
    )


@st.composite
def tuples(draw: st.DrawFn) -> FlowTuple:
    address = st.ip_addresses(v=draw(st.sampled_from((4, 6))))
    return FlowTuple(draw(address), draw(address), draw(U16), draw(U16), draw(st.integers(0, 255)))


EXAMPLE = HandoffBlock(
    cluster_id=0x0102,
    owner=3,
    ingress_slot=1,
    family=4,
    protocol=6,
    generation=7,
    epoch=9,
    connmark=0x11223344,
    mark=0x55667788,
    ct_status=0x1A,
    source_port=40000,
    destination_port=80,
    source=IPv4Address("10.77.2.1"),
    destination=IPv4Address("10.77.2.100"),
    helper=1,
)
FLOW = FlowTuple(IPv4Address("10.77.1.100"), IPv4Address("10.77.2.100"), 33000, 80)


def test_layout() -> None:
    data = wire.encode(EXAMPLE, KEY, FLOW, 1000)
    assert data[:72].hex() == (
        "0102" "03" "01" "04" "06" "01" "00" "00000007" "00000009" "11223344" "55667788" "0000001a" "9c40" "0050"
        "00000000000000000000ffff0a4d0201" "00000000000000000000ffff0a4d0264" "41414842" "01" "01" "0050"
    )  # fmt: skip
    assert len(data) == 80


@given(blocks(), tuples(), U32)
def test_round_trip(block: HandoffBlock, flow: FlowTuple, sequence: int) -> None:
    assert wire.decode(wire.encode(block, KEY, flow, sequence), KEY, flow, sequence) == block


@given(blocks(), tuples(), U32, st.integers(0, 639))
def test_any_flipped_bit_is_refused(block: HandoffBlock, flow: FlowTuple, sequence: int, bit: int) -> None:
    data = bytearray(wire.encode(block, KEY, flow, sequence))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        wire.decode(bytes(data), KEY, flow, sequence)


@given(st.binary(max_size=200))
def test_noise_raises_only_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(data, KEY, FLOW, 0)


@given(st.binary(min_size=64, max_size=64))
def test_signed_noise_decodes_or_raises_wire_error(noise: bytes) -> None:
    body = noise + wire.encode(EXAMPLE, KEY, FLOW, 1)[64:72]
    data = body + wire.tag(body, KEY, FLOW, 1)
    try:
        decoded = wire.decode(data, KEY, FLOW, 1)
    except WireError:
        return
    assert wire.encode(decoded, KEY, FLOW, 1) == data


@pytest.mark.parametrize("length", [*range(80), 81])
def test_every_other_length_is_refused(length: int) -> None:
    data = (wire.encode(EXAMPLE, KEY, FLOW, 1) + b"\0")[:length]
    with pytest.raises(WireError, match="expected 80"):
        wire.decode(data, KEY, FLOW, 1)


def test_the_tag_binds_tuple_sequence_and_key() -> None:
    data = wire.encode(EXAMPLE, KEY, FLOW, 1)
    for key, flow, sequence in (
        (KEY, FLOW, 2),
        (KEY, replace(FLOW, source_port=33001), 1),
        (KEY, replace(FLOW, source=IPv6Address("::ffff:10.77.1.100"), destination=IPv6Address("::1")), 1),
        (bytes(16), FLOW, 1),
    ):
        with pytest.raises(WireError, match="tag"):
            wire.decode(data, key, flow, sequence)


def test_a_field_out_of_range_is_refused() -> None:
    with pytest.raises(WireError, match="out of range"):
        wire.encode(replace(EXAMPLE, generation=1 << 32), KEY, FLOW, 1)
    with pytest.raises(WireError, match="out of range"):
        wire.decode(wire.encode(EXAMPLE, KEY, FLOW, 1), KEY, FLOW, 1 << 32)


def test_an_unknown_helper_is_refused() -> None:
    with pytest.raises(WireError, match="helper is 99"):
        wire.decode(wire.encode(replace(EXAMPLE, helper=99), KEY, FLOW, 1), KEY, FLOW, 1)
