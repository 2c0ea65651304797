# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts whose MAC changes: the primary sees it, every auxiliary that knows the host is told over the HA link.

An auxiliary hears no ARP and no NDP on its data interfaces, so without this it would send to the old MAC until its own
entry goes stale and is asked for again, half a minute or more.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from aa_cluster import log
from aa_cluster.agent.context import Context, mac_text
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.errors import AaError
from aa_cluster.wire import control

if TYPE_CHECKING:
    from aa_cluster.dataplane.settings import Port
    from aa_cluster.netlink.neighbour_watch import Sighting

REMEMBERED = 65_536
"""Hosts whose MAC is remembered; the one not seen for the longest is forgotten first."""
ASKED = 8
"""Hosts of a segment that are asked whether they are there."""
GATHER_SECONDS = 0.02
TELL_SECONDS = 2.0
"""An auxiliary that does not answer for so long asks anew what it needs to know: its entries go stale."""

_log = log.get("neighbours")


class Watch(Protocol):
    """See ``netlink.neighbour_watch.NeighbourWatch``."""

    overrun: bool

    def descriptors(self) -> tuple[int, ...]: ...

    def read(self) -> list[Sighting]: ...

    def close(self) -> None: ...


class Neighbourhood:
    """The primary's side. ``auxiliaries`` gives the HA addresses of the nodes to tell."""

    def __init__(self, context: Context, ports: Sequence[Port], auxiliaries: Callable[[], Iterable[str]]) -> None:
        self._context = context
        self._ports = {port.ifindex: port for port in ports}
        self._auxiliaries = auxiliaries
        self._known: OrderedDict[tuple[int, str], bytes] = OrderedDict()
        self._news: dict[tuple[int, str], bytes] = {}
        self._untold: dict[str, dict[tuple[int, str], bytes]] = {}
        self._telling: set[str] = set()
        self._own = {port.virtual_mac for port in ports} | {port.physical_mac for port in ports}
        self._watch: Watch | None = None
        self._reading: tuple[int, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = TaskSet()

    def start(self) -> None:
        self._tasks.start(self._open(), "neighbours")

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ignore()
        await self._tasks.cancel()
        watch, self._watch = self._watch, None
        if watch is not None:  # nobody waits for it: the kernel takes some 15 ms for each packet socket
            asyncio.get_running_loop().run_in_executor(None, watch.close)

    def hosts(self, slot: int) -> tuple[str, ...]:
        """Addresses on that data link, at most ``ASKED`` of them, the ones seen last."""
        return tuple(islice((address for at, address in reversed(self._known) if at == slot), ASKED))

    async def _open(self) -> None:
        """The watch first, then the table: what changes in between is seen twice, not missed."""
        names = {ifindex: port.name for ifindex, port in self._ports.items()}
        self._watch = await asyncio.to_thread(self._context.host.watch_neighbours, names)
        self._reading = self._watch.descriptors()
        for descriptor in self._reading:
            asyncio.get_running_loop().add_reader(descriptor, self._on_readable)
        await self._read_table()

    def _ignore(self) -> None:
        for descriptor in self._reading:
            asyncio.get_running_loop().remove_reader(descriptor)
        self._reading = ()

    async def _read_table(self) -> None:
        for ifindex, port in self._ports.items():
            listed = await asyncio.to_thread(self._context.host.read_neighbours, ifindex)
            for address, mac in listed.items():
                self._learn(port, address, mac)

    def _on_readable(self) -> None:
        if self._watch is None:
            return
        for sighting in self._watch.read():
            port = self._ports.get(sighting.ifindex)
            if port is not None:
                self._learn(port, sighting.address, sighting.mac)
        if self._watch.overrun:
            self._watch.overrun = False
            self._tasks.start(self._read_table(), "neighbour table")

    def _learn(self, port: Port, address: str, mac: bytes) -> None:
        """An address seen for the first time is told too: an auxiliary may know more hosts than the primary."""
        if mac in self._own:
            return
        key = (port.slot, address)
        before = self._known.get(key)
        self._known[key] = mac
        self._known.move_to_end(key)
        if before == mac:
            return
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._news[key] = mac
        if before is not None:
            text = f"{address} on {port.name} has another MAC: {mac_text(mac)}, it was {mac_text(before)}"
            self._context.events.say(
                "neighbour", text, address=address, interface=port.name, mac=mac_text(mac), before=mac_text(before)
            )
            _log.info("neighbour changed", address=address, interface=port.name, mac=mac_text(mac))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._tell)

    def _tell(self) -> None:
        self._timer = None
        news, self._news = self._news, {}
        for node in self._auxiliaries():
            self._untold.setdefault(node, {}).update(news)
            if node not in self._telling:
                self._telling.add(node)
                self._tasks.start(self._tell_one(node), "tell neighbours")

    async def _tell_one(self, node: str) -> None:
        """One message at a time, so that a repetition of an old one never comes after a newer one."""
        try:
            while untold := self._untold.pop(node, {}):
                told = [control.Neighbour(slot, address, mac) for (slot, address), mac in untold.items()]
                for start in range(0, len(told), control.MAX_NEIGHBOURS):
                    batch = tuple(told[start : start + control.MAX_NEIGHBOURS])
                    await self._context.link.ask(
                        control.NeighbourTell(secrets.token_bytes(8), batch), node, TELL_SECONDS
                    )
        except AaError as error:
            _log.warning("an auxiliary was not told about neighbours", node=node, why=error.message)
        finally:
            self._telling.discard(node)


async def correct(context: Context, ports: Sequence[Port], told: control.NeighbourTell) -> int:
    """The auxiliary's side: entries it has get the MAC it is told; how many were wrong."""
    ifindexes = {port.slot: port.ifindex for port in ports}
    by_slot: dict[int, dict[str, bytes]] = {}
    for one in told.neighbours:
        by_slot.setdefault(one.slot, {})[one.address] = one.mac
    known = {ifindexes[slot]: macs for slot, macs in by_slot.items() if slot in ifindexes}
    return await asyncio.to_thread(_correct, context, known)


def _correct(context: Context, known: Mapping[int, dict[str, bytes]]) -> int:
    changed = 0
    for ifindex, macs in known.items():
        addresses = context.host.correct_neighbours(ifindex, macs)
        changed += len(addresses)
        for address in addresses:
            _log.info("neighbour corrected", address=address, mac=mac_text(macs[address]))
    return changed
