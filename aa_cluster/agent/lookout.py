# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's eye on its nodes: pulses and carriers in, what the membership must know out (docs/liveness.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from aa_cluster import api, log
from aa_cluster.agent.context import Context
from aa_cluster.agent.pulse import Pace, PulseThread
from aa_cluster.agent.tasks import TaskSet, pause
from aa_cluster.agent.threads import PlaneThread, urgently
from aa_cluster.core import membership
from aa_cluster.core.liveness import AskHosts, Carrier, Fit, HostsSaid, Liveness, Own, Unfit, Verdict, Watch
from aa_cluster.errors import AaError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aa_cluster.dataplane.pulses import Pulse
    from aa_cluster.dataplane.settings import Settings

HA_LINK = 16
"""As in dataplane/pulses.py."""

ASK_AGAIN_SECONDS = 1.0

_log = log.get("lookout")


class Carriers(Protocol):
    """``netlink.carrier_watch.CarrierWatch``."""

    def descriptor(self) -> int: ...
    def now(self) -> Mapping[int, bool]: ...
    def read(self) -> Collection[tuple[int, bool]] | None: ...
    def close(self) -> None: ...


class Lookout:
    """``feed`` gets the membership's events, on the event loop. ``hosts``: addresses on a data link, by its number."""

    def __init__(
        self,
        context: Context,
        plane: PlaneThread,
        settings: Settings,
        feed: Callable[[membership.Event], None],
        hosts: Callable[[int], tuple[str, ...]],
    ) -> None:
        ha = context.config.ha
        self._context = context
        self._feed = feed
        self.hosts = hosts
        self._ports = {port.slot: port for port in settings.ports}
        self._names = link_names(settings)
        self._links = {port.ifindex: port.slot for port in settings.ports} | {settings.ha_ifindex: HA_LINK}
        state = Liveness(tuple(self._names), HA_LINK, ha.dead_ms / 1000)
        self._pulse = PulseThread(
            plane.plane.prober, state, Pace.of(ha.pulse_ms), self._on_verdicts, context.host.lost_frames
        )
        self.on_own_links: Callable[[], None] = lambda: None
        self._carriers: Carriers | None = None
        self._down: set[int] = set()
        self._held: tuple[membership.Node, ...] | None = None
        self._tasks = TaskSet()

    def start(self) -> None:
        self._pulse.start()
        self._tasks.start(self._watch_carriers(), "carriers")

    async def stop(self) -> None:
        """Returns when nothing of it uses the dataplane any more."""
        await self._tasks.cancel()
        if self._carriers is not None:
            asyncio.get_running_loop().remove_reader(self._carriers.descriptor())
            self._carriers.close()
            self._carriers = None
        await self._pulse.stop()

    def hold(self) -> None:
        """Nobody is asked until ``release``: a successor says nothing from the virtual MACs before they are its own,
        and the node that hands them over answers as a primary until then."""
        self._held = ()

    def release(self) -> None:
        """Those who were to be watched meanwhile are; they have worked for another primary until now."""
        nodes, self._held = self._held, None
        if nodes:
            self.watch(nodes, proven=True)

    def watch(self, nodes: Iterable[membership.Node], proven: bool = False) -> None:
        """From now on these others are asked; they are in the node map. ``proven``: they have worked for another
        primary until now."""
        if self._held is not None:
            self._held = tuple(nodes)
            return
        others = [node for node in nodes if node.id != self._context.state.node_id]
        dead = frozenset(node.id for node in others if node.dead)
        ids = frozenset(node.id for node in others)
        self._pulse.feed(Watch(ids, dead, ids if proven else frozenset()))

    def why(self, node_id: int) -> str:
        """Why that node cannot carry sessions now, "" when it can as far as pulses tell."""
        state = self._pulse.state
        lost = state.lost(node_id) if node_id in state.nodes else ()
        return self._words(lost) if lost else ""

    def isolated(self) -> bool:
        """No data interface of this node has a carrier."""
        return self._down >= self._names.keys() - {HA_LINK}

    def unplugged(self) -> bool:
        """A data interface of this node has no carrier, or its port is dead."""
        return bool((self._down | self._pulse.state.deaf()) - {HA_LINK})

    def unheard(self) -> dict[int, tuple[str, ...]]:
        """Hosts that should answer, by the data link on which they do not."""
        return {link: self.hosts(link) for link in sorted(self._pulse.state.deaf())}

    def problems(self) -> list[str]:
        """One sentence each."""
        said = [self._pulse.trouble] if self._pulse.trouble else []
        return said + [self._own_words(link) for link in sorted(self._pulse.state.own)]

    def _on_verdicts(self, verdicts: tuple[Verdict, ...]) -> None:
        for verdict in verdicts:
            match verdict:
                case Unfit():
                    why = self._words(verdict.links)
                    self._feed(membership.Unfit(verdict.node, why, self._context.clock()))
                case Fit():
                    self._feed(membership.Fit(verdict.node))
                case Own():
                    self._tell_own(verdict)
                case AskHosts():
                    self._tasks.start(self._ask_hosts(verdict.link), "hosts")

    async def _ask_hosts(self, link: int) -> None:
        """Again and again while none answers."""
        answer = await self._host_answers(link)
        self._pulse.feed(HostsSaid(link, answer))
        while answer is False:
            await pause(ASK_AGAIN_SECONDS)
            if link not in self._pulse.state.deaf():
                return
            answer = await self._host_answers(link)
            self._pulse.feed(HostsSaid(link, answer))

    async def _host_answers(self, link: int) -> bool | None:
        """None when nobody is there to be asked."""
        port, addresses = self._ports[link], self.hosts(link)
        if not addresses:
            return None
        try:
            return await urgently(self._context.host.host_answers, port.name, port.virtual_mac, addresses)
        except AaError as error:
            _log.warning("hosts cannot be asked", link=port.name, why=error.message)
            return None

    def _tell_own(self, verdict: Own) -> None:
        name = self._names[verdict.link]
        text = self._own_words(verdict.link) if verdict.broken else f"this node's own {name} works again"
        write = _log.error if verdict.broken else _log.info
        write("own link", link=name, broken=verdict.broken)
        self._context.events.say("link", text, node=self._context.name, link=name)
        self.on_own_links()

    def _own_words(self, link: int) -> str:
        name = self._names[link]
        if link in self._pulse.state.carrierless:
            return f"this node's own {name} has no carrier"
        if link in self._pulse.state.deaf():
            return f"neither a node nor a host answers on {name}, so it is this node's own port that is dead"
        return f"nobody answers on {self._called(link)}, so it is this node's own that is broken"

    def _words(self, lost: tuple[int, ...]) -> str:
        if len(lost) == len(self._names):
            return "it answers on no link"
        if lost == (HA_LINK,):
            return "it is cut off from the HA link"
        return f"it does not answer on {' and '.join(map(self._called, lost))}"

    def _called(self, link: int) -> str:
        return f"the {self._names[link]}" if link == HA_LINK else self._names[link]

    # Carriers.

    async def _watch_carriers(self) -> None:
        try:
            self._carriers = await asyncio.to_thread(self._context.host.watch_carriers, tuple(self._links))
            asyncio.get_running_loop().add_reader(self._carriers.descriptor(), self._on_carriers)
            await self._look_at_carriers()
        except AaError as error:
            _log.warning("carriers are not watched", why=error.message)

    def _on_carriers(self) -> None:
        if self._carriers is None:
            return
        told = self._carriers.read()
        if told is None:
            self._tasks.start(self._look_at_carriers(), "carriers")
        for ifindex, up in told or ():
            self._set_carrier(ifindex, up)

    async def _look_at_carriers(self) -> None:
        if self._carriers is not None:
            for ifindex, up in (await asyncio.to_thread(self._carriers.now)).items():
                self._set_carrier(ifindex, up)

    def _set_carrier(self, ifindex: int, up: bool) -> None:
        link = self._links[ifindex]
        (self._down.discard if up else self._down.add)(link)
        self._pulse.feed(Carrier(link, up))
        self.on_own_links()


def link_names(settings: Settings) -> dict[int, str]:
    """Of the links of a node, by number."""
    return {port.slot: port.name for port in settings.ports} | {HA_LINK: "HA link"}


def link_rows(
    pulses: Mapping[tuple[int, int], Pulse], node_id: int, names: Mapping[int, str], now_ns: int
) -> tuple[api.LinkRow, ...]:
    """What pulses tell of one node's links. ``now_ns``: CLOCK_MONOTONIC."""
    rows = []
    for link, name in names.items():
        one = pulses[node_id, link]
        seen = max(one.answered_ns, one.heard_ns)
        rows.append(
            api.LinkRow(
                link="ha" if link == HA_LINK else name,
                heard=(now_ns - seen) / 1e6 if seen else None,
                rtt=one.rtt_ns / 1e6 if one.rtt_ns else None,
                unanswered=max(0, one.sent - one.answered),
            )
        )
    return tuple(rows)
