# SPDX-License-Identifier: GPL-2.0-or-later
"""The announcement, field by field, as scapy reads it."""

import ipaddress

from scapy.layers.l2 import ARP, Ether

from aa_cluster.netlink.announce import announcement

MAC = bytes.fromhex("02aa00010000")


def test_announcement():
    frame = Ether(announcement(MAC, ipaddress.IPv4Address("10.77.1.1")))
    assert (frame.dst, frame.src, frame.type) == ("ff:ff:ff:ff:ff:ff", MAC.hex(":"), 0x0806)
    arp = frame[ARP]
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen, arp.op) == (1, 0x0800, 6, 4, 1)
    assert (arp.hwsrc, arp.psrc) == (MAC.hex(":"), "10.77.1.1")
    assert (arp.hwdst, arp.pdst) == ("00:00:00:00:00:00", "10.77.1.1")
