# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs of a role: compiled, loaded and pinned as one set. A node keeps both sets, one of them attached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane import programs
from aa_cluster.dataplane.maps import Map
from aa_cluster.dataplane.object import Object
from aa_cluster.errors import DataplaneError

Role = Literal["primary", "auxiliary"]

SOURCES: dict[Role, tuple[str, ...]] = {
    "primary": (
        "admit",
        "handoff",
        "steer",
        "pulse",
        "compose",
        "arp_relay",
        "sweep",
        "reassign",
        "flush",
        "relinquish",
    ),
    "auxiliary": ("adopt", "mirror", "announce", "pulse", "arp_relay", "reserve", "deliver"),
}
"""The dearest to compile first: they are compiled side by side."""

OTHER: dict[Role, Role] = {"primary": "auxiliary", "auxiliary": "primary"}


def compiled(role: Role, defines: Mapping[str, int], cache: Path) -> dict[str, Object]:
    """In child processes, or out of the cache. ``defines``: what the sources are compiled with (-D)."""
    return objects.load(SOURCES[role], dict(defines), cache)


class ProgramSets:
    """Below ``pins``: a directory ``programs-ROLE-STAMP`` for each role. The stamp names code and maps."""

    def __init__(self, pins: Path) -> None:
        self._pins = pins

    def load(self, role: Role, compiled: Mapping[str, Object], maps: Mapping[str, Map]) -> dict[str, int]:
        """Program name → fd, which the caller closes. Loaded only when the very same set is not pinned yet."""
        directory = self._pins / f"programs-{role}-{_stamp(compiled, maps)}"
        wanted = frozenset(label for entry in compiled.values() for label in entry.programs)
        fds = programs.opened(directory, wanted)
        if fds is None:
            fds = programs.load(compiled, maps)
            programs.remove(directory)
            programs.pin(fds, directory)
        return fds

    def load_ahead(self, role: Role, compiled: Mapping[str, Object], maps: Mapping[str, Map]) -> None:
        """What can fail does so now; attaching them later is a matter of milliseconds."""
        for fd in self.load(role, compiled, maps).values():
            os.close(fd)

    def open(self, role: Role, program: str) -> int:
        """The fd of one pinned program, which the caller closes; ``DataplaneError`` when its set is not loaded."""
        found = programs.opened_one(self._pins, f"programs-{role}-*", program)
        if found is None:
            raise DataplaneError(f"{program} is not loaded on this node", "see the agent's log for why")
        return found

    def remove_older(self, role: Role, compiled: Mapping[str, Object], maps: Mapping[str, Map]) -> None:
        """Sets of that role with another stamp, and those of versions that knew no roles."""
        keep = f"programs-{role}-{_stamp(compiled, maps)}"
        others = tuple(f"programs-{one}-" for one in SOURCES if one != role)
        for directory in self._pins.glob("programs-*"):
            if directory.name != keep and not directory.name.startswith(others):
                programs.remove(directory)


def _stamp(compiled: Mapping[str, Object], maps: Mapping[str, Map]) -> str:
    """Accounts are made anew when accounting is switched: then so are programs."""
    return "-".join([*(objects.identity(entry)[:12] for entry in compiled.values()), str(maps["accounts"].info.id)])
