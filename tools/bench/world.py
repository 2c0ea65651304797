# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs under test find around them in a test-run: configuration, nodes, flows, conntrack, neighbours.

A test-run packet arrives on the loopback device, which is therefore the data interface of slot 0.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np

from aa_cluster.dataplane import accounts, syscall
from aa_cluster.dataplane.configuration import PORT_TABLE
from aa_cluster.topology.namespaces import batch, checked
from aa_cluster.wire.announcement import ETHERTYPE, KIND_FLOW, OWN
from tools.bench import flowtable, place
from tools.bench.frames import ACK, SYN, TCP4, Kind, Shape, Template, mac, tcp, udp, with_block
from tools.bench.loader import FEEDER, LIVE, Loaded, bench, count, plan_record, product

LOOPBACK = 1
TCP = TCP4.protocol
SELF, OTHER = 1, 2
KEY = bytes(range(16))
CLUSTER, GENERATION, EPOCH = 7, 3, 5
HOP_LOCAL, HOP_STEER = 1, 2
VIRTUAL, PHYSICAL = mac("02:aa:00:07:00:00"), mac("02:00:00:01:00:01")
HOST, HA_SELF, HA_OTHER = mac("02:00:00:00:0c:01"), mac("02:00:00:00:00:01"), mac("02:00:00:00:00:02")
PUBLIC = int(IPv4Address("10.77.2.1"))
ARP_FIRST = IPv4Address("10.77.4.0")
ARP_ASKING = IPv4Address("10.77.1.1")
NEIGHBOURS = 512
CAPACITY = (1 << 20) + (1 << 16)
FRESH_FROM = 1 << 21
"""Numbers of flows that cases use up; beyond all that are filled in."""
NAT_HOOKS = (
    "table ip t {\nchain n { type nat hook prerouting priority 0; }\n"
    "chain p { type nat hook postrouting priority 0; }\n"
    "chain f { type filter hook forward priority 0; ct state new accept; }\n}\n"
)
ARP_SLOT = 1


