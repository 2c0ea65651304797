# SPDX-License-Identifier: GPL-2.0-or-later
"""User space looks at the flow table while packets change it: a flow that ends between a look and what follows from it
may have made room for another of the same tuple, whose conntrack entry is the very same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from aa_cluster.agent.takeover import TakeOver
from aa_cluster.agent.threads import PlaneThread
from aa_cluster.dataplane import flows
from aa_cluster.dataplane.flows import CLOSED, DEAD, ESTABLISHED, Choice, Owned, owned, unchanged
from aa_cluster.netlink import conntrack
from tests.bpf.harness import CLIENT, OTHER, PUBLIC, SELF, SERVER, Plane, entry, tuple_of

pytestmark = pytest.mark.bpf

SECOND = 1_000_000_000
ORIGINAL, REPLY = tuple_of(CLIENT, 40000, SERVER, 80), tuple_of(SERVER, 80, PUBLIC, 50000)
LIFETIMES = {ESTABLISHED: 1000, CLOSED: 77}


class Looker:
    """Stands for the dataplane and its thread. ``then`` happens once, right after the next look."""

    def __init__(self, plane: Plane) -> None:
        self.maps = plane.maps
        self.plane = self
        self.then: Callable[[], object] | None = None

    def flows_of(self, owners: tuple[int, ...], wanted: Choice) -> Owned:
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
def takeover(looker: Looker) -> TakeOver:
    return TakeOver(cast(PlaneThread, looker), SELF, lambda: [OTHER], lambda: LIFETIMES)


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
