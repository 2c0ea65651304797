# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel tells of carriers, out of made-up datagrams and out of a real namespace."""

from __future__ import annotations

import os
import select
import socket
import subprocess

from hypothesis import given
from hypothesis import strategies as st
from pyroute2 import netns

from aa_cluster.netlink.carrier_watch import (
    IFF_LOWER_UP,
    IFINFO,
    NLMSG,
    RTM_DELLINK,
    RTM_NEWLINK,
    CarrierWatch,
    changes,
)


def message(kind: int, ifindex: int, flags: int) -> bytes:
    body = IFINFO.pack(0, 1, ifindex, flags, 0) + bytes(8)
    return NLMSG.pack(NLMSG.size + len(body), kind, 0, 0, 0) + body


def test_messages_in_their_order() -> None:
    data = message(RTM_NEWLINK, 3, IFF_LOWER_UP | 1) + message(20, 9, 0) + message(RTM_NEWLINK, 3, 1)
    data += message(RTM_DELLINK, 4, IFF_LOWER_UP)
    assert changes(data) == [(3, True), (3, False), (4, False)]
    assert changes(data[:-5]) == [(3, True), (3, False)]


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    changes(data)


def test_a_cable_is_pulled(root: None) -> None:
    name = f"cw{os.getpid()}"
    netns.create(name)
    netns.pushns(name)
    try:
        for command in ("link add a0 type veth peer name a1", "link set a0 up", "link set a1 up"):
            subprocess.run(["ip", *command.split()], check=True)
        index = socket.if_nametoindex("a0")
        watch = CarrierWatch([index, 999])
        try:
            assert watch.now() == {index: True, 999: False}
            watch.read()
            subprocess.run(["ip", "link", "set", "a1", "down"], check=True)
            assert select.select([watch.descriptor()], [], [], 5)[0]
            assert (watch.read() or [])[-1] == (index, False)
        finally:
            watch.close()
    finally:
        netns.popns()
        netns.remove(name)
