# SPDX-License-Identifier: GPL-2.0-or-later
"""Which program belongs on which hook of a node, and how a set of them takes the place of another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from pyroute2 import IPRoute

from aa_cluster.dataplane.attach import Attacher, Point, XdpMode
from aa_cluster.dataplane.roles import ProgramSets
from aa_cluster.dataplane.settings import Settings

ECHO_ORDER = 5
"""On the HA link's ingress: behind all others, which pass on what is not theirs."""

MUTE_ORDER = -1
"""In front of all others."""


def points(settings: Settings) -> list[Point]:
    """The hooks of a role in the order they are taken: what guards or answers first, what gives work last."""
    data = [port.ifindex for port in settings.ports]
    if settings.role == "primary":
        return [
            *(Point("ingress", index, "arp_answer") for index in data),
            *(Point("ingress", index, "admit", order=1) for index in data),
            Point("ingress", settings.ha_ifindex, "arp_serve"),
            Point("ingress", settings.ha_ifindex, "echo", order=ECHO_ORDER),
            Point("egress", settings.ha_ifindex, "compose"),
            *_steer(settings),
            *(Point("egress", index, "handoff") for index in data),
        ]
    return [
        *(Point("ingress", index, "adopt") for index in data),
        *(Point("egress", index, "arp_ask") for index in data),
        *(Point("egress", index, "announce", order=1) for index in data),
        Point("ingress", settings.ha_ifindex, "arp_take"),
        Point("ingress", settings.ha_ifindex, "echo", order=ECHO_ORDER),
        Point("ingress", settings.ha_ifindex, "mirror", order=1),
    ]


def _steer(settings: Settings) -> list[Point]:
    return [Point("xdp", port.ifindex, "steer") for port in settings.ports]


def _relinquish(settings: Settings) -> list[Point]:
    """XDP of a former primary."""
    return [Point("xdp", port.ifindex, "relinquish") for port in settings.ports]


def _mute(settings: Settings) -> list[Point]:
    return [Point("egress", port.ifindex, "mute", order=MUTE_ORDER) for port in settings.ports]


class Hooks:
    """Of one node. ``settings`` may be replaced; ``sets`` has the programs that wait for their turn."""

    def __init__(self, settings: Settings, sets: ProgramSets) -> None:
        self.settings = settings
        self._sets = sets

    def take(self, fds: Mapping[str, int]) -> None:
        """All of the role's; ``DataplaneError`` when somebody else's XDP program is there: then none."""
        wanted = points(self.settings)
        with self._attacher() as attacher:
            for point in wanted:
                attacher.refuse_others(point)
            self._put(attacher, wanted, fds)
            _detach(attacher, _mute(self.settings))

    def change(self, fds: Mapping[str, int], before: Settings, heir: bool) -> None:
        """From the other role to this one, the hooks one by one, each in one step, `steer` first: as long as a switch
        does not know where the virtual MAC is, every node gets what is for it, and a packet of another node's flow that
        this one's stack took would put that node's windows wrong.

        ``heir``: frames to the virtual MACs that still come are sent on to the new primary, until ``forget_heir``.
        Without one the new primary has those MACs already: a node that becomes an auxiliary says nothing until
        ``speak_again``, for its interfaces still have them.
        """
        wanted = sorted(points(self.settings), key=lambda point: point.hook != "xdp")
        with self._attacher() as attacher:
            if heir:
                self._put_waiting(attacher, _relinquish(self.settings))
            elif self.settings.role == "auxiliary":
                self._put_waiting(attacher, _mute(self.settings))
            self._put(attacher, wanted, fds)
            taken = {(point.hook, point.ifindex, point.priority) for point in wanted}
            for point in reversed(points(before)):
                if (point.hook, point.ifindex, point.priority) not in taken and not (heir and point.hook == "xdp"):
                    attacher.detach(point)
            if self.settings.role == "primary":
                _detach(attacher, _mute(self.settings))

    def be_silent(self) -> None:
        """Primary: from now on nothing leaves the data interfaces, until ``speak_again`` or the take of all hooks."""
        with self._attacher() as attacher:
            self._put_waiting(attacher, _mute(self.settings))
            _detach(attacher, _steer(self.settings))

    def speak_again(self) -> None:
        """As before ``be_silent``; nothing when it was not."""
        with self._attacher() as attacher:
            if self.settings.role == "primary":
                self._put_waiting(attacher, _steer(self.settings))
            _detach(attacher, _mute(self.settings))

    def forget_heir(self) -> None:
        """A former primary: nothing comes to the virtual MACs any more."""
        with self._attacher() as attacher:
            _detach(attacher, _relinquish(self.settings))

    def leave(self) -> None:
        """Every hook, and the qdiscs that were made for them. Idempotent."""
        wanted = points(self.settings)
        with self._attacher() as attacher:
            _detach(attacher, _mute(self.settings))
            _detach(attacher, reversed(wanted))
            for ifindex in dict.fromkeys(point.ifindex for point in wanted):
                attacher.release_qdisc(ifindex)

    def lost(self) -> list[Point]:
        """Hooks whose program somebody else took off; empty when all is well."""
        with self._attacher() as attacher:
            return [point for point in points(self.settings) if not attacher.attached(point)]

    def xdp_modes(self) -> dict[str, XdpMode]:
        with self._attacher() as attacher:
            return {port.name: attacher.xdp_mode(port.ifindex) for port in self.settings.ports}

    def _put(self, attacher: Attacher, wanted: Iterable[Point], fds: Mapping[str, int]) -> None:
        for point in wanted:
            attacher.attach(point, fds[point.program], self.settings.xdp)

    def _put_waiting(self, attacher: Attacher, wanted: Iterable[Point]) -> None:
        """Programs of the primary's set, whichever role this node has."""
        for point in wanted:
            fd = self._sets.open("primary", point.program)
            try:
                attacher.attach(point, fd, self.settings.xdp)
            finally:
                os.close(fd)

    @contextmanager
    def _attacher(self) -> Iterator[Attacher]:
        with IPRoute() as ipr:
            yield Attacher(ipr, self.settings.pins / "qdiscs")


def _detach(attacher: Attacher, wanted: Iterable[Point]) -> None:
    for point in wanted:
        attacher.detach(point)
