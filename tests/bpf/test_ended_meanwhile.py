# SPDX-License-Identifier: GPL-2.0-or-later
"""User space looks at the flow table while packets change it: a flow that ends between a look and what follows from it
may have made room for another of the same tuple, whose conntrack entry is the very same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import pytest

from aa_cluster.agent import threads
from aa_cluster.agent.takeover import TakeOver
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.dataplane import flow_fill, flows
from aa_cluster.dataplane.decisions import mapped
from aa_cluster.dataplane.flow_fill import Hasher
from aa_cluster.dataplane.flows import (
    CLOSED,
    DATAGRAMS,
    DEAD,
    ESTABLISHED,
    FLOW_ROW,
    LASTS,
    STREAM,
    SYN_SENT,
    Choice,
    Owned,
    owned,
    unchanged,
)
from aa_cluster.netlink import conntrack, ct_create
from aa_cluster.netlink.conntrack import NAT, Status, Tuple
from aa_cluster.netlink.ct_create import NewEntry
from tests.bpf.harness import CLIENT, OTHER, PUBLIC, SELF, SERVER, TABLE_KEY, Plane, entry, tuple_of

pytestmark = pytest.mark.bpf

SECOND = 1_000_000_000
ORIGINAL, REPLY = tuple_of(CLIENT, 40000, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 50000)
LIFETIMES = {ESTABLISHED: 1000, CLOSED: 77, SYN_SENT: 60, DATAGRAMS: 31, STREAM: 555}
KINDS = [(4, 6), (6, 6), (4, 17), (6, 17)]
"""(family, protocol)"""


class Looker:
    """Stands for the dataplane and its thread. ``then`` happens once, right after the next look."""

    def __init__(self, plane: Plane) -> None:
        self.maps = plane.maps
        self.plane = self
        self.then: Callable[[], object] | None = None
        self.switched: list[int] = []

    def urgent(self) -> AbstractContextManager[None]:
        return nullcontext()

    def set_hop(self, node: int, local: bool) -> None:
        assert len(conntrack.dump()) == flows.count(self.maps["records"], self.maps["watermark"]), "entries come first"
        self.switched.append(node)

    def reassign(self, node: int, to: int, keep_own: bool) -> int:
        return 0

    def flows_of(self, owners: tuple[int, ...], wanted: Choice | None = None) -> Owned:
        return owned(self.maps["records"], self.maps["watermark"], owners, wanted)

    def unchanged(self, found: Owned) -> Owned:
        return unchanged(self.maps["records"], found)

    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        seen, then, self.then = function(*args), self.then, None
        if then is not None:
            then()
        return seen


@pytest.fixture
def looker(plane: Plane) -> Looker:
    return Looker(plane)


@pytest.fixture
def takeover(looker: Looker) -> Iterator[TakeOver]:
    threads._urgent_pool.cache_clear()  # a thread belongs to the network namespace it was begun in
    yield TakeOver(cast(PlaneThread, looker), SELF, lambda: [OTHER], lambda: LIFETIMES)
    threads._urgent_pool().shutdown()
    threads._urgent_pool.cache_clear()


def record_of(plane: Plane, number: int) -> np.ndarray:
    return plane.maps["records"].view()[number]


def begin(plane: Plane, owner: int) -> int:
    ago = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - 2 * SECOND
    return plane.add_flow(ORIGINAL, REPLY, owner, ESTABLISHED, seen_ns=ago)


def the_entry() -> tuple[str, bool]:
    """Its state, and whether it has the time of a session that is under way."""
    (found,) = conntrack.dump()
    return found.tcp_state or "", found.timeout > max(LIFETIMES[CLOSED], 120)


async def prepared(plane: Plane, takeover: TakeOver) -> int:
    number = begin(plane, OTHER)
    entry(ORIGINAL, REPLY)
    await takeover._prepare_all()
    assert the_entry() == ("ESTABLISHED", True)
    return number


async def test_the_entry_of_a_flow_that_has_ended_is_told(plane: Plane, takeover: TakeOver) -> None:
    record_of(plane, await prepared(plane, takeover))["state"] = CLOSED
    await takeover._prepare_all()
    assert the_entry() == ("TIME_WAIT", False)


async def test_that_of_another_session_is_let_alone(plane: Plane, looker: Looker, takeover: TakeOver) -> None:
    number = await prepared(plane, takeover)
    record_of(plane, number)["state"] = CLOSED

    def begins_anew() -> None:
        record_of(plane, number)["state"] = DEAD
        begin(plane, SELF)

    looker.then = begins_anew
    await takeover._prepare_all()
    assert the_entry() == ("ESTABLISHED", True)


def session(family: int, protocol: int) -> tuple[Tuple, Tuple, Tuple]:
    """Original, as it leaves the gateway, and reply tuple; both ends translated."""
    client, server, public, inner = (
        ("10.77.1.100", "10.77.1.1", "10.77.2.1", "10.77.2.100")
        if family == 4
        else ("fd77:1::100", "fd77:1::1", "fd77:2::1", "fd77:2::100")
    )
    original = Tuple(family, protocol, client, 40000, server, 8080)
    translated = Tuple(family, protocol, public, 50000, inner, 80)
    return original, translated, Tuple(family, protocol, inner, 80, public, 50000)


def record_flow(plane: Plane, original: Tuple, reply: Tuple, state: int, ended: int, age_s: float = 2.0) -> None:
    """Another node's, by ``flow_fill``."""
    row = np.zeros(1, FLOW_ROW)
    for one, prefix in ((original, ""), (reply, "reply_")):
        row[f"{prefix}saddr"], row[f"{prefix}daddr"] = list(mapped(one.source)), list(mapped(one.destination))
        row[f"{prefix}sport"], row[f"{prefix}dport"] = one.source_port, one.destination_port
    row["family"], row["protocol"] = original.family, original.protocol
    row["owner"], row["state"], row["ended"], row["mark"] = OTHER, state, ended, 0x11
    row["created_ns"] = row["seen_ns"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(age_s * SECOND)
    assert flow_fill.insert(plane.maps, Hasher(TABLE_KEY), row).all()


class TestAllKinds:
    """Take-over and its preparation, of TCP and UDP over both families."""

    SETTLED = Status.SEEN_REPLY | Status.ASSURED

    def found(self, original: Tuple) -> conntrack.ConntrackEntry:
        entry = conntrack.find(original)
        assert entry is not None
        return entry

    def timeout(self, protocol: int, ended: int) -> int:
        if protocol == 6:
            return LIFETIMES[ESTABLISHED]
        return LIFETIMES[STREAM if ended & LASTS else DATAGRAMS]

    @pytest.mark.parametrize(("family", "protocol"), KINDS)
    @pytest.mark.parametrize("ended", [0, LASTS])
    async def test_prepared(self, plane: Plane, takeover: TakeOver, family: int, protocol: int, ended: int) -> None:
        original, translated, reply = session(family, protocol)
        assert ct_create.create(NewEntry(original, translated, 0x11, "", 5))
        record_flow(plane, original, reply, ESTABLISHED, ended)
        await takeover._prepare_all()
        entry = self.found(original)
        assert entry.status & (self.SETTLED | NAT) == self.SETTLED | NAT
        assert (entry.reply, entry.mark) == (reply, 0x11)
        lifetime = self.timeout(protocol, ended)
        assert lifetime - 5 < entry.timeout <= lifetime
        conntrack.delete(original)
        await takeover._prepare_all()
        assert conntrack.find(original) is None, "it was ready, and is not made anew before it is needed"

    @pytest.mark.parametrize(("family", "protocol"), KINDS)
    @pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED])
    @pytest.mark.parametrize("there", [False, True], ids=["missing", "there"])
    async def test_taken_over(
        self, plane: Plane, looker: Looker, takeover: TakeOver, family: int, protocol: int, state: int, there: bool
    ) -> None:
        """Not one is left out: entry first, then the switch."""
        original, translated, reply = session(family, protocol)
        if there:
            assert ct_create.create(NewEntry(original, translated, 0x11, "", 5))
        record_flow(plane, original, reply, state, LASTS)
        taken = await takeover.take_over(OTHER)
        assert (taken.flows, taken.lost, taken.errors) == (1, 0, "")
        assert (taken.updated, taken.missing_created) == ((1, 0) if there else (0, 1))
        assert looker.switched == [OTHER]
        entry = self.found(original)
        assert (entry.reply, entry.mark, entry.status & NAT) == (reply, 0x11, NAT)
        settled = self.SETTLED if state == ESTABLISHED else Status(0) if protocol == 17 else Status.SEEN_REPLY
        assert entry.status & self.SETTLED == settled
        if protocol == 17:
            lifetime = LIFETIMES[STREAM if state == ESTABLISHED else DATAGRAMS]
            assert lifetime - 5 < entry.timeout <= lifetime

    async def test_one_that_becomes_a_stream_is_prepared_again(self, plane: Plane, takeover: TakeOver) -> None:
        original, translated, reply = session(6, 17)
        assert ct_create.create(NewEntry(original, translated, 0x11, "", 5))
        record_flow(plane, original, reply, ESTABLISHED, 0)
        await takeover._prepare_all()
        assert self.found(original).timeout <= LIFETIMES[DATAGRAMS]
        plane.maps["records"].view()["ended"][1] = LASTS
        await takeover._prepare_all()
        assert self.found(original).timeout > LIFETIMES[DATAGRAMS]


