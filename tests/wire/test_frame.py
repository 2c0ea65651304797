# SPDX-License-Identifier: GPL-2.0-or-later
"""A frame with a SYN and a block: what is read out of it, and its TCP checksum."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from aa_cluster.errors import WireError
from aa_cluster.wire import frame as wire
from aa_cluster.wire.block import encode
from tests.wire.test_block import EXAMPLE, FLOW, KEY

BLOCK = encode(EXAMPLE, KEY, FLOW, 1000)
PAYLOADS = st.binary(max_size=200)


def syn(payload: bytes = b"", trailer: bytes = b"", options: bool = True) -> bytes:
    segment = TCP(sport=FLOW.source_port, dport=FLOW.destination_port, seq=1000, flags="S")
    if options:
        segment.options = [("MSS", 1460), ("NOP", None), ("WScale", 7)]
    ip = IP(src=str(FLOW.source), dst=str(FLOW.destination))
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ip / segment / (payload + BLOCK)) + trailer


def checksum(frame: bytes) -> int:
    return int(struct.unpack_from("!H", frame, 14 + 20 + 16)[0])


@given(PAYLOADS, st.binary(max_size=8), st.booleans())
def test_read(payload: bytes, trailer: bytes, options: bool) -> None:
    found = wire.parse(syn(payload, trailer, options))
    assert (found.flow, found.sequence, found.block) == (FLOW, 1000, BLOCK)


@given(PAYLOADS)
def test_a_checksum_left_to_the_device_is_finished(payload: bytes) -> None:
    whole = syn(payload)
    packet = Ether(whole)
    pseudo = packet[IP].src, packet[IP].dst, len(bytes(packet[TCP]))
    words = [int(part) for address in pseudo[:2] for part in address.split(".")]
    total = sum(a << 8 | b for a, b in zip(words[::2], words[1::2], strict=True)) + 6 + pseudo[2]
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    partial = bytearray(whole)
    struct.pack_into("!H", partial, 50, total)
    assert checksum(wire.with_whole_checksum(bytes(partial))) == checksum(whole)


@given(PAYLOADS, st.integers(0, 0xFFFF))
def test_one_that_is_whole_or_wrong_stays(payload: bytes, wrong: int) -> None:
    frame = bytearray(syn(payload))
    assert wire.with_whole_checksum(bytes(frame)) == bytes(frame)
    struct.pack_into("!H", frame, 50, wrong)
    assert checksum(wire.with_whole_checksum(bytes(frame))) in (wrong, checksum(syn(payload)))


@given(st.binary(max_size=200), st.integers(0, 400))
def test_noise_raises_only_wire_error(noise: bytes, length: int) -> None:
    for frame in (noise, syn()[:length], syn()[:20] + noise):
        try:
            wire.parse(frame)
            wire.with_whole_checksum(frame)
        except WireError:
            continue


@pytest.mark.parametrize("cut", [0, 13, 33, 60, 133])
def test_cut_short(cut: int) -> None:
    with pytest.raises(WireError):
        wire.parse(syn()[:cut])
