# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left of sessions that nobody ended, where a new one begins on the same 5-tuple: it succeeds, at once."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import inside
from aa_cluster.topology.view import flows, only

pytestmark = pytest.mark.lab

SERVER = ("10.77.2.100", 7300)
PATIENCE = 6.0
AT_ONCE = 0.9
"""Seconds; a SYN that was lost comes again after one."""
TCP_REPAIR = 19
"""linux/tcp.h: what is closed under it ends without a word."""

_ports = itertools.count(21_000)

Pair = tuple[socket.socket, socket.socket]


def at(lab: Lab, host: str, make: Callable[[socket.socket], object]) -> socket.socket:
    """A socket of that host."""

    def made() -> socket.socket:
        new = socket.socket()
        new.settimeout(PATIENCE)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        make(new)
        return new

    return inside(lab.plan.path(host), made)


@contextmanager
def listening(lab: Lab) -> Iterator[socket.socket]:
    with closing(at(lab, "server", lambda new: new.bind(("", SERVER[1])))) as listener:
        listener.listen()
        yield listener


def talk(client: socket.socket, server: socket.socket) -> None:
    for number in range(20):
        for one, other in ((client, server), (server, client)):
            line = b"line %d" % number
            one.sendall(line)
            assert other.recv(64) == line


def session(lab: Lab, listener: socket.socket, port: int) -> Pair:
    """Both ends of one that works."""
    client = at(lab, "client", lambda new: new.bind(("", port)))
    client.connect(SERVER)
    server, _ = listener.accept()
    server.settimeout(PATIENCE)
    talk(client, server)
    return client, server


def forget(pair: Pair) -> None:
    """Both hosts know nothing of it any more, and have said nothing."""
    for end in pair:
        end.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        end.close()


@pytest.mark.parametrize("lost", [(), ("node1",), ("node2",), ("node1", "node2")], ids=lambda lost: "+".join(lost))
@pytest.mark.parametrize("owner", [1, 2])
@pytest.mark.parametrize("ruleset", ["default", "no-nat"])
def test_a_new_session_where_an_old_one_was(lab: Lab, ruleset: str, owner: int, lost: tuple[str, ...]) -> None:
    """``lost``: these nodes' conntrack does not have the old one any more. With random ports its successor is
    translated otherwise, and what the flow table still knows must not lead it to where the old one was."""
    lab.load_ruleset(rulesets.text(ruleset))
    with listening(lab) as listener:
        for later in (1, 2, 3):
            port = next(_ports)
            only(lab, owner)
            forget(session(lab, listener, port))
            for node in lost:
                gone = lab.exec(node, ["conntrack", "-D", "-p", "tcp", "--orig-port-src", str(port)])
                assert gone.returncode == 0 or node not in ("node1", f"node{owner}"), "there was one to be lost"
            only(lab, later)
            began = time.monotonic()
            pair = session(lab, listener, port)
            assert time.monotonic() - began < AT_ONCE
            (flow,) = (one for one in flows(lab) if (one.source_port, one.destination_port) == (port, SERVER[1]))
            assert flow.owner_name in (f"node{owner}", f"node{later}")
            forget(pair)
