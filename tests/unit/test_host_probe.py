# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions that claim nothing, and what counts as an answer."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from aa_cluster.netlink import host_probe, ndp

MAC, HOST = bytes.fromhex("02aa00010000"), "02:00:00:00:00:09"


def test_an_arp_probe_names_no_sender() -> None:
    arp = Ether(host_probe.probe(MAC, ipaddress.ip_address("10.77.1.100")))[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc, arp.pdst) == (1, MAC.hex(":"), "0.0.0.0", "10.77.1.100")
    assert arp.underlayer.dst == "ff:ff:ff:ff:ff:ff"


def test_a_solicitation_names_no_sender_either() -> None:
    raw = host_probe.probe(MAC, ipaddress.ip_address("fd77:1::12:3456"))
    frame = Ether(raw)
    assert (frame.src, frame.dst) == (MAC.hex(":"), "33:33:ff:12:34:56")
    assert (frame[IPv6].src, frame[IPv6].dst, frame[IPv6].hlim) == ("::", "ff02::1:ff12:3456", 255)
    assert (frame[ICMPv6ND_NS].tgt, len(frame[ICMPv6ND_NS])) == ("fd77:1::12:3456", 24)
    assert ndp.checksum(raw[22:38], raw[38:54], raw[54:]) == 0


@pytest.mark.parametrize(
    ("frame", "who"),
    [
        (Ether(src=HOST) / ARP(op=2, hwsrc=HOST, psrc="10.77.1.100"), "10.77.1.100"),
        (Ether(src=HOST) / ARP(op=1, hwsrc=HOST, psrc="10.77.1.100"), None),
        (Ether(src=HOST) / IPv6(src="fd77:1::9", dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt="fd77:1::9"), "fd77:1::9"),
        (Ether(src=HOST) / IPv6(src="fd77:1::9", dst="ff02::1", hlim=64) / ICMPv6ND_NA(tgt="fd77:1::9"), None),
        (Ether(src=HOST) / IPv6(src="fd77:1::9", dst="ff02::1", hlim=255) / ICMPv6ND_NS(tgt="fd77:1::9"), None),
    ],
    ids=["ARP reply", "ARP request", "advertisement", "from behind a router", "solicitation"],
)
def test_what_an_answer_is(frame: Ether, who: str | None) -> None:
    assert host_probe.who_answers(bytes(frame)) == (who and ipaddress.ip_address(who))


@given(st.binary(max_size=128))
def test_anything_may_come(frame: bytes) -> None:
    host_probe.who_answers(frame)
