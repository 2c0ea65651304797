# SPDX-License-Identifier: GPL-2.0-or-later
"""ARP frames and netlink messages taken apart; whatever is damaged says nothing."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.netlink import traffic
from aa_cluster.netlink.announce import announcement
from aa_cluster.netlink.neighbour_watch import Sighting, arp_sender, table_changes

MAC = bytes.fromhex("020000000264")
ANNOUNCED = announcement(MAC, ipaddress.IPv4Address("10.77.2.100"))


def message(kind: int = 28, family: int = 2, ifindex: int = 3, state: int = 2, **changed: bytes) -> bytes:
    attributes = b""
    for number, value in ((1, changed.get("dst", bytes((10, 77, 2, 100)))), (2, changed.get("mac", MAC))):
        length = 4 + len(value)
        attributes += struct.pack("=HH", length, number) + value + bytes(-length % 4)
    body = struct.pack("=BBHiHBB", family, 0, 0, ifindex, state, 0, 1) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_an_announcement() -> None:
    assert arp_sender(ANNOUNCED) == ("10.77.2.100", MAC)
    assert arp_sender(ANNOUNCED + bytes(18)) == ("10.77.2.100", MAC), "with Ethernet's padding"


def changed(offset: int, value: bytes) -> bytes:
    frame = bytearray(ANNOUNCED)
    frame[offset : offset + len(value)] = value
    return bytes(frame)


@pytest.mark.parametrize(
    "frame",
    [
        ANNOUNCED[:41],
        changed(12, b"\x08\x00"),
        changed(20, b"\x00\xc9"),
        changed(6, b"\x02\x00\x00\x00\x02\x65"),
        changed(28, bytes(4)),
        changed(28, bytes((224, 0, 0, 1))),
        changed(28, bytes((127, 0, 0, 1))),
        changed(6, bytes(6))[:22] + bytes(6) + ANNOUNCED[28:],
        changed(18, b"\x08"),
    ],
    ids=["short", "not ARP", "relay", "other source", "probe", "multicast", "loopback", "no MAC", "other hardware"],
)
def test_frames_that_say_nothing(frame: bytes) -> None:
    assert arp_sender(frame) is None


def test_the_kernels_messages() -> None:
    seen = Sighting(3, "10.77.2.100", MAC)
    assert table_changes(message()) == [seen]
    assert table_changes(message() + message(ifindex=4)) == [seen, Sighting(4, "10.77.2.100", MAC)]


@pytest.mark.parametrize(
    "data",
    [
        message(kind=29),
        message(family=10, dst=bytes(16)),
        message(state=0x20),
        message(state=0x80),
        message(mac=b""),
        message(mac=bytes(6)),
        message(dst=bytes(3)),
        message()[:20],
    ],
    ids=["deleted", "IPv6", "failed", "permanent", "no MAC", "zero MAC", "short", "cut"],
)
def test_messages_that_say_nothing(data: bytes) -> None:
    assert table_changes(data) == []


@given(st.binary(max_size=200), st.integers(0, 60), st.binary(max_size=8))
def test_whatever_comes(data: bytes, at: int, garbage: bytes) -> None:
    arp_sender(data)
    table_changes(data)
    table_changes(message()[:at] + garbage + message()[at + len(garbage) :])


def test_traffic_of_interfaces(tmp_path) -> None:
    text = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0
   int: 1000       10    0    0    0     0          0         0        7       1    0    0    0
   ext:  500        5    0    0    0     0          0         0        7       1    0    0    0
"""
    path = tmp_path / "dev"
    path.write_text(text)
    assert traffic.received(("int", "ext", "gone"), path) == traffic.Received(15, 1500)
    assert traffic.received(("int",)).packets == 0
