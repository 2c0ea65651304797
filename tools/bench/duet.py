# SPDX-License-Identifier: GPL-2.0-or-later
"""A primary and an auxiliary on a switch made of XDP redirects, and whole sessions sent through them on one core.

::

    generator ─→ hub ══ int, ext ══ primary      dataplane of the product (no agents), the lab's default rules,
                  ║                              masquerading without random ports: replies are known beforehand
                  ╚════ int, ext ══ auxiliary    deliveries to the client and to the server are counted at the hub
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import programs
from aa_cluster.dataplane.bpffs import BPFFS, mount_bpffs
from aa_cluster.dataplane.flows import HASH_KEY_BYTES
from aa_cluster.dataplane.plane import Dataplane
from aa_cluster.dataplane.settings import Member, Port, Settings
from aa_cluster.topology import rulesets
from aa_cluster.topology.namespaces import batch, inside
from tools.bench import loader, place, wire
from tools.bench.frames import ACK, FIN, PSH, SYN, Shape, Template, mac, tcp, udp
from tools.bench.world import KEY, PUBLIC

WINDOW = 1024
"""SESSION_WINDOW of bpf/bench/live.bpf.c."""
CAPACITY = 1 << 19
TABLE_KEY = np.random.default_rng(1).bytes(HASH_KEY_BYTES)
REQUEST, ANSWER = b"GET /\n", b"200 OK"
PRIMARY, AUXILIARY = 1, 2
LAST = {("primary", "int"): 0x01, ("primary", "ext"): 0x02, ("auxiliary", "int"): 0x11, ("auxiliary", "ext"): 0x12}
CLIENT, SERVER = 0x21, 0x22
LINKS = ("int", "ext")


def _mac(last: int) -> str:
    return f"02:00:00:00:00:{last:02x}"


Phases = tuple[tuple[str, Template], ...]
"""A session packet by packet, with the primary's interface each one comes in on."""


def _phases() -> Phases:
    """Connect, one request, one answer, close."""

    def client(flags: int, sequence: int, acknowledged: int, payload: bytes = b"") -> tuple[str, Template]:
        to, sender = mac(_mac(LAST["primary", "int"])), mac(_mac(CLIENT))
        return "int", tcp(to, sender, Shape.ORIGINAL, flags, sequence, acknowledged, payload)

    def server(flags: int, sequence: int, acknowledged: int, payload: bytes = b"") -> tuple[str, Template]:
        to, sender = mac(_mac(LAST["primary", "ext"])), mac(_mac(SERVER))
        return "ext", tcp(to, sender, Shape.REPLY, flags, sequence, acknowledged, payload)

    return (
        client(SYN, 1000, 0),
        server(SYN | ACK, 5000, 1001),
        client(ACK, 1001, 5001),
        client(PSH | ACK, 1001, 5001, REQUEST),
        server(PSH | ACK, 5001, 1007, ANSWER),
        client(ACK, 1007, 5007),
        client(FIN | ACK, 1007, 5007),
        server(FIN | ACK, 5007, 1008),
        client(ACK, 1008, 5008),
    )


def _question() -> Phases:
    """A datagram, and one back, with as much in them as DNS has for a name and its address."""
    there = udp(mac(_mac(LAST["primary", "int"])), mac(_mac(CLIENT)), Shape.ORIGINAL, bytes(18))
    back = udp(mac(_mac(LAST["primary", "ext"])), mac(_mac(SERVER)), Shape.REPLY, bytes(18))
    return ("int", there), ("ext", back)


PHASES, QUESTION = _phases(), _question()


def to_client(phases: Phases) -> int:
    """How many of a session's packets the client gets."""
    return sum(1 for way, _ in phases if way == "ext")


