# SPDX-License-Identifier: GPL-2.0-or-later
"""Side by side, with real frames: generator → veth → gateway → the same veth → sink, all on one core.

The gateway sends back out of the interface a packet came in on, no bridge between. Figures are net of a gateway that
drops in XDP (generator and wire). What does not come back for the MAC it should has no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aa_cluster.dataplane import accounts
from aa_cluster.dataplane.configuration import PORT_TABLE
from aa_cluster.dataplane.flows import ESTABLISHED
from tools.bench import flowtable, loader, peers, place, wire, world
from tools.bench.frames import Shape, mac, tcp
from tools.bench.peers import GATEWAY_MAC, GENERATOR_MAC, NEXT_MAC, PUBLIC, Gateway
from tools.bench.session import Run
from tools.bench.stats import median

GROUP = "live"
SMALL, LARGE = 60, 1514
LARGE_FLOWS = 4096
FRAMES, QUICK_FRAMES = 1 << 20, 1 << 17
CHUNKS = 4
LOST = 0.001
"""Share of frames that may be missing at the sink."""
WIRE, BASE = "wire", "base"
"""The wire to the gateway that is measured, and the one to the gateway that drops."""
DROP = "XDP drop"
STEER = "aa-cluster: steer"
FORWARDING = "kernel forwarding, no netfilter"
MASQUERADE = "conntrack + masquerade"


@dataclass(frozen=True, slots=True)
class Case:
    """``set_up(gateway, flows)`` makes the gateway forward. ``arrival``: where frames must end up.

    ``nodes``: how many nodes get every packet, of which one delivers it (its share is checked, the cost counts for
    all). ``warm``: frames of every flow are sent once before it is measured.
    """

    name: str
    set_up: Callable[[Gateway, int], None]
    arrival: int = wire.DELIVERED
    nodes: int = 1
    warm: bool = True
    large: bool = False
    note: str = ""


def _steer(gateway: Gateway, flows: int) -> None:
    ours, ifindex = gateway.ours, wire.index(gateway.path, gateway.interface)
    port = ours.maps["ports"].record()
    port["ifindex"], port["mtu"] = ifindex, 1500
    port["physical_mac"] = port["virtual_mac"] = list(mac(GATEWAY_MAC))
    ours.maps["ports"].put(ifindex % PORT_TABLE, port)
    config = ours.maps["config"].record()
    flowtable.configure(ours.maps, config)
    ours.maps["config"].put(0, config)
    node = ours.maps["nodes"].record()
    node["hop"], node["macs"] = world.HOP_STEER, list(mac(NEXT_MAC) * 16)
    ours.maps["nodes"].put(world.OTHER, node)
    flowtable.forget(ours.maps, 0)
    flowtable.fill(ours.maps, range(flows), PUBLIC, world.OTHER, ESTABLISHED)
    wire.attach(gateway.path, "xdp", gateway.interface, ours.fds["steer"])


def _steer_accounting(gateway: Gateway, flows: int) -> None:
    _steer(gateway, flows)
    gateway.ours.maps["config"].view()["features"] = accounts.FEATURE


CASES: list[Case] = [
    Case("XDP_TX, no lookup (the floor)", peers.send_back, large=True),
    Case(STEER, _steer, large=True),
    Case(f"{STEER}, accounting", _steer_accounting, large=True),
    Case("plain XDP, BPF hash, XDP_TX", peers.plain_xdp),
    Case("tc clsact, same lookup, redirect", peers.plain_tc),
    Case("nft netdev, numgen, fwd", peers.nft_numgen),
    Case("nft netdev, flow map, fwd", peers.nft_map),
    Case(FORWARDING, peers.forwarding, large=True),
    Case(MASQUERADE, peers.masquerade, large=True),
    Case(
        "xt_cluster, per packet over two nodes",
        peers.xt_cluster,
        nodes=2,
        note="each node gets every packet and delivers its half: twice one node's cost a packet",
    ),
]


def measure(run: Run) -> None:
    """All wanted cases; the drop gateway beside each, since they are net of it."""
    cases = [case for case in CASES if run.wanted(case.name)]
    if not cases:
        return
    with place.roomy_conntrack(), ExitStack() as stack:
        live = stack.enter_context(loader.bench(loader.LIVE, run.cache, {"bench_table": 1 << 20}))
        ours = stack.enter_context(loader.product(run.cache, world.CAPACITY))
        # as the peers' table has it; the test-runs have the point between
        rounds = [(flows, SMALL, cases) for flows in run.sizes if flows != 65536]
        rounds.append((LARGE_FLOWS, LARGE, [case for case in cases if case.large]))
        for number, (flows, size, here) in enumerate(rounds):
            if here:
                later = sum(len(others) for _, _, others in rounds[number + 1 :])
                _at(run, here, live, ours, flows, size, later)


def _at(
    run: Run, cases: list[Case], live: loader.Loaded, ours: loader.Loaded, flows: int, size: int, later: int
) -> None:
    """``later``: cases of the rounds that follow, which must have their time too."""
    bases: list[float] = []
    for number, case in enumerate(cases):
        run.pace(later + len(cases) - number)
        if run.left() <= 0:
            run.miss(GROUP, case.name, "no time was left", flows)
            continue
        took = _samples(run, case, live, ours, flows, size)
        if isinstance(took, str):
            run.miss(GROUP, case.name, took, flows)
            continue
        net = [case.nodes * (each.case - each.base) for each in took]
        run.note(GROUP, case.name, net, "ns", flows=flows, size=size, net_of=DROP, note=case.note)
        bases += [each.base for each in took]
    if bases:
        note = "all-in: generator, wire, drop; measured in turns with each case"
        run.note(GROUP, DROP, bases, "ns", flows=flows, size=size, note=note)


@dataclass(frozen=True, slots=True)
class Pair:
    """ns a frame, all-in, of one repetition: the case, and the drop gateway in turns with it."""

    case: float
    base: float


def _samples(run: Run, case: Case, live: loader.Loaded, ours: loader.Loaded, flows: int, size: int) -> list[Pair] | str:
    """One pair a repetition; or why there are none."""
    if case.nodes > 1 and flows == 1:
        return "one flow belongs to one node"
    with _rig(live, ours) as (gateway, generator):
        case.set_up(gateway, flows)
        shot = tcp(mac(GATEWAY_MAC), mac(GENERATOR_MAC), Shape.ORIGINAL, length=size)
        plan = loader.plan_record(live.maps["bench_phases"], shot, flows=flows)
        live.maps["bench_walk"].put(0, loader.count(0))
        ways = {name: wire.index(generator, name) for name in (WIRE, BASE)}

        def burst(way: str, frames: int) -> wire.Burst:
            plan["out"] = ways[way]
            live.maps["bench_phases"].put(0, plan)
            return wire.send(live, generator, "generate", shot.frame, frames, run.cpu)

        if case.warm:
            burst(WIRE, max(flows, 1024))
        samples = []
        frames = (QUICK_FRAMES if run.quick else FRAMES) // CHUNKS
        for _ in run.turns():
            chunks = []
            for _ in range(CHUNKS):
                base, here = burst(BASE, frames), burst(WIRE, frames)
                wrong = _undelivered(wire.DROPPED, 1, base) or _undelivered(case.arrival, case.nodes, here)
                if wrong:
                    return wrong
                chunks.append((here.ns, base.ns))
            samples.append(Pair(median([ns for ns, _ in chunks]), median([ns for _, ns in chunks])))
        return samples


def _undelivered(arrival: int, nodes: int, burst: wire.Burst) -> str:
    """What is wrong with where the frames went; empty when nothing is."""
    share = int(burst.arrived[arrival]) / burst.sent
    expected = 1 / nodes
    slack = LOST if nodes == 1 else expected / 5
    if abs(share - expected) > slack:
        return f"{share:.1%} of the frames arrived where they should, expected {expected:.0%}"
    return ""


@contextmanager
def _rig(live: loader.Loaded, ours: loader.Loaded) -> Iterator[tuple[Gateway, Path]]:
    with place.namespace("gen") as generator, place.namespace("gw", place.ROUTER) as gateway:
        for name in (WIRE, BASE):
            wire.cable((generator, name, GENERATOR_MAC), (gateway, name, GATEWAY_MAC))
        wire.attach(gateway, "xdp", BASE, live.fds["drop_all"])
        record = live.maps["bench_wire"].record()
        record["expected"] = record["next_hop"] = list(mac(NEXT_MAC))
        record["own"] = list(mac(GATEWAY_MAC))
        live.maps["bench_wire"].put(0, record)
        wire.attach(generator, "xdp", WIRE, live.fds["sink"])
        yield Gateway(gateway, WIRE, live, ours), generator
