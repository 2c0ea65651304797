# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians, ranges, templates and the growth model of the bench."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6  # noqa: F401  # so that Ether knows it
from scapy.layers.l2 import Ether

from tools.bench import flowtable, frames, model, results, session, stats
from tools.bench.__main__ import WEIGHTS, share_of

SAMPLES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@pytest.mark.parametrize(("samples", "middle"), [([3], 3), ([1, 9, 2], 2), ([4, 1, 3, 2], 2.5)])
def test_median(samples: list[float], middle: float) -> None:
    assert stats.median(samples) == middle


@given(SAMPLES, st.floats(0, 1))
def test_quantile_is_a_sample_that_covers_its_share(samples: list[float], share: float) -> None:
    found = stats.quantile(samples, share)
    assert found in samples
    assert sum(each <= found for each in samples) >= share * len(samples) - 1e-9


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="no samples"):
        stats.median([])
    with pytest.raises(ValueError, match="no samples"):
        stats.quantile([], 0.5)
    with pytest.raises(ValueError, match="0 to 1"):
        stats.quantile([1], 1.5)


def test_a_figure_is_the_median_and_the_range() -> None:
    made = results.figure("packet", "steer: hit", [30, 25, 27], "ns", flows=4096)
    assert (made.value, made.low, made.high, made.runs) == (27, 25, 30, 3)
    assert results.find([made], "packet", "steer: hit", 4096) is made
    assert results.find([made], "packet", "steer: hit", 1) is None


def _checksum(data: bytes) -> int:
    """RFC 1071 as it is written there: big-endian words."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _finish(template: frames.Template, source: bytes, destination: bytes, sport: bytes, dport: bytes) -> bytes:
    """What bpf/bench/traffic.h does with a template."""
    kind, frame = template.kind, bytearray(template.frame)
    last = (26, 30) if kind.family == 4 else (34, 50)
    transport = frames.ETHERNET + kind.network
    for at, value in ((last[0], source), (last[1], destination), (transport, sport), (transport + 2, dport)):
        frame[at : at + len(value)] = value
    addresses = frames.words_sum(source + destination)
    sums = [
        (transport + (16 if kind.protocol == 6 else 6), template.tcp_sum + addresses + frames.words_sum(sport + dport))
    ]
    if kind.family == 4:
        sums.append((24, template.ip_sum + addresses))
    for at, total in sums:
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("<H", frame, at, ~total & 0xFFFF)
    return bytes(frame)


@pytest.mark.parametrize("kind", frames.KINDS, ids=str)
@given(st.binary(max_size=6), st.binary(min_size=12, max_size=12), st.sampled_from((0, 60, 61, 81, 1514)))
def test_checksums_of_a_filled_template_are_right(kind: frames.Kind, payload: bytes, ends: bytes, length: int) -> None:
    macs = b"\1" * 6, b"\2" * 6
    given_ = {"payload": payload, "length": length, "kind": kind}
    make = frames.tcp if kind.protocol == 6 else frames.udp
    template = make(*macs, frames.Shape.ORIGINAL, **given_)
    frame = _finish(template, ends[:4], ends[4:8], ends[8:10], ends[10:12])
    ip = frame[14 : 14 + kind.network]
    if kind.family == 4:
        assert _checksum(ip) == 0
        total = struct.unpack_from("!H", ip, 2)[0]
        both = ip[12:20]
    else:
        total = 40 + struct.unpack_from("!H", ip, 4)[0]
        both = ip[8:40]
        assert (both[:12], both[16:28]) == (frames.PREFIX, frames.PREFIX)
    segment = frame[14 + kind.network : 14 + total]
    if kind.protocol == 17:
        assert struct.unpack_from("!H", segment, 4)[0] == len(segment)
    assert _checksum(both + struct.pack("!xBH", kind.protocol, len(segment)) + segment) == 0
    assert len(frame) == template.length == max(kind.smallest, length)


@pytest.mark.parametrize("kind", frames.KINDS, ids=str)
def test_a_block_is_inside_all_lengths(kind: frames.Kind) -> None:
    """As scapy reads it: behind the headers, and nothing behind it."""
    block = bytes(range(frames.BLOCK))
    first = (frames.tcp if kind.protocol == 6 else frames.udp)(bytes(6), bytes(6), frames.Shape.BLOCK, kind=kind)
    made = frames.with_block(first, block)
    assert made.frame[kind.block_at :] == block
    assert kind.block_at % 8 == 0
    sent = made.frame[: kind.headers] + block
    assert len(sent) == made.length
    packet = Ether(sent)
    assert bytes(packet[TCP if kind.protocol == 6 else UDP].payload) == block
    network = packet.payload
    assert len(bytes(network)) == (network.len if kind.family == 4 else network.plen + 40) == made.length - 14
    if kind.protocol == 17:
        assert packet[UDP].len == 8 + frames.BLOCK


def test_no_two_flows_share_port_and_server() -> None:
    many = flowtable.columns(np.arange(1 << 20, dtype=np.uint32), 0)
    assert len(np.unique(many.server.astype("<u8") << np.uint64(16) | many.port)) == 1 << 20
    one = flowtable.columns(np.array([32769], dtype=np.uint32), 0)
    assert (IPv4Address(int(one.client[0])), IPv4Address(int(one.server[0])), int(one.port[0])) == (
        IPv4Address("10.1.128.1"),
        IPv4Address("10.2.0.2"),
        1025,
    )


FREE_STEERING = model.Costs(alone=1000, feeding=1e-9, owning=1000, keeping=1000)
COSTLY = model.Costs(alone=1000, feeding=100, owning=1100, keeping=1050)


def test_one_node_is_one_gateway() -> None:
    assert model.throughput(COSTLY, 1) == pytest.approx(1e6)
    assert model.efficiency(COSTLY, 1) == pytest.approx(1)


@pytest.mark.parametrize("nodes", [2, 5, 8])
def test_free_steering_grows_with_the_nodes(nodes: int) -> None:
    assert model.efficiency(FREE_STEERING, nodes) == pytest.approx(1)


def test_a_primary_that_only_steers_is_the_limit() -> None:
    assert model.throughput(COSTLY, 63) == pytest.approx(1e9 / COSTLY.feeding)
    assert [model.efficiency(COSTLY, nodes) for nodes in range(2, 20)] == sorted(
        (model.efficiency(COSTLY, nodes) for nodes in range(2, 20)), reverse=True
    )


def test_a_case_has_its_part_of_the_time_and_no_more() -> None:
    now = [0.0]
    run = session.Run(deadline=100.0, clock=lambda: now[0], say=lambda _: None, cache=Path(), cpu=0)
    run.pace(4)
    taken = 0
    for _ in run.turns():
        taken += 1
        now[0] += 10.0
    assert (taken, run.dropped) == (3, 4)
    now[0] = 200.0
    run.pace(1)
    assert list(run.turns()) == [0]


def test_time_that_a_group_leaves_goes_to_those_after_it() -> None:
    names = list(WEIGHTS)
    assert share_of(0, 900, names) < 900
    assert share_of(500, 900, names[-1:]) == 900
    assert share_of(1000, 900, names) == 1000
