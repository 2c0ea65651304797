# SPDX-License-Identifier: GPL-2.0-or-later
"""What the primary's agent tells of bindings and expectations: what is new, and when it is all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from aa_cluster.agent.small_state import SmallTeller
from aa_cluster.dataplane.small import BindingRow, ExpectationRow, Small
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage, BindingNote, ExpectationNote

GENERATION = 3


@dataclass
class Cluster:
    """A primary's maps, and what it sends. ``asked``: since when; ``meanwhile`` is done while the plane is asked."""

    bindings: tuple[BindingRow, ...] = ()
    expectations: tuple[ExpectationRow, ...] = ()
    asked: list[int] = field(default_factory=list)
    sent: list[AnyMessage] = field(default_factory=list)
    now: int = 1000
    meanwhile: Callable[[], None] = lambda: None

    @property
    def plane(self) -> Cluster:
        return self

    def small_since(self, since_ns: int) -> Small:
        self.asked.append(since_ns)
        self.now += 1
        return Small(self.now, self.bindings, self.expectations, len(self.bindings))

    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        self.meanwhile()
        return function(*args)

    def send(self, message: AnyMessage) -> None:
        self.sent.append(message)

    def told(self) -> list[AnyMessage]:
        sent, self.sent = self.sent, []
        return sent


def teller(cluster: Cluster, share_helpers: bool = True) -> SmallTeller:
    config = SimpleNamespace(policy=SimpleNamespace(share_helpers=share_helpers))
    context = SimpleNamespace(config=config, link=cluster, clock=lambda: 0.0)
    members = SimpleNamespace(generation=GENERATION)
    return SmallTeller(cast(Any, context), cast(Any, cluster), cast(Any, lambda: members))


def expectation(number: int) -> ExpectationRow:
    return number.to_bytes(36, "big"), 2, 300_000


async def test_bindings_once_and_expectations_each_time() -> None:
    """What of the first is lost comes with its client's next session; what is expected no more is not told at all."""
    cluster = Cluster(((bytes(16), 2, 0),), (expectation(1),))
    small = teller(cluster)
    await small.tell_news()
    assert cluster.told() == [
        BindingNote(GENERATION, True, cluster.bindings),
        ExpectationNote(GENERATION, True, (expectation(1),)),
    ]
    await small.tell_news()
    assert cluster.asked == [0, 1001], "only what is new since"
    cluster.expectations = ()
    cluster.told()
    await small.tell_news()
    assert cluster.told()[-1] == ExpectationNote(GENERATION, True, ())


async def test_without_shared_helpers_nothing_is_expected() -> None:
    cluster = Cluster()
    await teller(cluster, share_helpers=False).tell_news()
    assert cluster.told() == [BindingNote(GENERATION, True, ())]


async def test_more_than_a_message_holds() -> None:
    """All others are forgotten with the first message alone."""
    cluster = Cluster(expectations=tuple(expectation(number) for number in range(control.MAX_BINDINGS + 1)))
    await teller(cluster).tell_news()
    _, first, second = cluster.told()
    assert isinstance(first, ExpectationNote)
    assert isinstance(second, ExpectationNote)
    assert (first.whole, len(first.expectations)) == (True, control.MAX_BINDINGS)
    assert (second.whole, second.expectations) == (False, (expectation(control.MAX_BINDINGS),))


async def test_a_node_that_begins_meanwhile_gets_all_of_it() -> None:
    cluster = Cluster(((bytes(16), 2, 0),))
    small = teller(cluster)
    await small.tell_news()
    cluster.meanwhile = small.begin_anew
    await small.tell_news()
    cluster.meanwhile = lambda: None
    cluster.told()
    await small.tell_news()
    assert cluster.asked == [0, 1001, 0]
    assert cluster.told()[0] == BindingNote(GENERATION, True, cluster.bindings)


async def test_bindings_that_were_removed() -> None:
    cluster = Cluster(((bytes(16), 2, 0), (bytes(15) + b"\1", 2, 0)))
    small = teller(cluster)
    await small.tell_news()
    cluster.told()
    cluster.bindings = cluster.bindings[:1]
    await small.tell_news()
    assert cluster.told()[0] == BindingNote(GENERATION, True, cluster.bindings)
