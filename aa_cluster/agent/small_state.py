# SPDX-License-Identifier: GPL-2.0-or-later
"""What a promoted node needs beside the flow table: the operator's orders, persistence, expectations of helpers.

Told to everybody by the primary's agent: orders when they change and every five seconds; each second all expectations,
and the bindings that are new, or all of them when a node begins to synchronise. See docs/replication.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

import msgspec

from aa_cluster import log
from aa_cluster.agent.context import Context
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage

if TYPE_CHECKING:
    from aa_cluster.config import Policy as PolicySection
    from aa_cluster.core.membership import Membership
    from aa_cluster.dataplane.small import Small

T = TypeVar("T")
NEWS_SECONDS = 1.0
ORDERS_SECONDS = 5.0

_log = log.get("small state")


class SmallTeller:
    """The primary's side: ``tell`` with each heartbeat, most of which do nothing."""

    def __init__(self, context: Context, plane: PlaneThread, members: Callable[[], Membership]) -> None:
        self._context = context
        self._plane = plane
        self._members = members
        self._parts: tuple[object, ...] = (None,) * 5  # of the orders as they were said last
        self._orders_due = 0.0
        self._news_due = 0.0
        self._begun = 0  # how often a node has begun
        self._since_ns = 0
        self._bindings = -1

    def begin_anew(self) -> None:
        """A node has nothing yet."""
        self._orders_due = self._news_due = 0.0
        self._begun += 1
        self._since_ns = 0

    def tell(self) -> bool:
        """True when there may be news, too: ``tell_news``."""
        now = self._context.clock()
        members = self._members()
        parts = (members.kind, members.weights, members.drained, members.ids, self._context.config.policy)
        if now >= self._orders_due or any(one is not other for one, other in zip(parts, self._parts, strict=True)):
            self._parts, self._orders_due = parts, now + ORDERS_SECONDS
            self._context.link.send(self._now())
        if now < self._news_due or not (self._context.config.persistence.enabled or parts[-1].share_helpers):
            return False
        self._news_due = now + NEWS_SECONDS
        return True

    def _now(self) -> control.SmallState:
        members = self._members()
        return control.SmallState(
            generation=members.generation,
            schedule=members.kind,
            policy=msgspec.json.encode(self._context.config.policy),
            weights=dict(sorted(members.weights.items())),
            drained=tuple(sorted(members.drained)),
            ids=dict(sorted(members.ids.items())),
        )

    async def tell_news(self) -> None:
        begun, since, members = self._begun, self._since_ns, self._members()
        small: Small = await self._plane.call(self._plane.plane.small_since, since)
        forgotten = small.all_bindings < self._bindings  # by order, or their time was over: said anew, whole
        if forgotten and since:
            small = await self._plane.call(self._plane.plane.small_since, 0)
        if begun == self._begun:  # else another node has begun meanwhile, and all is to be told once more
            self._since_ns = small.taken_ns
        self._bindings = small.all_bindings
        send = self._context.link.send
        for bindings, first in _bites(small.bindings, whole=forgotten or not since):
            send(control.BindingNote(members.generation, first, bindings))
        if self._context.config.policy.share_helpers:
            for expectations, first in _bites(small.expectations, whole=True):
                send(control.ExpectationNote(members.generation, first, expectations))


class SmallKeeper:
    """An auxiliary's side. ``orders``: what the primary said last. The rest goes into this node's maps."""

    def __init__(self, plane: PlaneThread) -> None:
        self.orders: control.SmallState | None = None
        self._plane = plane

    def policy(self) -> PolicySection | None:
        """The policy section in force on the primary."""
        from aa_cluster.config import Policy as PolicySection

        if self.orders is None:
            return None
        try:
            return msgspec.json.decode(self.orders.policy, type=PolicySection)
        except msgspec.MsgspecError as error:
            _log.error("the primary's policy cannot be read", why=str(error))
            return None

    def weights(self) -> Mapping[str, int]:
        """What operators have set, by name: also of nodes that are not there."""
        return {} if self.orders is None else self.orders.weights

    def on_message(self, message: AnyMessage, generation: int) -> bool:
        """True when it was small state; that of another generation is not kept."""
        match message:
            case control.SmallState():
                if message.generation == generation:
                    self.orders = message
            case control.BindingNote():
                if message.generation == generation:
                    self._plane.plane.take_bindings(message.bindings, message.whole)
            case control.ExpectationNote():
                if message.generation == generation:
                    self._plane.plane.take_expectations(message.expectations, message.whole)
            case _:
                return False
        return True


def _bites(rows: tuple[T, ...], *, whole: bool) -> Iterator[tuple[tuple[T, ...], bool]]:
    """So many at a time as fit a message; ``whole``: at least one, though empty, and the first says so."""
    for at in range(0, max(len(rows), int(whole)), control.MAX_BINDINGS):
        yield rows[at : at + control.MAX_BINDINGS], whole and not at
