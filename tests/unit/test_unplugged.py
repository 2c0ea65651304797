# SPDX-License-Identifier: GPL-2.0-or-later
"""A primary loses data links: it hands its role over, or knows that it cannot."""

from __future__ import annotations

import asyncio

import pytest

from aa_cluster.agent import own_links, succession
from aa_cluster.agent.auxiliary import Auxiliary
from aa_cluster.agent.keepalived import CHOSEN, ahead
from aa_cluster.agent.node import Node
from aa_cluster.agent.primary import Primary
from aa_cluster.api import JoinRequest
from aa_cluster.wire import control, envelope
from aa_cluster.wire.keys import KeyRing
from tests.unit.fake_node import KEY, Machine, until
from tests.unit.test_agents import VIRTUAL, Segment, role_of, segment, states
from tests.unit.test_standing import Polls, master, part, polls
from tests.unit.test_succession import auxiliary_of, know_each_other, record

pytestmark = pytest.mark.slow  # a whole cluster plays in real time

__all__ = ["polls", "segment"]

Two = tuple[Machine, Node, Machine, Node]
HOSTS = {"int": "10.77.1.100", "ext": "10.77.2.100"}


@pytest.fixture
async def two(polls: Polls) -> Two:
    """A primary and its auxiliary, both in the election."""
    first, primary = polls.boot(1)
    await primary.join(JoinRequest(primary=True))
    second, auxiliary = polls.boot(2)
    await auxiliary.join(JoinRequest(timeout=3.0))
    await know_each_other(auxiliary)
    await until(lambda: first.carriers is not None)
    await until(lambda: (second.directory / "run/keepalived.fifo").is_fifo())
    return first, primary, second, auxiliary


def tell(machine: Machine, link: str, up: bool) -> None:
    assert machine.carriers is not None
    machine.carriers.tell(machine.links[link].ifindex, up)


async def test_it_hands_over_and_its_sessions_go_on_at_the_successor(two: Two) -> None:
    """Not only those of the others: who has no network serves nobody there."""
    first, primary, second, successor = two
    tell(first, "ext", False)
    await until(lambda: isinstance(successor.role, Primary))
    await until(lambda: "reassign 1 2" in second.plane.calls)
    assert states(successor) == {"node1": "dead", "node2": "active"}
    assert {name: second.macs[name] for name in VIRTUAL} == VIRTUAL
    assert auxiliary_of(primary).primary.name == "node2"


async def test_a_carrier_that_is_back_at_once_changes_nothing(two: Two, segment: Segment) -> None:
    first, primary, second, _ = two
    diary, role = record(segment.hub, first, second), primary.role
    tell(first, "ext", False)
    tell(first, "ext", True)
    await asyncio.sleep(3 * own_links.UNPLUGGED_SECONDS)
    assert "node1: PromoteAsk" not in diary
    assert primary.role is role


async def test_where_nobody_can_take_the_role_it_tries_again(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_links, "UNPLUGGED_AGAIN", 0.2)
    first, primary, second, successor = two
    second.carrierless = {"ext"}
    tell(first, "ext", False)
    await until(lambda: "set_heir 0" in first.plane.calls)
    assert isinstance(primary.role, Primary)
    second.carrierless = set()
    await until(lambda: isinstance(successor.role, Primary))


async def test_a_link_that_goes_again_does_not_wait_for_the_next_try(two: Two) -> None:
    first, primary, second, successor = two
    second.carrierless = {"ext"}
    tell(first, "ext", False)
    await until(lambda: "set_heir 0" in first.plane.calls)
    tell(first, "ext", True)
    second.carrierless = set()
    tell(first, "ext", False)
    await until(lambda: isinstance(successor.role, Primary))
    await until(lambda: isinstance(primary.role, Auxiliary))


async def test_cut_off_from_all_it_asks_nobody(two: Two, segment: Segment) -> None:
    """Whoever stands will take the role, and does not wait for what a node without networks may say."""
    first, primary, second, _ = two
    diary, role = record(segment.hub, first, second), primary.role
    tell(first, "ext", False)
    tell(first, "int", False)
    await until(lambda: "be_silent" in first.plane.calls)
    await asyncio.sleep(2 * own_links.UNPLUGGED_SECONDS)
    assert "node1: PromoteAsk" not in diary
    assert primary.role is role


