# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole agents in one process: real roles, link and state files; links, rules and dataplane made up."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aa_cluster import config as configuration
from aa_cluster.agent.context import Context
from aa_cluster.agent.host import Host
from aa_cluster.agent.link import Link
from aa_cluster.agent.node import Node
from aa_cluster.agent.state import StateFile
from aa_cluster.dataplane.settings import Settings
from aa_cluster.errors import NetlinkError
from aa_cluster.netlink.announce import Claim
from aa_cluster.netlink.links import LinkFacts
from aa_cluster.netlink.neighbour_watch import Sighting
from aa_cluster.netlink.traffic import Received
from aa_cluster.wire import envelope
from aa_cluster.wire.keys import KeyRing
from tests.unit.fake_plane import FakePlane, FakeProber

KEY = bytes(range(32))
BEAT_MS, SILENT_MS = 20, 200


class Hub:
    """The HA segment. ``lost(sender, datagram)`` true: that one does not arrive. ``sent`` keeps everything."""

    def __init__(self) -> None:
        self.ports: dict[str, Callable[[bytes, str], None]] = {}
        self.lost: Callable[[str, bytes], bool] = lambda sender, datagram: False
        self.sent: list[tuple[str, bytes]] = []

    def port(self, address: str, receive: Callable[[bytes, str], None]) -> Port:
        self.ports[address] = receive
        return Port(self, address)

    def carry(self, sender: str, datagram: bytes, to: Iterable[str]) -> None:
        self.sent.append((sender, datagram))
        if self.lost(sender, datagram):
            return
        loop = asyncio.get_running_loop()
        for address in to:
            receive = self.ports.get(address)
            if receive is not None:
                loop.call_soon(receive, datagram, sender)


@dataclass
class Port:
    hub: Hub
    address: str

    def send(self, datagram: bytes, address: str | None) -> None:
        if self.address in self.hub.ports:
            self.hub.carry(self.address, datagram, [address] if address else list(self.hub.ports))

    def close(self) -> None:
        self.hub.ports.pop(self.address, None)


def pipe_of(owner: object) -> tuple[int, int]:
    """Both ends, the first does not block; closed when its owner is no more."""
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    for end in ends:
        weakref.finalize(owner, os.close, end)
    return ends


class FakeCarriers:
    """Every link but the ``lost`` has a carrier; ``tell`` changes one."""

    def __init__(self, interfaces: Collection[int], lost: Collection[int] = ()) -> None:
        self._all = {ifindex: ifindex not in lost for ifindex in interfaces}
        self._pipe = pipe_of(self)
        self._told: list[tuple[int, bool]] = []

    def tell(self, ifindex: int, up: bool) -> None:
        self._told.append((ifindex, up))
        os.write(self._pipe[1], b"!")

    def descriptor(self) -> int:
        return self._pipe[0]

    def now(self) -> dict[int, bool]:
        return dict(self._all)

    def read(self) -> list[tuple[int, bool]]:
        os.read(self._pipe[0], 100)
        told, self._told = self._told, []
        return told

    def close(self) -> None:
        pass


class FakeWatch:
    """``see`` makes a sighting; the agent finds it through a pipe."""

    def __init__(self) -> None:
        self.overrun = False
        self._seen: list[Sighting] = []
        self._pipe = pipe_of(self)

    def see(self, ifindex: int, address: str, mac: bytes) -> None:
        self._seen.append(Sighting(ifindex, address, mac))
        os.write(self._pipe[1], b"!")

    def descriptors(self) -> tuple[int, ...]:
        return (self._pipe[0],)

    def read(self) -> list[Sighting]:
        os.read(self._pipe[0], 100)
        seen, self._seen = self._seen, []
        return seen

    def close(self) -> None:
        pass


