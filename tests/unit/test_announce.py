# SPDX-License-Identifier: GPL-2.0-or-later
"""The announcements, field by field, as scapy reads them."""

import ipaddress

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from aa_cluster.netlink import ndp
from aa_cluster.netlink.announce import announcement

MAC = bytes.fromhex("02aa00010000")


def test_announcement():
    frame = Ether(announcement(MAC, ipaddress.IPv4Address("10.77.1.1")))
    assert (frame.dst, frame.src, frame.type) == ("ff:ff:ff:ff:ff:ff", MAC.hex(":"), 0x0806)
    arp = frame[ARP]
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen, arp.op) == (1, 0x0800, 6, 4, 1)
    assert (arp.hwsrc, arp.psrc) == (MAC.hex(":"), "10.77.1.1")
    assert (arp.hwdst, arp.pdst) == ("00:00:00:00:00:00", "10.77.1.1")


@pytest.mark.parametrize("address", ["fd77:1::1", "fe80::1", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"])
def test_announcement_over_ipv6(address):
    """Override, unsolicited, of a router: a host that hears that a router is none any more drops its default route."""
    raw = announcement(MAC, ipaddress.IPv6Address(address))
    frame = Ether(raw)
    assert (frame.dst, frame.src, frame.type) == ("33:33:00:00:00:01", MAC.hex(":"), 0x86DD)
    ip, said = frame[IPv6], frame[ICMPv6ND_NA]
    assert (ip.src, ip.dst, ip.hlim, ip.nh, ip.plen) == (address, "ff02::1", 255, 58, 32)
    assert (said.R, said.S, said.O, said.res, said.code, said.tgt) == (1, 0, 1, 0, 0, address)
    assert frame[ICMPv6NDOptDstLLAddr].lladdr == MAC.hex(":")
    again = frame.copy()
    del again[ICMPv6ND_NA].cksum
    assert bytes(again) == raw
    assert ndp.sender(raw) == (address, MAC)
