# SPDX-License-Identifier: GPL-2.0-or-later
"""Events between nodes: an auxiliary tells the primary, the primary everybody, in small batches on the HA link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import get_args

from aa_cluster import api
from aa_cluster.wire import control
from aa_cluster.wire.control import EventEntry

GATHER_SECONDS = 0.1


class EventRelay:
    """``send`` puts a message on the HA link; ``origin`` is this node's id. More than a batch at a time is dropped."""

    def __init__(self, origin: int, send: Callable[[control.EventNote], None]) -> None:
        self._origin = origin
        self._send = send
        self._waiting: list[EventEntry] = []
        self._left_out = 0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, event: api.Event) -> None:
        self.forward(_entry(event, self._origin))

    def forward(self, entry: EventEntry) -> None:
        """Also what another node saw."""
        if len(self._waiting) >= control.MAX_EVENTS - 1:
            self._left_out += 1
            return
        self._waiting.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._flush)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush(self) -> None:
        self._timer = None
        batch, self._waiting = self._waiting, []
        if self._left_out:
            text = f"{self._left_out} events of node {self._origin} were too many to be told"
            detail = {"count": str(self._left_out)}
            batch.append(EventEntry(self._origin, batch[-1].time, "dropped", "", "", text, detail))
            self._left_out = 0
        self._send(control.EventNote(tuple(batch)))


def _entry(event: api.Event, origin: int) -> EventEntry:
    detail = {key[:64]: value[:128] for key, value in list(event.detail.items())[:6]}
    return EventEntry(origin, event.time, event.event, event.node, event.address, event.text[:256], detail)


def event_of(entry: EventEntry) -> api.Event | None:
    """``None`` for a kind that this release does not know."""
    for kind in get_args(api.EventKind):
        if kind == entry.event:
            return api.Event(
                time=entry.time,
                event=kind,
                node=entry.node,
                address=entry.address,
                text=entry.text,
                detail=entry.detail,
            )
    return None