@dataclass
class Duet:
    """``next_flow``: number of the first flow no session has had yet."""

    hub: Path
    nodes: dict[str, Path]
    live: loader.Loaded
    planes: dict[str, Dataplane]
    next_flow: int = 0

    def sessions(self, count: int, cpu: int, phases: Phases = PHASES) -> wire.Burst:
        """So many whole sessions (a multiple of the window); the burst's ``ns`` is for one packet."""
        if count % WINDOW:
            raise ValueError(f"{count} sessions, expected a multiple of {WINDOW}")
        for number, (way, template) in enumerate(phases):
            plan = loader.plan_record(self.live.maps["bench_phases"], template, public=PUBLIC, first=self.next_flow)
            plan["out"] = wire.index(self.hub, f"primary-{way}")
            self.live.maps["bench_phases"].put(number, plan)
        self.live.maps["bench_phase_count"].put(0, loader.count(len(phases)))
        self.live.maps["bench_walk"].put(0, loader.count(0))
        self.next_flow += count
        frame = phases[0][1].frame
        return wire.send(self.live, self.hub, "generate_session", frame, count * len(phases), cpu)

    def receive(self, node: str, program: str) -> None:
        """An XDP program of the bench on both links of a node."""
        for link in LINKS:
            wire.attach(self.nodes[node], "xdp", link, self.live.fds[program])

    def to_auxiliary(self, cut: bool) -> None:
        """Whether the hub delivers what is meant for the auxiliary, or cuts it off there."""
        ways = {}
        for link in LINKS:
            ifindex = wire.index(self.hub, f"auxiliary-{link}")
            ways[LAST["auxiliary", link]] = (wire.CUT, 0) if cut else (HUB_FORWARD, ifindex)
        wire.ways(self.live, ways)

    def start(self) -> None:
        """The product's programs on both nodes; the primary's XDP hooks are made free for them."""
        batch([f"link set {link} xdp off" for link in LINKS], self.nodes["primary"].name)
        for node, plane in self.planes.items():
            inside(self.nodes[node], plane.start)
        members = [_member(node, number) for node, number in (("primary", PRIMARY), ("auxiliary", AUXILIARY))]
        self.planes["primary"].set_members(members)

    def stop(self) -> None:
        for node, plane in self.planes.items():
            inside(self.nodes[node], plane.stop)

    def give_all_to(self, node: int) -> None:
        self.planes["primary"].set_sequence([node])

    def share(self, share: bool) -> None:
        """Whether the policy shares sessions, or keeps them on the primary without a flow."""
        self.planes["primary"].set_policy((), "share" if share else "keep")

    def forget(self) -> None:
        """Connections of the sessions so far."""
        for path in self.nodes.values():
            place.forget_connections(path)


HUB_FORWARD = 100


def _member(node: str, number: int) -> Member:
    return Member(number, _ha(node), tuple(mac(_mac(LAST[node, link])) for link in LINKS))


def _ha(node: str) -> bytes:
    return mac(_mac(0x31 if node == "primary" else 0x32))


@contextmanager
def duet(cache: Path) -> Iterator[Duet]:
    """Both nodes with rules, routes and neighbours; no program of the product is attached yet."""
    mount_bpffs()
    pins = BPFFS / "aa-cluster" / f"bench{os.getpid()}"
    with ExitStack() as stack:
        stack.callback(programs.remove, pins)
        live = stack.enter_context(loader.bench(loader.LIVE, cache))
        hub = stack.enter_context(place.namespace("hub"))
        nodes = {}
        for node in ("primary", "auxiliary"):
            nodes[node] = stack.enter_context(place.namespace(node, place.ROUTER))
            _connect(hub, node, nodes[node], live)
        wire.ways(live, {CLIENT: (wire.DELIVERED, 0), SERVER: (wire.SECOND, 0)})
        planes = {node: Dataplane(_settings(node, path, pins, cache)) for node, path in nodes.items()}
        made = Duet(hub, nodes, live, planes)
        for node in nodes:
            made.receive(node, "pass_all")
        made.to_auxiliary(cut=False)
        yield made


def _connect(hub: Path, node: str, path: Path, live: loader.Loaded) -> None:
    for link in LINKS:
        last = LAST[node, link]
        wire.cable((hub, f"{node}-{link}", _mac(last + 0x80)), (path, link, _mac(last)))
        wire.attach(hub, "xdp", f"{node}-{link}", live.fds["hub"])
    wire.cable((hub, f"{node}-ha", _mac(0xF0 + len(node))), (path, "ha", ":".join(f"{b:02x}" for b in _ha(node))))
    batch(
        [
            "addr add 10.77.1.1/24 dev int",
            "addr add 10.77.2.1/24 dev ext",
            f"neigh add 10.77.1.100 lladdr {_mac(CLIENT)} nud permanent dev int",
            f"neigh add 10.77.2.100 lladdr {_mac(SERVER)} nud permanent dev ext",
            "route add 10.1.0.0/16 via 10.77.1.100",
            "route add 10.2.0.0/16 via 10.77.2.100",
        ],
        path.name,
    )
    place.rules(path, rulesets.text("default").replace("masquerade random", "masquerade"))


def _settings(node: str, path: Path, pins: Path, cache: Path) -> Settings:
    ports = tuple(
        Port(
            slot=slot,
            name=link,
            ifindex=wire.index(path, link),
            physical_mac=mac(_mac(LAST[node, link])),
            virtual_mac=mac(_mac(LAST["primary", link])),
            mtu=1500,
        )
        for slot, link in enumerate(LINKS)
    )
    common = Settings(
        role="primary",
        cluster_id=7,
        node_id=PRIMARY,
        primary_id=PRIMARY,
        generation=3,
        epoch=5,
        block_key=KEY,
        table_key=TABLE_KEY,
        ports=ports,
        ha_ifindex=wire.index(path, "ha"),
        ha_mac=_ha(node),
        primary_ha_mac=_ha("primary"),
        xdp="native",
        flow_entries=CAPACITY,
        pins=pins / node,
        cache=cache,
    )
    return common if node == "primary" else replace(common, role="auxiliary", node_id=AUXILIARY)
