# SPDX-License-Identifier: GPL-2.0-or-later
"""What agents make of pulses: whole agents on a made-up segment, whose nodes answer or do not."""

from __future__ import annotations

import pytest

from aa_cluster import api
from aa_cluster.agent import views
from aa_cluster.agent.events import Filter, Subscription
from aa_cluster.agent.node import Node
from tests.unit.fake_node import Machine, kill, until
from tests.unit.test_agents import Segment, role_of, segment, states

pytestmark = pytest.mark.slow  # a whole cluster plays in real time

__all__ = ["segment"]

EXT, HA = 1, 16


def cut(machine: Machine, node: int, *links: int) -> None:
    """That node's pulses on these links (all, when none is named) are not answered any more."""
    machine.deaf |= {(node, link) for link in links or (0, EXT, HA)}


async def heard(reader: Subscription) -> list[tuple[str, str]]:
    return [(event.event, event.node) for event in await reader.take(5)]


async def problems(node: Node) -> str:
    return "; ".join((await views.status(node)).problems)


async def test_a_dead_node_is_taken_over_and_comes_back(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, auxiliary = await segment.auxiliary(2)
    epoch = second.plane.settings.epoch
    with primary.context.events.reading(Filter(kinds=frozenset({"dead", "returns"}))) as reader:
        cut(first, 2, EXT)
        await until(lambda: states(primary)["node2"] == "dead")
        await until(lambda: set(first.plane.sequence) == {1})
        assert await heard(reader) == [("dead", "node2")]
        assert first.plane.members[2].local, "in the node map its packets stay here"
        assert first.plane.draining == {2}
        calls = first.plane.calls
        assert (
            calls.index("set_hop 2 True") < calls.index("reassign 2 1") < len(calls) - calls[::-1].index("set_schedule")
        )
        assert "node2 is dead, it does not answer on ext" in await problems(primary)
        await until(lambda: auxiliary.role is not None and any(row.state == "dead" for row in auxiliary.role.table))
        assert "node2 is dead" in await problems(auxiliary)
        first.deaf.clear()
        await until(lambda: states(primary)["node2"] == "active")
        assert await heard(reader) == [("returns", "node2")]
    await until(lambda: set(first.plane.sequence) == {1, 2})
    assert not first.plane.members[2].local
    assert first.plane.draining == frozenset()
    assert second.plane.settings.epoch > epoch, "it has joined again, on the dataplane it had"
    assert len(second.planes) == 1
    assert await problems(primary) == ""


async def test_death_outlives_the_primarys_agent(segment: Segment) -> None:
    first, primary = await segment.primary()
    _, auxiliary = await segment.auxiliary(2)
    cut(first, 2)
    await until(lambda: states(primary)["node2"] == "dead")
    await until(lambda: any(one.dead for one in primary.context.state.members))
    await kill(auxiliary)
    await kill(primary)
    again = segment.boot(first)
    await again.resume()
    assert states(again)["node2"] == "dead"
    await until(lambda: first.plane.members[2].local)
    assert set(first.plane.sequence or (1,)) == {1}


async def test_cut_off_from_the_ha_link(segment: Segment) -> None:
    first, primary = await segment.primary()
    await segment.auxiliary(2)
    cut(first, 2, HA)
    await until(lambda: states(primary)["node2"] == "dead")
    assert "cut off from the HA link" in await problems(primary)


async def test_the_primarys_own_carrier(segment: Segment) -> None:
    first, primary = await segment.primary()
    await segment.auxiliary(2)
    await until(lambda: first.carriers is not None)
    with primary.context.events.reading(Filter(kinds=frozenset({"link"}))) as reader:
        first.carriers.tell(first.links["ext"].ifindex, False)  # type: ignore[union-attr]
        assert await heard(reader) == [("link", "node1")]
        cut(first, 2, EXT)
        assert "own ext has no carrier" in await problems(primary)
        first.deaf.clear()
        first.carriers.tell(first.links["ext"].ifindex, True)  # type: ignore[union-attr]
        assert await heard(reader) == [("link", "node1")]
    assert states(primary)["node2"] == "active"
    assert await problems(primary) == ""


async def test_nodes_show_their_links(segment: Segment) -> None:
    _, primary = await segment.primary()
    _, auxiliary = await segment.auxiliary(2)
    own, other = (await views.status(primary)).nodes
    assert own.links == ()
    assert [(link.link, link.rtt, link.unanswered) for link in other.links] == [
        ("int", 2.0, 1),
        ("ext", 2.0, 1),
        ("ha", 2.0, 1),
    ]
    await until(lambda: auxiliary.role is not None and len(auxiliary.role.table) == 2)
    first, _ = (await views.status(auxiliary)).nodes
    assert [link.link for link in first.links] == ["int", "ext", "ha"]
    assert isinstance(first.links[0], api.LinkRow)


async def test_a_node_that_cannot_be_asked_is_a_problem(segment: Segment) -> None:
    """No program, no pulses: nobody is declared dead, and it is said."""
    first, primary = await segment.primary()
    await segment.auxiliary(2)
    first.voiceless = True
    await kill(primary)
    again = segment.boot(first)
    await again.resume()
    await until(lambda: role_of(again).lookout.problems() != [])
    assert "no pulses can be sent" in await problems(again)
    assert states(again)["node2"] != "dead"