class Machine:
    """One made-up node: interfaces, rules, a disk directory; ``boot`` starts an agent on it."""

    def __init__(self, hub: Hub, number: int, directory: Path, **changes: Any) -> None:
        self.hub = hub
        self.number = number
        self.address = f"10.77.0.{100 + number}"
        self.directory = directory
        self.name = changes.get("name", f"node{number}")
        self.key = changes.get("key", KEY)
        self.weight = changes.get("weight", 1)
        self.wire_version = changes.get("wire_version", envelope.VERSION)
        self.interfaces = changes.get("interfaces", ("int", "ext"))
        self.ruleset = "ab" * 32
        self.rules = ""
        self.broken = False
        self.stuck = False
        self.unprepared = False
        self.primary_heard = float("inf")
        self.primary_answers = False
        self.carrierless: set[str] = set()
        self.unchangeable: set[str] = set()
        self.keepalived: Path | None = changes.get("keepalived")
        self.pinned = False
        self.log: list[str] = []
        self.events: list[Any] = []
        self.neighbours: list[tuple[int, str, bytes]] = []
        self.pipe = pipe_of(self)
        self.watch = FakeWatch()
        self.deaf: set[tuple[int, int]] = set()
        self.unheard: set[str] = set()
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.voiceless = False
        self.prober: FakeProber | None = None
        self.carriers: FakeCarriers | None = None
        self.table: dict[int, dict[str, bytes]] = {}
        self.planes: list[FakePlane] = []
        self.links = {
            "int": self._link("int", 0, ("10.77.1.1/24",)),
            "ext": self._link("ext", 1, ("10.77.2.1/24",)),
            "ha": self._link("ha", 9, (f"{self.address}/24",)),
        }

    def _link(self, name: str, slot: int, addresses: tuple[str, ...]) -> LinkFacts:
        mac = bytes((0x52, 0, 0, 0, self.number, slot))
        return LinkFacts(name, slot + 2, mac, 1500, addresses, "veth", True)

    @property
    def plane(self) -> FakePlane:
        return self.planes[-1]

    @property
    def macs(self) -> dict[str, bytes]:
        return {name: link.mac for name, link in self.links.items()}

    def boot(self) -> Node:
        keys = KeyRing.derive(self.key)
        config = self.config()
        link = Link(keys, config.cluster.id, time.monotonic, self.wire_version, BEAT_MS / 1000)
        file = StateFile(config.paths.state)
        context = Context(config, keys, self.host(), link, file, time.monotonic, file.load())
        link.attach(self.hub.port(self.address, link.receive))
        return Node(context)

    def config(self) -> configuration.Config:
        return configuration.parse(self.config_text().encode())

    def config_text(self) -> str:
        names = ", ".join(f'"{name}"' for name in self.interfaces)
        kind = "static" if self.keepalived is None else "keepalived"
        return f"""
            cluster.id = 1
            node = {{ name = "{self.name}", weight = {self.weight} }}
            ha = {{ interface = "ha", heartbeat_ms = {BEAT_MS}, silent_ms = {SILENT_MS} }}
            data.interfaces = [{names}]
            replication.mode = "off"
            election = {{ kind = "{kind}", settle_ms = 10 }}
            paths = {{ run = "{self.directory}/run", state = "{self.directory}/state", pins = "{self.directory}/pins" }}
            """

    def host(self) -> Host:
        return Host(
            read_link=self._read_link,
            link_names=lambda: ("lo", *self.links),
            read_mac=lambda name: self._read_link(name).mac,
            set_mac=self._set_mac,
            announce=self._announce,
            host_answers=self._host_answers,
            put_neighbour=lambda ifindex, address, mac: self.neighbours.append((ifindex, address, mac)),
            read_neighbours=lambda ifindex: self.table.get(ifindex, {}),
            correct_neighbours=self._correct,
            watch_neighbours=lambda names: self.watch,
            lost_frames=lambda: 0,
            watch_carriers=self._watch_carriers,
            received=lambda names: Received(100, 6400),
            make_entries=self._make_entries,
            drop_entries=len,
            room_for_entries=lambda: 1000,
            forget_sessions=self._forget_sessions,
            ruleset_digest=lambda: self.ruleset,
            ruleset_text=lambda: self.rules,
            dataplane=self._dataplane,  # type: ignore[arg-type]
            pinned=lambda pins: self.pinned,
            kernel="6.18-test",
            keepalived=str(self.keepalived or "keepalived"),
        )

    def _announce(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self.log.append(f"announce {claim.name}")

    async def _forget_sessions(self, survey: object) -> int:
        self.log.append("forgot")
        return 0

    def _make_entries(self, rows: np.ndarray) -> int:
        self.log.append("entries")
        return len(rows)

    def _read_link(self, name: str) -> LinkFacts:
        if name not in self.links:
            raise NetlinkError(f"no interface {name}")
        return self.links[name]

    def _set_mac(self, name: str, mac: bytes) -> None:
        import dataclasses

        if name in self.unchangeable:
            raise NetlinkError(f"{name} keeps its MAC")
        self.log.append(f"mac {name}")
        self.links[name] = dataclasses.replace(self.links[name], mac=mac)

    def _correct(self, ifindex: int, known: dict[str, bytes]) -> tuple[str, ...]:
        there = self.table.get(ifindex, {})
        wrong = {address: mac for address, mac in known.items() if there.get(address, mac) != mac}
        there.update(wrong)
        return tuple(wrong)

    def _host_answers(self, name: str, mac: bytes, addresses: Collection[str]) -> bool:
        assert mac == self.macs.get(name, self.links[name].mac)
        self.asked.append((name, tuple(addresses)))
        return name not in self.unheard

    def _watch_carriers(self, interfaces: Collection[int]) -> FakeCarriers:
        self.carriers = FakeCarriers(interfaces, {self.links[name].ifindex for name in self.carrierless})
        return self.carriers

    def _dataplane(self, settings: Settings) -> FakePlane:
        self.planes.append(FakePlane(self, settings))
        return self.plane


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Turn the loop until ``condition`` holds; fails after ``seconds``."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def kill(node: Node) -> None:
    """As SIGKILL: nothing is said, the pins stay."""
    node.context.link.close()
    await node.close()