async def test_back_with_one_link_it_asks_who_is_primary_and_then_hands_over(two: Two) -> None:
    first, primary, _, successor = two
    tell(first, "ext", False)
    tell(first, "int", False)
    await until(lambda: "be_silent" in first.plane.calls)
    tell(first, "int", True)
    await until(lambda: isinstance(successor.role, Primary))
    assert first.plane.calls.index("speak_again") < first.plane.calls.index("set_heir 2")
    await until(lambda: isinstance(primary.role, Auxiliary))


@pytest.mark.parametrize("alone", [True, False])
async def test_a_successor_that_finds_nobody_else_does_not_wait_to_be_told(
    two: Two, segment: Segment, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """Its former primary has died while it handed over: it says so on no path, as one does that lives."""
    monkeypatch.setattr(succession, "TAKE_SECONDS", 30.0)
    _, primary, second, successor = two
    keys = KeyRing.derive(KEY)
    segment.hub.lost = lambda sender, datagram: isinstance(envelope.unseal(datagram, keys.control), control.PromoteTake)
    handing = asyncio.create_task(primary.succession.hand_over(primary.role, "node2"))  # type: ignore[arg-type]
    await until(lambda: isinstance(successor.role, Primary))
    assert part(second) == ahead(2)
    master(second, "ha", *(("data",) if alone else ()))
    if alone:
        await until(lambda: {name: second.macs[name] for name in VIRTUAL} == VIRTUAL)
        await until(lambda: part(second) == CHOSEN)
    else:
        await asyncio.sleep(3 * succession.GONE_SECONDS)
        assert {name: second.macs[name] for name in VIRTUAL} != VIRTUAL
    handing.cancel()
    await asyncio.gather(handing, return_exceptions=True)


def go_deaf(machine: Machine, *nodes: int, link: str = "ext", slot: int = 1) -> None:
    """No node is heard on that link any more, nor a host."""
    machine.deaf |= {(node, slot) for node in nodes}
    machine.unheard |= {link}


@pytest.fixture
async def neighbourly(polls: Polls) -> Two:
    """As ``two``; the primary knows a host on each data link."""
    first, primary = polls.boot(1)
    for name in ("int", "ext"):
        first.table[first.links[name].ifindex] = {HOSTS[name]: b"\2\0\0\0\0\7"}
    await primary.join(JoinRequest(primary=True))
    second, auxiliary = polls.boot(2)
    await auxiliary.join(JoinRequest(timeout=3.0))
    await know_each_other(auxiliary)
    await until(lambda: (second.directory / "run/keepalived.fifo").is_fifo())
    await until(lambda: first.prober is not None and first.prober.counts(2, 1)[1] > 5)
    return first, primary, second, auxiliary


async def test_a_dead_port_with_a_carrier_hands_over(neighbourly: Two) -> None:
    """A host on the other side of it is witness; the successor hears one."""
    first, primary, second, successor = neighbourly
    go_deaf(first, 2)
    await until(lambda: isinstance(successor.role, Primary))
    await until(lambda: "reassign 1 2" in second.plane.calls)
    assert first.asked[0] == ("ext", (HOSTS["ext"],))
    assert second.asked == [("ext", (HOSTS["ext"],))]
    assert auxiliary_of(primary).primary.name == "node2"


async def test_the_hosts_seen_last_are_asked(neighbourly: Two) -> None:
    """At most eight; those of other networks are no witnesses."""
    first, primary, _, _ = neighbourly
    for number in range(1, 21):
        link = "ext" if number % 2 else "int"
        first.watch.see(first.links[link].ifindex, f"10.77.2.{number}", bytes((2, 0, 0, 0, 9, number)))
    await until(lambda: role_of(primary).lookout.hosts(1)[0] == "10.77.2.19")
    go_deaf(first, 2)
    await until(lambda: first.asked)
    assert first.asked[0] == ("ext", tuple(f"10.77.2.{number}" for number in range(19, 3, -2)))


async def test_nobody_follows_who_hears_no_host_either(neighbourly: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch is dead: the role stays where it is, and nobody is declared dead."""
    monkeypatch.setattr(own_links, "UNPLUGGED_AGAIN", 0.2)
    first, primary, second, successor = neighbourly
    second.unheard = {"ext"}
    go_deaf(first, 2)
    await until(lambda: len(second.asked) > 1)
    assert states(primary) == {"node1": "active", "node2": "active"}
    second.unheard = set()
    await until(lambda: isinstance(successor.role, Primary))


async def test_hosts_that_answer_leave_the_role_where_it_is(neighbourly: Two) -> None:
    first, primary, _, _ = neighbourly
    go_deaf(first, 2)
    first.unheard.clear()
    await until(lambda: states(primary) == {"node1": "active", "node2": "dead"})
    assert isinstance(primary.role, Primary)
