# SPDX-License-Identifier: GPL-2.0-or-later
"""ARP and NDP frames and netlink messages taken apart; whatever is damaged says nothing."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from aa_cluster.netlink import ndp, traffic
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


HOST6 = "fd77:2::100"
ASKS = ICMPv6ND_NS(tgt="fd77:2::1") / ICMPv6NDOptSrcLLAddr(lladdr=MAC.hex(":"))
SAYS = ICMPv6NDOptDstLLAddr(lladdr=MAC.hex(":"))


def heard(body: Packet, source: str = HOST6, to: str = "ff02::1", mac: bytes = MAC, **ip: int) -> bytes:
    return bytes(
        Ether(src=mac.hex(":"), dst="33:33:00:00:00:01") / IPv6(**{"src": source, "dst": to, "hlim": 255} | ip) / body
    )


@pytest.mark.parametrize(
    "frame",
    [
        heard(ASKS),
        heard(ICMPv6ND_NA(tgt=HOST6, S=0) / SAYS),
        heard(ICMPv6ND_NA(tgt=HOST6, R=0, S=1) / ICMPv6NDOptMTU() / SAYS, "fe80::5", "fd77:2::1"),
        heard(ASKS) + bytes(18),
    ],
    ids=["asks", "announces itself", "answers", "with Ethernet's padding"],
)
def test_neighbours_over_ipv6(frame: bytes) -> None:
    assert ndp.sender(frame) == (HOST6, MAC)


def damaged(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes((frame[at] ^ 0x40,)) + frame[at + 1 :]


@pytest.mark.parametrize(
    "frame",
    [
        heard(ASKS, "::"),
        heard(ICMPv6ND_NS(tgt="fd77:2::1")),
        heard(ICMPv6ND_NA(tgt=HOST6, O=0) / SAYS),
        heard(ICMPv6ND_NA(tgt=HOST6) / SAYS, mac=MAC[:5] + b"x"),
        heard(ICMPv6ND_NA(tgt=HOST6) / SAYS, hlim=254),
        heard(ICMPv6ND_NA(tgt=HOST6, code=1) / SAYS),
        heard(ICMPv6ND_NA(tgt="ff02::5") / SAYS),
        heard(ICMPv6ND_NA(tgt="::1") / SAYS),
        heard(ICMPv6ND_RA() / ICMPv6NDOptSrcLLAddr(lladdr=MAC.hex(":"))),
        heard(ICMPv6ND_NA(tgt=HOST6) / ICMPv6NDOptMTU(len=0) / SAYS),
        damaged(heard(ASKS), 80),
        damaged(heard(ASKS), 30),
        heard(ASKS)[:85],
        heard(ASKS)[:77],
        heard(ASKS, plen=23),
    ],
    ids=[
        "duplicate address detection",
        "no MAC told",
        "not to replace what is known",
        "other source",
        "from behind a router",
        "a code",
        "multicast",
        "loopback",
        "router advertisement",
        "option of length 0",
        "MAC damaged",
        "address damaged",
        "cut in the option",
        "cut in the target",
        "too short to be one",
    ],
)
def test_ndp_that_says_nothing(frame: bytes) -> None:
    assert ndp.sender(frame) is None


def passes(frame: bytes) -> bool:
    """As the kernel runs the filter (classic BPF, the few instructions it has)."""
    at, loaded = 0, 0
    while True:
        code, yes, no, value = ndp.NEIGHBOUR_FILTER[at]
        if code == 6:
            return value != 0
        if code == 0x30:
            if value >= len(frame):
                return False
            loaded, at = frame[value], at + 1
        else:
            at += 1 + (yes if loaded == value else no)


def test_the_sockets_filter() -> None:
    assert passes(heard(ASKS))
    assert passes(heard(ICMPv6ND_NA()))
    assert not passes(heard(ICMPv6ND_RA()))
    assert not passes(heard(ASKS, nh=6))
    assert not passes(heard(ASKS)[:54])


def test_the_kernels_messages_over_ipv6() -> None:
    packed = ipaddress.IPv6Address(HOST6).packed
    assert table_changes(message(family=10, dst=packed)) == [Sighting(3, HOST6, MAC)]
    both = message(family=10, dst=packed, ifindex=4) + message()
    assert table_changes(both) == [Sighting(4, HOST6, MAC), Sighting(3, "10.77.2.100", MAC)]


@pytest.mark.parametrize(
    "data",
    [
        message(kind=29),
        message(family=10, dst=bytes(16)),
        message(family=10, dst=b"\xff\x02" + bytes(14)),
        message(family=10),
        message(family=7),
        message(family=10, dst=b"\xfe\x80" + bytes(14), state=0x40),
        message(state=0x20),
        message(state=0x80),
        message(mac=b""),
        message(mac=bytes(6)),
        message(dst=bytes(3)),
        message()[:20],
    ],
    ids=[
        "deleted",
        "IPv6, unspecified",
        "a group",
        "IPv6, short",
        "bridge",
        "no ARP",
        "failed",
        "permanent",
        "no MAC",
        "zero MAC",
        "short",
        "cut",
    ],
)
def test_messages_that_say_nothing(data: bytes) -> None:
    assert table_changes(data) == []


@given(st.binary(max_size=200), st.integers(0, 60), st.binary(max_size=8))
def test_whatever_comes(data: bytes, at: int, garbage: bytes) -> None:
    arp_sender(data)
    ndp.sender(data)
    ndp.sender(heard(ASKS)[:at] + data)
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
