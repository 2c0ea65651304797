# SPDX-License-Identifier: GPL-2.0-or-later
"""Flow events: the flow table compared with itself a moment ago, only while somebody watches.

A session that begins and is swept between two looks would be missed; but a flow stays in the table for the timeout of
its last state, a minute and more, so that only a port used again at once is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aa_cluster import log
from aa_cluster.agent.flows_view import row_of
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.dataplane.flows import ACCOUNT, CLOSED
from aa_cluster.errors import AaError

if TYPE_CHECKING:
    from aa_cluster import api
    from aa_cluster.agent.context import Context
    from aa_cluster.agent.threads import PlaneThread

LOOK_SECONDS = 0.2
REST = 10
"""A look at a large table takes long: rest so many times as long (a tenth of a core, while somebody watches)."""

_log = log.get("flows")


@dataclass(frozen=True, slots=True)
class Look:
    """One look: ``rows`` of ``FLOW_ROW`` in the order of ``keys``, which name them (64 bits)."""

    keys: np.ndarray
    rows: np.ndarray

    @property
    def open(self) -> np.ndarray:
        """Where a flow is not closed."""
        return self.rows["state"] < CLOSED


def look(table: np.ndarray) -> Look:
    """A flow is named by when it began, its ports, protocol and family: two that share all of it are taken for one."""
    ports = table["sport"].astype("u8") << np.uint64(48) | table["dport"].astype("u8") << np.uint64(32)
    kind = table["protocol"].astype("u8") << np.uint64(8) | table["family"]
    keys, places = np.unique(table["created_ns"].astype("u8") ^ ports ^ kind, return_index=True)
    return Look(keys, table[places])


def changes(before: Look, after: Look) -> tuple[np.ndarray, np.ndarray]:
    """(rows that began, rows that ended): closed, as they are now, or gone; also those that did both in between."""
    new = ~np.isin(after.keys, before.keys, assume_unique=True)
    was_open = np.isin(after.keys, before.keys[before.open], assume_unique=True)
    gone = before.open & ~np.isin(before.keys, after.keys, assume_unique=True)
    return after.rows[new], np.concatenate((before.rows[gone], after.rows[(new | was_open) & ~after.open]))


class FlowWatch:
    """Runs while the hub has a reader who wants flows. ``names``: node id → name."""

    def __init__(self, context: Context, plane: PlaneThread, names: Callable[[], Mapping[int, str]]) -> None:
        self._context = context
        self._plane = plane
        self._names = names
        self._tasks = TaskSet()
        self._running = False

    def follow_readers(self) -> None:
        """Call it whenever readers come or go."""
        if self._context.events.flows_wanted and not self._running:
            self._running = True
            self._tasks.start(self._run(), "flow events")

    async def stop(self) -> None:
        await self._tasks.cancel()

    async def _run(self) -> None:
        try:
            before = await self._look()
            while self._context.events.flows_wanted:
                start = time.monotonic()
                after = await self._look()
                began, ended = await asyncio.to_thread(changes, before, after)
                await self._tell(began, "flow-begin")
                await self._tell(ended, "flow-end")
                before = after
                await asyncio.sleep(max(LOOK_SECONDS, REST * (time.monotonic() - start)))
        except AaError as error:
            _log.error("flow events end", why=str(error))
        finally:
            self._running = False

    async def _look(self) -> Look:
        table = await self._plane.call(self._plane.plane.flows)
        return await asyncio.to_thread(look, table)

    async def _tell(self, rows: np.ndarray, event: api.EventKind) -> None:
        names, now = self._names(), time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for number, one in enumerate(rows):
            self._say(event, one, names, now)
            if number % 200 == 199:
                await asyncio.sleep(0)

    def _say(self, event: api.EventKind, one: Any, names: Mapping[int, str], now: int) -> None:
        flow = row_of(one, names, now)
        text = (
            f"{flow.protocol} {_endpoint(flow.source, flow.source_port)} → "
            f"{_endpoint(flow.destination, flow.destination_port)} on {flow.owner_name or flow.owner}"
        )
        self._context.events.say(
            event,
            text,
            node=flow.owner_name or str(flow.owner),
            address=flow.source,
            protocol=flow.protocol,
            family=flow.family,
            source=flow.source,
            source_port=flow.source_port,
            destination=flow.destination,
            destination_port=flow.destination_port,
            reply_source=flow.reply_source,
            reply_destination=flow.reply_destination,
            state=flow.state,
            phase=flow.phase,
            age=f"{flow.age:.1f}",
            **(_carried(flow) if event == "flow-end" else {}),
        )


def _carried(flow: api.FlowRow) -> dict[str, int]:
    """Until the look that found the flow ended; nothing where accounting is off."""
    counted = {name: getattr(flow, name) for name in ACCOUNT}
    return {name: count for name, count in counted.items() if count is not None}


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
