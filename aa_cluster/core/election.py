# SPDX-License-Identifier: GPL-2.0-or-later
"""Who becomes primary when the primary is gone: what keepalived says on each path, put together.

A path is one VRRP instance: the HA link, and a data interface. The primary is gone only when it is silent on every
path, so a node stands for the role when keepalived calls it MASTER on all of them, and goes on doing so for a moment:
two nodes may both think so until the first advertisement arrives. ``step(state, event)`` gives the new state and the
commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

PathState = Literal["unknown", "backup", "master", "fault"]
PATHS = ("ha", "data")


@dataclass(frozen=True, slots=True)
class Election:
    """``settle``: s that all paths must agree before the node stands. ``agreed``: since when they do, s.

    ``out``: why this node may not become primary, "" when it may.
    """

    settle: float
    paths: Mapping[str, PathState]
    agreed: float | None = None
    stood: bool = False
    out: str = ""

    @property
    def won(self) -> bool:
        """Every path says MASTER."""
        return all(self.paths.get(path) == "master" for path in PATHS)


@dataclass(frozen=True, slots=True)
class Told:
    """keepalived's word about one path."""

    path: str
    state: PathState
    now: float


@dataclass(frozen=True, slots=True)
class Waited:
    """The time that ``WaitUntil`` named has come."""

    at: float


@dataclass(frozen=True, slots=True)
class Barred:
    """``why`` this node may not become primary; "" when it may again."""

    why: str


Event = Told | Waited | Barred


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Come back with ``Waited`` at that time."""

    at: float


@dataclass(frozen=True, slots=True)
class Stand:
    """Become primary."""


Command = WaitUntil | Stand
Step = tuple[Election, tuple[Command, ...]]


def begin(settle: float) -> Election:
    return Election(settle, dict.fromkeys(PATHS, "unknown"))


def step(state: Election, event: Event) -> Step:
    match event:
        case Told():
            return _told(state, event)
        case Waited():
            return _stand_if_due(state, event.at)
        case Barred():
            return replace(state, out=event.why), ()


def _told(state: Election, event: Told) -> Step:
    told = replace(state, paths={**state.paths, event.path: event.state})
    if not told.won:
        return replace(told, agreed=None, stood=False), ()
    if state.agreed is not None:
        return told, ()
    return replace(told, agreed=event.now), (WaitUntil(event.now + state.settle),)


def _stand_if_due(state: Election, now: float) -> Step:
    if state.agreed is None or state.stood or state.out or now < state.agreed + state.settle:
        return state, ()
    return replace(state, stood=True), (Stand(),)