@pytest.mark.parametrize("state", [0, DEAD])
def test_one_that_ends_while_it_is_looked_at_is_not_found(plane: Plane, looker: Looker, state: int) -> None:
    begin(plane, OTHER)
    number = begin(plane, OTHER)

    def choice(records: np.ndarray, at: np.ndarray) -> np.ndarray:
        records["state"][number - 1] = state
        return np.ones(len(at), bool)

    found = looker.flows_of((OTHER,), choice)
    assert found.numbers.tolist() == [1]
    assert (found.rows["state"].tolist(), found.one_sided.tolist()) == ([ESTABLISHED], [False])


@pytest.mark.parametrize("change", [{"state": CLOSED}, {"owner": SELF}, {"created_ns": 1}])
def test_what_has_changed_since(plane: Plane, looker: Looker, change: dict[str, int]) -> None:
    begin(plane, OTHER)
    number = begin(plane, OTHER)
    found = looker.flows_of((OTHER,), lambda records, at: np.ones(len(at), bool))
    assert unchanged(plane.maps["records"], found) is found
    for name, value in change.items():
        record_of(plane, number)[name] = value
    left = unchanged(plane.maps["records"], found)
    assert (left.numbers.tolist(), len(left.rows), len(left.one_sided)) == ([1], 1, 1)
    assert flows.count(plane.maps["records"], plane.maps["watermark"]) == 2