@dataclass
class World:
    """``filled``: flows 0…filled−1 are in the flow table and in conntrack. ``kind``: what flows are."""

    path: Path
    plane: Loaded
    feeder: Loaded
    live: Loaded
    arp_ifindex: int
    filled: int = 0
    plain: int = 0
    fresh_at: int = FRESH_FROM
    tracked: int = 0
    mark: int = 0
    more: list[Loaded] = field(default_factory=list)
    lost: int = 0
    kind: Kind = TCP4

    def fd(self, program: str) -> int:
        for loaded in (self.plane, self.live, self.feeder, *self.more):
            if program in loaded.fds:
                return loaded.fds[program]
        raise KeyError(program)

    def plan(self, template: Template, first: int, flows: int, linear: bool = False) -> None:
        """What the feeder makes from now on; the walk starts anew."""
        record = plan_record(
            self.feeder.maps["bench_plan"], template, public=PUBLIC, first=first, flows=flows, linear=linear
        )
        record["key"] = np.frombuffer(KEY, "<u8")
        record["address"] = int(ARP_FIRST)
        self.feeder.maps["bench_plan"].put(0, record)
        self.feeder.maps["bench_walk"].put(0, count(0))

    def run(self, program: str, length: int, repeat: int, received: bool = True) -> syscall.TestRun:
        """Feeds ``program`` that often; the duration is the kernel's, feeder included. ``received``: on an interface,
        else the packets are this node's own.
        """
        kind = "xdp" if is_xdp(program) else "skb"
        self.feeder.maps[f"bench_{kind}"].put(0, self.fd(program).to_bytes(4, "little"))
        context = b"" if kind == "xdp" else _skb_context(LOOPBACK if received else 0)
        return syscall.run_program(self.fd(f"feed_{kind}"), bytes(length), repeat, context)

    def fill(self, flows: int, state: int) -> None:
        """Lets there be this many flows, in the flow table and the plain programs' table."""
        if flows > self.filled:
            numbers = range(self.filled, flows)
            self.lost += flowtable.fill(self.plane.maps, numbers, PUBLIC, OTHER, state, self.kind)
            self.filled = flows
        if flows > self.plain:
            keys = flowtable.plain_keys(range(self.plain, flows))
            fill_plain(self.live, keys)
            self.plain = flows

    def change_kind(self, kind: Kind) -> None:
        """Other flows from now on: neither the table nor conntrack has any."""
        if kind == self.kind:
            return
        flowtable.forget(self.plane.maps, 0)
        place.forget_connections(self.path)
        self.kind, self.filled, self.tracked, self.mark = kind, 0, 0, 0

    def set_flows(self, flows: int, owner: int, state: int) -> None:
        """Gives all flows this owner and state."""
        self.fill(flows, state)
        flowtable.rewrite(self.plane.maps, owner, state)

    def track(self, first: int, flows: int) -> None:
        """Conntrack entries for these flows, by the kernel functions that ``adopt`` uses."""
        if not flows:
            return
        self.plan(from_client(kind=self.kind), first, 1 << 31, linear=True)
        done = syscall.run_program(self.fd("fill_conntrack"), bytes(64), flows, _skb_context(LOOPBACK))
        if done.verdict != 0:
            raise RuntimeError(f"conntrack took not all of {flows} entries from {first} on")

    def track_all(self, flows: int) -> None:
        """Lets conntrack hold flows 0…flows−1 at least."""
        if flows > self.tracked:
            self.track(self.tracked, flows - self.tracked)
            self.tracked = flows

    def retrack(self, flows: int) -> None:
        """Conntrack with these flows and nothing else."""
        place.forget_connections(self.path)
        self.tracked = 0
        self.track_all(flows)

    def take_fresh(self, flows: int) -> int:
        """Number of the first of so many flows that nobody has seen."""
        first = self.fresh_at
        self.fresh_at += flows
        return first

    def schedule(self, *turns: int) -> None:
        record = self.plane.maps["sequences"].record()
        record["length"] = len(turns)
        record["node"][: len(turns)] = turns
        self.plane.maps["sequences"].put(0, record)

    def account(self, on: bool) -> None:
        """Packets and bytes per flow."""
        self.plane.maps["config"].view()["features"] = accounts.FEATURE if on else 0

    def ask_everything(self) -> None:
        """An open ARP question for every address of the bench."""
        questions = self.plane.maps["questions"]
        values = np.zeros(NEIGHBOURS, questions.value)
        values["asked_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        keys = np.zeros(NEIGHBOURS, questions.key)
        addresses = (int(ARP_FIRST) + np.arange(NEIGHBOURS)).astype(">u4")
        keys["target"][:, 10:12] = 0xFF
        keys["target"][:, 12:16] = addresses.view("u1").reshape(-1, 4)
        keys["slot"] = 0
        syscall.map_update_batch(questions.fd, keys.tobytes(), values.tobytes(), NEIGHBOURS)


def is_xdp(program: str) -> bool:
    """The others are classifiers."""
    return program in ("steer", "plain_xdp", "send_back", "empty_xdp") or program.startswith("design_")


def fill_plain(live: Loaded, keys: np.ndarray) -> None:
    values = np.ones(len(keys), "<u8")
    syscall.map_update_batch(live.maps["bench_table"].fd, keys.tobytes(), values.tobytes(), len(keys))


def _skb_context(ingress: int) -> bytes:
    """struct __sk_buff with ingress_ifindex set."""
    raw = bytearray(192)
    struct.pack_into("=I", raw, 36, ingress)
    return bytes(raw)


@contextmanager
def world(cache: Path, path: Path) -> Iterator[World]:
    """To be entered by a thread that is in the namespace ``path``."""
    place.rules(path, NAT_HOOKS)
    ifindex = _neighbours(path)
    with (
        product(cache, CAPACITY) as plane,
        bench(FEEDER, cache) as feeder,
        bench(LIVE, cache, {"bench_table": 1 << 20}) as live,
    ):
        made = World(path, plane, feeder, live, ifindex)
        _configure(made)
        yield made


def _neighbours(path: Path) -> int:
    """An interface with neighbours that ``arp_serve`` finds; its index."""
    name = path.name
    lines = [
        "link add arp0 type veth peer name arp1",
        "addr add 10.77.1.1/16 dev arp0",
        "link set arp0 up",
        "link set arp1 up",
    ]
    for number in range(NEIGHBOURS):
        lines.append(f"neigh add {ARP_FIRST + number} lladdr 02:00:00:00:0d:01 nud permanent dev arp0")
    batch(lines, name)
    return int(checked(["ip", "-n", name, "-o", "link", "show", "arp0"]).split(":", 1)[0])


def _configure(made: World) -> None:
    maps = made.plane.maps
    record = maps["config"].record()
    record["key"] = np.frombuffer(KEY, "<u8")
    record["generation"], record["epoch"], record["cluster_id"] = GENERATION, EPOCH, CLUSTER
    record["self"], record["primary"], record["ha_ifindex"] = SELF, SELF, LOOPBACK
    flowtable.configure(maps, record)
    record["ha_mac"], record["primary_ha_mac"] = list(HA_SELF), list(HA_SELF)
    maps["config"].put(0, record)
    for slot, ifindex in ((0, LOOPBACK), (ARP_SLOT, made.arp_ifindex)):
        port = maps["ports"].record()
        port["ifindex"], port["mtu"], port["slot"] = ifindex, 1500, slot
        port["physical_mac"], port["virtual_mac"] = list(PHYSICAL), list(VIRTUAL)
        maps["ports"].put(ifindex % PORT_TABLE, port)
        maps["slots"].put(slot, port)
    for identifier, hop in ((SELF, HOP_LOCAL), (OTHER, HOP_STEER)):
        node = maps["nodes"].record()
        node["hop"] = hop
        node["ha_mac"] = list(HA_OTHER)
        node["macs"] = list(PHYSICAL * 16)
        maps["nodes"].put(identifier, node)
    maps["bank"].put(0, np.array(0, "<u4"))
    maps["turns"].put(0, count(0))
    made.schedule(OTHER)


def first(to: bytes, sender: bytes, shape: Shape, kind: Kind) -> Template:
    """A SYN or a datagram."""
    return tcp(to, sender, shape, SYN, kind=kind) if kind.protocol == TCP else udp(to, sender, shape, kind=kind)


def later(to: bytes, sender: bytes, shape: Shape, kind: Kind) -> Template:
    """A packet inside a session."""
    return tcp(to, sender, shape, ACK, kind=kind) if kind.protocol == TCP else udp(to, sender, shape, kind=kind)


def block_template(kind: Kind = TCP4) -> Template:
    """The SYN or datagram with its block that node ``SELF`` adopts."""
    block = struct.pack(
        "!HBBBBHIIIIIHH16s16sIBBH8s",
        CLUSTER,
        SELF,
        0,
        kind.family,
        kind.protocol,
        0,
        GENERATION,
        EPOCH,
        0x1234,
        0x42,
        0x18A,
        *(0, 0, b"", b""),
        0x41414842,
        1,
        1,
        80,
        b"",
    )
    return with_block(first(PHYSICAL, VIRTUAL, Shape.BLOCK, kind), block)


def announced_template() -> Template:
    """The SYN of a session of node ``OTHER``'s own, announced to the primary."""
    body = struct.pack("!HBBBBHIII6sBB", CLUSTER, OTHER, 0, 4, 6, 0, GENERATION, EPOCH, 0, HOST, OWN, 0)
    tail = struct.pack("!IBBH8x", 0x41414842, 1, KIND_FLOW, 80)
    made = with_block(tcp(VIRTUAL, PHYSICAL, Shape.BLOCK, SYN), body.ljust(64, b"\0") + tail)
    return replace(made, frame=made.frame[:12] + struct.pack("!H", ETHERTYPE) + made.frame[14:])


def from_client(flags: int = ACK, shape: Shape = Shape.ORIGINAL, kind: Kind = TCP4) -> Template:
    """To the primary's virtual MAC. ``flags``: of TCP."""
    if kind.protocol == TCP:
        return tcp(VIRTUAL, HOST, shape, flags, kind=kind)
    return udp(VIRTUAL, HOST, shape, kind=kind)


def from_primary(kind: Kind = TCP4) -> Template:
    """A steered packet as the auxiliary gets it."""
    return later(PHYSICAL, VIRTUAL, Shape.ORIGINAL, kind)


def leaving_primary(kind: Kind = TCP4) -> Template:
    """A SYN or datagram after the primary's POSTROUTING."""
    return first(HOST, VIRTUAL, Shape.LEAVING, kind)
