# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions of frames that are not plain: VLAN tags, IPv4 options, pieces in and out of order, through every node.

A tag with VLAN 0 (a priority, IEEE 802.1Q 6.9) belongs to the interface itself; this kernel has no VLAN devices, so
tags with another number have no one to receive them.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from aa_cluster.topology.lab import Lab
from aa_cluster.topology.view import counters, only
from tests.topology.raw_client import RawClient, Shape

pytestmark = pytest.mark.lab

CLIENT, SERVER = "10.77.1.100", "10.77.2.100"
OWNERS = pytest.mark.parametrize("owner", [1, 2, 3], ids=["primary", "node2", "node3"])
PLAIN = Shape()
PORTS = itertools.count(61000)
QUIET = """
table ip raw_client {
    chain leaving {
        type filter hook output priority 0;
        tcp sport 61000-62000 tcp flags & rst == rst drop
    }
}
"""
TAGS = {
    "802.1Q": ((0x8100, 0x6000),),
    "802.1ad": ((0x88A8, 0x2000),),
    "802.1ad over 802.1Q": ((0x88A8, 0x2000), (0x8100, 0x6000)),
    "802.1Q twice": ((0x8100, 0x2000), (0x8100, 0x6000)),
}
OPTIONS = {
    "router alert": b"\x94\x04\0\0",
    "NOPs": b"\x01" * 40,
    "record route": b"\x07\x27\x04" + b"\0" * 36 + b"\0",
    "timestamp": b"\x44\x0c\x05\0" + b"\0" * 8,
}


@pytest.fixture
def quiet_client(lab: Lab) -> Iterator[Lab]:
    assert lab.exec("client", ["nft", "-f", "-"], input=QUIET).returncode == 0
    yield lab
    lab.exec("client", ["nft", "delete", "table", "ip", "raw_client"])


class Counted:
    """What the nodes counted since."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.before = lab, [counters(lab, node) for node in (1, 2, 3)]

    def since(self, node: int) -> Counter[str]:
        return counters(self.lab, node) - self.before[node - 1]


def raw(lab: Lab, shape: Shape = PLAIN) -> RawClient:
    gateway, own = "02:aa:00:4d:00:00", lab.plan.host_networks["client"].mac(100)
    return RawClient(lab.plan.path("client"), CLIENT, next(PORTS), SERVER, gateway, own, shape)


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
@OWNERS
def test_a_tagged_session(quiet_client: Lab, tags: tuple[tuple[int, int], ...], owner: int) -> None:
    """SYN, data and end come in tagged; the primary's stack and the owner's see them inside."""
    only(quiet_client, owner)
    counted = Counted(quiet_client)
    with raw(quiet_client, Shape(tags=tags)) as client:
        client.connect()
        assert client.ask()
        assert client.answer.startswith(b"HTTP/1.1 200")
    primary = counted.since(1)
    if owner == 1:
        assert primary["STEER_TAGGED"] == 0
    else:
        assert primary["STEER_TAGGED"] >= 3
        assert counted.since(owner)["ADOPT_NEW"] == 1
        assert counted.since(owner)["GUARD_PASS"] >= 5


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@OWNERS
def test_a_session_with_options(quiet_client: Lab, options: bytes, owner: int) -> None:
    """Those that routers write into keep the session on the primary; the others go along with the SYN and after it."""
    only(quiet_client, owner)
    counted = Counted(quiet_client)
    with raw(quiet_client, Shape(options=options)) as client:
        client.connect()
        assert client.ask()
        assert client.answer.startswith(b"HTTP/1.1 200")
    primary = counted.since(1)
    written = options[0] in (7, 68)
    assert (primary["HANDOFF_OPTIONS"] == 1) is written
    assert (primary["STEER_OPTIONS_TX"] >= 3) is (owner != 1 and not written)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_in_the_middle_of_a_session(quiet_client: Lab, options: bytes) -> None:
    only(quiet_client, 2)
    counted = Counted(quiet_client)
    with raw(quiet_client) as client:
        client.connect()
        client.shape = Shape(options=options)
        assert client.ask()
        assert client.answer.startswith(b"HTTP/1.1 200")
    assert counted.since(1)["STEER_OPTIONS_TX"] >= 2


@pytest.mark.parametrize("cuts", [(24,), (32, 40), (512, 1024), (1480,)], ids=str)
@pytest.mark.parametrize("tags", [(), TAGS["802.1Q"]], ids=["untagged", "tagged"])
@OWNERS
def test_a_request_in_pieces(
    quiet_client: Lab, cuts: tuple[int, ...], tags: tuple[tuple[int, int], ...], owner: int
) -> None:
    only(quiet_client, owner)
    counted = Counted(quiet_client)
    with raw(quiet_client, Shape(tags=tags)) as client:
        client.connect()
        assert client.ask(cuts, size=1420 if cuts[-1] <= 1024 else 2400)
        assert client.answer.startswith(b"HTTP/1.1 200")
    primary = counted.since(1)
    if owner == 1:
        assert primary["STEER_FRAGMENT_LOCAL"] == 1 + len(cuts)
    else:
        assert (primary["STEER_FRAGMENT_FIRST"], primary["STEER_FRAGMENT_LATER"]) == (1, len(cuts))
        assert counted.since(owner)["GUARD_FRAGMENT"] == 1 + len(cuts)


@OWNERS
def test_later_pieces_in_any_order(quiet_client: Lab, owner: int) -> None:
    only(quiet_client, owner)
    with raw(quiet_client) as client:
        client.connect()
        assert client.ask((256, 512, 768), (0, 3, 1, 2), size=900)


@OWNERS
def test_a_first_piece_that_comes_last(quiet_client: Lab, owner: int) -> None:
    """All pieces meet in the primary's stack. Where the primary is the owner that is all; else its conntrack takes the
    packet for one out of place, and the client's next attempt, in order, gets through."""
    only(quiet_client, owner)
    counted = Counted(quiet_client)
    with raw(quiet_client) as client:
        client.connect()
        answered = client.ask((256, 512), (1, 2, 0), size=900, wait=5 if owner == 1 else 0.5)
        assert answered is (owner == 1)
        if owner == 1:
            return
        primary = counted.since(1)
        assert (primary["STEER_FRAGMENT"], primary["STEER_FRAGMENT_EARLY"]) == (2, 1)
        assert client.ask((256, 512), size=900)


def test_a_syn_in_pieces_is_the_primarys_session(quiet_client: Lab) -> None:
    """The stack puts it together, and passes it on; what leaves is in pieces again, so nobody is handed anything."""
    only(quiet_client, 2)
    counted = Counted(quiet_client)
    with raw(quiet_client) as client:
        client.send(2, b"d" * 200, (64,))
        client.sequence += 1
        assert client._until(lambda flags: flags & 18 == 18, 5)
        client.send(16)
        assert client.ask()
    assert counted.since(1)["HANDOFF_SENT"] == 0
    assert counted.since(2)["ADOPT_NEW"] == 0


SOCKET_OPTIONS = """
import socket
s = socket.socket()
s.settimeout(10)
s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes.fromhex("{options}"))
s.connect(("10.77.2.100", 80))
s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
print(s.recv(4096).split()[1].decode())
"""


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@OWNERS
def test_a_kernels_own_options(lab: Lab, options: bytes, owner: int) -> None:
    """Real TCP with IP_OPTIONS; the server's kernel answers a recorded route with one of its own."""
    only(lab, owner)
    done = lab.exec("client", [sys.executable, "-c", SOCKET_OPTIONS.format(options=options.hex())])
    assert done.stdout == "200\n", done.stderr
