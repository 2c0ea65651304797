# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is called what in a lab: namespaces, interfaces, switch ports, addresses, MACs, paths. Pure; touches nothing.

::

    client .100 ──┐                                   ┌── .100 server
                  br-int 10.77.1.0/24   10.77.2.0/24 br-ext
                  └── .1 int  node1..nodeN  ext .1 ───┘
                              ha .100+id
                                └── br-ha 10.77.0.0/24

The three (with a DMZ: four) bridges live in one more namespace, ``NAME-switch``. Every node carries the same address
on a data network: that is the cluster's. Beside its IPv4 address everyone on a data network has one of IPv6 that is
written with the same last part: 10.77.2.100 and fd77:2::100. The HA link has IPv4 only. With ``far`` there is a router
on br-ext, and behind a narrow way a host::

    br-ext ── .200 eth0 router eth1 .1 ── 10.77.4.0/24, packets up to 1300 bytes ── .100 eth0 far
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from aa_cluster.errors import LabError

CLUSTER_HOST = 1
HOST = 100
ROUTER = 200
FAR_MTU = 1300
"""Of the way between router and far, in both directions; all interfaces have 1500 bytes."""
MAX_NODES = 63
NAME = re.compile(r"[a-z][a-z0-9]{0,11}")


@dataclass(frozen=True, slots=True)
class Network:
    """``name`` is the nodes' interface on it, ``number`` the third octet, ``host`` who lives at .100."""

    name: str
    number: int
    host: str | None

    @property
    def bridge(self) -> str:
        return f"br-{self.name}"

    def address(self, last: int, family: int = 4) -> str:
        """``last`` 100 is 10.77.N.100 or fd77:N::100: the same digits, decimal here and hexadecimal there."""
        return f"10.77.{self.number}.{last}" if family == 4 else f"fd77:{self.number:x}::{last}"

    @property
    def prefix(self) -> str:
        return f"{self.address(0)}/24"

    @property
    def prefix6(self) -> str:
        return f"fd77:{self.number:x}::/64"

    def mac(self, last: int) -> str:
        """A node's (``last`` = its number) or a host's (100) physical MAC: 02:00:00:<net>:00:<last>."""
        return f"02:00:00:{self.number:02x}:00:{last:02x}"


HA = Network("ha", 0, None)
FAR = Network("far", 4, "far")
DATA = {net.name: net for net in (Network("int", 1, "client"), Network("ext", 2, "server"), Network("dmz", 3, "dmz"))}


@dataclass(frozen=True, slots=True)
class Plan:
    """One lab on paper. ``LabError`` when the name, the count or a network is not possible."""

    name: str
    nodes: int
    networks: tuple[str, ...] = ("int", "ext")
    far: bool = False
    rings: int = 1
    """Rings of each cable's end, of 256 frames; four have the room of a network card's usual one. A sender chooses by
    flow, but XDP by the CPU it runs on: what it sends may overtake, or be overtaken by, what the stack sends."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise LabError(
                f"lab name {self.name!r}: expected a lower-case letter, then at most 11 letters or digits",
                "name it like `aa` or `trial2`",
            )
        if not 1 <= self.nodes <= MAX_NODES:
            raise LabError(f"{self.nodes} nodes asked, possible are 1 to {MAX_NODES}", "choose a count in between")
        unknown = [net for net in self.networks if net not in DATA]
        if unknown or len(set(self.networks)) != len(self.networks) or not self.networks:
            raise LabError(
                f"networks {', '.join(self.networks) or '(none)'}: expected each of {', '.join(DATA)} at most once",
                "the usual ones are int,ext",
            )

        if self.far and "ext" not in self.networks:
            raise LabError("the router stands on ext, which this lab does not have", "name ext among the networks")

    @property
    def data(self) -> tuple[Network, ...]:
        return tuple(DATA[name] for name in self.networks)

    @property
    def all_networks(self) -> tuple[Network, ...]:
        return (*self.data, HA)

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"node{index}" for index in range(1, self.nodes + 1))

    @property
    def host_networks(self) -> dict[str, Network]:
        """Host name → the network it is on."""
        return {net.host: net for net in self.data if net.host is not None}

    @property
    def members(self) -> tuple[str, ...]:
        """Everything with a namespace, the switch last."""
        return (*self.host_networks, *self.beyond, *self.node_names, "switch")

    @property
    def beyond(self) -> tuple[str, ...]:
        """Who is reached through ext only."""
        return ("router", "far") if self.far else ()

    def resolve(self, host: str) -> str:
        """``client`` or ``NAME-client`` → ``client``; ``LabError`` naming the hosts when there is no such one."""
        short = host.removeprefix(f"{self.name}-")
        if short not in self.members:
            raise LabError(f"lab {self.name} has no host {host!r}", f"it has {', '.join(self.members)}")
        return short

    def node(self, host: str) -> int:
        """``node2`` or ``NAME-node2`` → 2; ``LabError`` when that is no node of this lab."""
        short = host.removeprefix(f"{self.name}-")
        if short not in self.node_names:
            raise LabError(f"lab {self.name} has no node {host!r}", f"its nodes are {', '.join(self.node_names)}")
        return int(short.removeprefix("node"))

    def network(self, link: str) -> Network:
        """A node's link by name; ``LabError`` naming the links otherwise."""
        for net in self.all_networks:
            if net.name == link:
                return net
        raise LabError(f"no link {link!r}", f"links are {', '.join(net.name for net in self.all_networks)}")

    def namespace(self, member: str) -> str:
        return f"{self.name}-{member}"

    def path(self, member: str) -> Path:
        return Path("/run/netns") / self.namespace(member)

    def links(self, member: str) -> tuple[Network, ...]:
        """The switched networks a host or a node has a link on."""
        if member in self.beyond:
            return (DATA["ext"],) if member == "router" else ()
        host = self.host_networks.get(member)
        return (host,) if host is not None else self.all_networks

    def port(self, member: str, net: Network) -> str:
        """The switch's port towards ``member`` on ``net``."""
        return f"{member}-{net.name}"

    def owns_namespace(self, namespace: str) -> bool:
        return bool(re.fullmatch(rf"{self.name}-(client|server|dmz|router|far|switch|node\d+)", namespace))

    @property
    def run(self) -> Path:
        return Path("/run/aa-cluster/lab") / self.name

    @property
    def state(self) -> Path:
        return Path("/var/lib/aa-cluster/lab") / self.name

    @property
    def pins(self) -> Path:
        return Path("/sys/fs/bpf/aa-cluster/lab") / self.name
