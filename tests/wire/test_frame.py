# SPDX-License-Identifier: GPL-2.0-or-later
"""A frame with a SYN and a block: what is read out of it, and its TCP checksum."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from aa_cluster.errors import WireError
from aa_cluster.wire import frame as wire
from aa_cluster.wire.block import FlowTuple, encode
from tests.wire.test_block import EXAMPLE, FLOW, KEY

BLOCK = encode(EXAMPLE, KEY, FLOW, 1000)
PAYLOADS = st.binary(max_size=200)


def syn(payload: bytes = b"", trailer: bytes = b"", options: bool = True) -> bytes:
    segment = TCP(sport=FLOW.source_port, dport=FLOW.destination_port, seq=1000, flags="S")
    if options:
        segment.options = [("MSS", 1460), ("NOP", None), ("WScale", 7)]
    ip = IP(src=str(FLOW.source), dst=str(FLOW.destination))
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ip / segment / (payload + BLOCK)) + trailer


FLOWS = {4: FLOW, 6: FlowTuple(IPv6Address("fd77:1::100"), IPv6Address("fd77:2::100"), 33000, 80)}


def first(version: int, payload: bytes, protocol: int = 6, **changes: int) -> Ether:
    """A SYN or a datagram, block behind the payload."""
    flow = FLOWS[version]
    header = (IP if version == 4 else IPv6)(src=str(flow.source), dst=str(flow.destination))
    ports = {"sport": flow.source_port, "dport": flow.destination_port}
    body = TCP(seq=1000, flags="S", **ports, **changes) if protocol == 6 else UDP(**ports, **changes)
    return Ether(bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / header / body / (payload + BLOCK)))


def pseudo_sum(packet: Ether) -> int:
    """What a sender leaves in the field for the device: the pseudo-header's sum, not inverted."""
    header = packet.payload
    length, protocol = len(bytes(header.payload)), header.proto if header.version == 4 else header.nh
    source, destination = (
        bytes(IP(dst=one))[16:20] if header.version == 4 else bytes(IPv6(dst=one))[24:40]
        for one in (header.src, header.dst)
    )
    data = source + destination + struct.pack("!HH", length, protocol)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("version", FLOWS)
@pytest.mark.parametrize("payload", [b"", b"x", b"data!"], ids=len)
def test_both_families(version: int, payload: bytes) -> None:
    packet = first(version, payload)
    found = wire.parse(bytes(packet))
    assert (found.flow, found.sequence, found.block) == (FLOWS[version], 1000, BLOCK)
    assert wire.with_whole_checksum(bytes(packet)) == bytes(packet)
    partial = first(version, payload, chksum=pseudo_sum(packet))
    assert wire.with_whole_checksum(bytes(partial)) == bytes(packet)


@pytest.mark.parametrize("version", FLOWS)
def test_no_datagram_has_a_shared_helper(version: int) -> None:
    with pytest.raises(WireError):
        wire.parse(bytes(first(version, b"", protocol=17)))


@pytest.mark.parametrize("next_header", [0, 43, 44, 60, 58])
def test_an_extension_header_is_not_walked(next_header: int) -> None:
    frame = bytearray(bytes(first(6, b"")))
    frame[20] = next_header
    with pytest.raises(WireError):
        wire.parse(bytes(frame))


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
    six = bytes(first(6, b""))
    for frame in (noise, syn()[:length], syn()[:20] + noise, six[:length], six[:20] + noise):
        try:
            wire.parse(frame)
            wire.with_whole_checksum(frame)
        except WireError:
            continue


@pytest.mark.parametrize("cut", [0, 13, 33, 60, 133])
def test_cut_short(cut: int) -> None:
    with pytest.raises(WireError):
        wire.parse(syn()[:cut])
