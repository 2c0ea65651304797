# SPDX-License-Identifier: GPL-2.0-or-later
"""Joining, refusals, leaving, silence and restarts, between whole agents on a made-up segment."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aa_cluster.agent import views
from aa_cluster.agent.auxiliary import Auxiliary
from aa_cluster.agent.node import Node
from aa_cluster.agent.primary import Primary
from aa_cluster.api import JoinRequest, LeaveRequest
from aa_cluster.dataplane.events import Event
from aa_cluster.errors import DataplaneError, JoinRefused, StateError, TimeoutReached
from tests.unit.fake_node import Hub, Machine, kill, until
from tests.unit.fake_plane import FakePlane

VIRTUAL = {"int": bytes.fromhex("02aa00010000"), "ext": bytes.fromhex("02aa00010001")}


class Segment:
    """Machines on one HA segment, and the agents that run on them."""

    def __init__(self, directory: Path) -> None:
        self.hub = Hub()
        self.directory = directory
        self.running: list[Node] = []

    def machine(self, number: int, **changes: Any) -> Machine:
        return Machine(self.hub, number, self.directory / str(number), **changes)

    def boot(self, machine: Machine) -> Node:
        node = machine.boot()
        self.running.append(node)
        return node

    async def primary(self) -> tuple[Machine, Node]:
        machine = self.machine(1)
        node = self.boot(machine)
        await node.join(JoinRequest(primary=True))
        return machine, node

    async def auxiliary(self, number: int, **changes: Any) -> tuple[Machine, Node]:
        machine = self.machine(number, **changes)
        node = self.boot(machine)
        await node.join(JoinRequest(timeout=3.0))
        return machine, node


@pytest.fixture
async def segment(tmp_path: Path) -> AsyncIterator[Segment]:
    made = Segment(tmp_path)
    yield made
    for node in made.running:
        await kill(node)


def role_of(node: Node) -> Primary:
    assert isinstance(node.role, Primary)
    return node.role


def states(node: Node) -> dict[str, str]:
    return {one.facts.name: one.state for one in role_of(node).members.nodes.values()}


async def leave(node: Node, **request: Any) -> list[tuple[int, bool]]:
    return [(line.sessions, line.done) async for line in node.leave(LeaveRequest(**request))]


async def test_the_primary_attaches_before_it_wears_the_virtual_macs(segment: Segment) -> None:
    machine, node = await segment.primary()
    assert machine.log[0] == "attached"
    for name in VIRTUAL:
        assert machine.log.index(f"mac {name}") < machine.log.index(f"announce {name}")
    assert {name: machine.macs[name] for name in VIRTUAL} == VIRTUAL
    assert set(machine.plane.sequence) == {1}
    assert node.context.state.generation == 1
    assert (await views.status(node)).health == "ok"


async def test_nodes_join_and_get_work(segment: Segment) -> None:
    first, node = await segment.primary()
    second, auxiliary = await segment.auxiliary(2)
    third, _ = await segment.auxiliary(3)
    assert first.plane.sequence[:3] == (1, 2, 3)
    assert first.plane.members[2].macs == (second.macs["int"], second.macs["ext"])
    assert first.plane.settings.epoch == role_of(node).members.epoch >= third.plane.settings.epoch
    assert second.plane.settings.primary_ha_mac == first.macs["ha"]
    assert tuple(port.virtual_mac for port in second.plane.settings.ports) == tuple(VIRTUAL.values())
    assert second.log == ["attached"], "an auxiliary keeps its MACs"
    assert isinstance(auxiliary.role, Auxiliary)
    await until(lambda: len(auxiliary.role.table) == 3)  # type: ignore[union-attr]
    status = await views.status(auxiliary)
    assert [(row.name, row.state, round(row.share, 2)) for row in status.nodes] == [
        ("node1", "active", 0.33),
        ("node2", "active", 0.33),
        ("node3", "active", 0.33),
    ]
    assert status.problems == ()


def _other_ruleset(machine: Machine) -> None:
    machine.ruleset = "cd" * 32


def _other_address(machine: Machine) -> None:
    machine.links["int"] = dataclasses.replace(machine.links["int"], addresses=("10.77.1.7/24",))


def _missing_link(machine: Machine) -> None:
    del machine.links["ext"]


def _no_ha_address(machine: Machine) -> None:
    machine.links["ha"] = dataclasses.replace(machine.links["ha"], addresses=())


@pytest.mark.parametrize(
    ("changes", "spoil", "says"),
    [
        ({}, _missing_link, "interface ext: found missing (there: lo, int, ha)"),
        ({"interfaces": ("int",)}, None, "interface ext: found missing (there: int)"),
        ({}, _other_address, "addresses of int: found 10.77.1.7/24, expected 10.77.1.1/24"),
        ({}, _other_ruleset, "ruleset: found digest cdcd"),
        ({}, _no_ha_address, "address of ha: found no IPv4 address"),
        ({"wire_version": 2}, None, "wire version of 10.77.0.102: found 2, expected 1"),
        ({"key": bytes(32)}, None, "cluster key: found fingerprint"),
        ({"name": "node1"}, None, "node name: found node1, which is active as node 1"),
        ({"name": "node3"}, None, "node name: found node3, which is active as node 2"),
    ],
)
async def test_refusals_name_the_difference_and_change_nothing(
    segment: Segment, changes: dict[str, Any], spoil: Callable[[Machine], None] | None, says: str
) -> None:
    first, primary = await segment.primary()
    await segment.auxiliary(3)
    refused = segment.machine(2, **changes)
    if spoil is not None:
        spoil(refused)
    node = segment.boot(refused)
    before = (dict(refused.macs), states(primary), first.plane.sequence, role_of(primary).members.epoch)
    with pytest.raises(JoinRefused) as caught:
        await node.join(JoinRequest(timeout=2.0))
    text = "\n".join(caught.value.findings)
    assert says.replace("10.77.0.102", "10.77.0.101") in text
    assert "; " in text, "there is a remedy"
    after = (dict(refused.macs), states(primary), first.plane.sequence, role_of(primary).members.epoch)
    assert after == before
    assert (node.role, node.context.state.role, refused.log) == (None, "none", [])


@pytest.mark.parametrize("changes", [{}, {"key": bytes(32)}, {"wire_version": 2}])
async def test_a_second_primary_is_refused(segment: Segment, changes: dict[str, Any]) -> None:
    await segment.primary()
    second = segment.machine(2, **changes)
    with pytest.raises(JoinRefused) as caught:
        await segment.boot(second).join(JoinRequest(primary=True))
    assert caught.value.findings
    assert second.log == []


async def test_of_two_that_want_to_be_primary_at_once_one_wins(segment: Segment) -> None:
    nodes = [segment.boot(segment.machine(number)) for number in (1, 2)]
    results = await asyncio.gather(*(node.join(JoinRequest(primary=True)) for node in nodes), return_exceptions=True)
    assert sorted(isinstance(result, JoinRefused) for result in results) == [False, True]


async def test_nobody_there(segment: Segment) -> None:
    with pytest.raises(JoinRefused) as caught:
        await segment.boot(segment.machine(2)).join(JoinRequest(timeout=0.3))
    assert "none heard on ha" in caught.value.findings[0]


async def test_a_dataplane_that_does_not_start_leaves_nothing(segment: Segment) -> None:
    machine, _ = await segment.primary()
    broken = segment.machine(2)
    broken.broken = True
    node = segment.boot(broken)
    with pytest.raises(DataplaneError, match="verifier"):
        await node.join(JoinRequest())
    assert (node.role, node.context.state.role, broken.pinned) == (None, "none", False)
    await until(lambda: list(machine.plane.members) == [1])
    alone = segment.machine(3)
    alone.broken = True
    machine.hub.ports.clear()
    node = segment.boot(alone)
    with pytest.raises(DataplaneError, match="verifier"):
        await node.join(JoinRequest(primary=True))
    assert (node.role, node.context.state.role, alone.log) == (None, "none", ["detached"])


@pytest.mark.parametrize("number", [1, 2])
async def test_a_dataplane_that_cannot_be_taken_off_can_be_left_again(segment: Segment, number: int) -> None:
    machine, node = await segment.primary()
    if number == 2:
        machine, node = await segment.auxiliary(2)
    machine.stuck = True
    with pytest.raises(DataplaneError, match="stuck"):
        await leave(node, timeout=5.0)
    assert node.context.state.role != "none"
    machine.stuck = False
    assert await leave(node, timeout=5.0) == [*([(0, False)] if number == 2 else []), (0, True)]
    assert (node.role, node.context.state.role, machine.pinned) == (None, "none", False)


async def test_an_interface_that_vanished_is_a_problem_not_an_error(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, node = await segment.primary()

    def gone(plane: FakePlane) -> dict[str, str]:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(FakePlane, "xdp_modes", gone)
    monkeypatch.setattr(FakePlane, "detached_hooks", gone)
    del machine.links["ext"]
    shown = await views.status(node)
    assert shown.health == "degraded"
    assert "interface ext is missing" in shown.problems
    assert await leave(node, timeout=5.0) == [(0, True)]
    assert machine.macs["int"] != VIRTUAL["int"]


async def test_joining_twice_and_leaving_nowhere(segment: Segment) -> None:
    _, node = await segment.primary()
    with pytest.raises(StateError, match="already"):
        await node.join(JoinRequest(primary=True))
    with pytest.raises(StateError, match="no cluster"):
        await leave(segment.boot(segment.machine(5)))


async def test_joining_works_on_a_lossy_link(segment: Segment) -> None:
    await segment.primary()
    dice = random.Random(7)
    segment.hub.lost = lambda sender, datagram: dice.random() < 0.3
    _, node = await segment.auxiliary(2)
    assert node.context.state.node_id == 2


async def test_leave_drains_detaches_and_keeps_the_id(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, node = await segment.auxiliary(2)
    await segment.auxiliary(3)
    first.plane.sessions = {2: 4}
    lines: list[tuple[int, bool]] = []
    async for line in node.leave(LeaveRequest(timeout=20.0)):
        lines.append((line.sessions, line.done))
        assert set(first.plane.sequence) == {1, 3}
        if first.plane.sessions:
            assert second.pinned
        first.plane.sessions = {}
    assert lines[0] == (4, False)
    assert lines[-1] == (0, True)
    assert not second.pinned
    assert set(first.plane.members) == {1, 3}
    assert node.context.state.role == "none"
    await node.join(JoinRequest())
    assert node.context.state.node_id == 2
    assert states(primary)["node2"] == "active"


async def test_leave_goes_after_the_timeout_and_says_what_is_left(segment: Segment) -> None:
    first, _ = await segment.primary()
    second, node = await segment.auxiliary(2)
    first.plane.sessions = {2: 4}
    assert (await leave(node, timeout=0.2))[-1] == (4, True)
    assert not second.pinned


async def test_a_leave_that_is_broken_off_leaves_the_node_at_work(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, node = await segment.auxiliary(2)
    first.plane.sessions = {2: 4}
    lines = node.leave(LeaveRequest(timeout=20.0))
    await anext(lines)
    assert states(primary)["node2"] == "draining"
    await lines.aclose()
    await until(lambda: states(primary)["node2"] == "active")
    assert second.pinned


async def test_leave_without_an_answer_needs_force(segment: Segment) -> None:
    _, primary = await segment.primary()
    second, node = await segment.auxiliary(2)
    await kill(primary)
    assert isinstance(node.role, Auxiliary)
    with pytest.raises(TimeoutReached, match="does not answer"):
        await leave(node, timeout=0.1)
    assert second.pinned
    assert (await leave(node, timeout=0.1, force=True))[-1] == (0, True)
    assert not second.pinned


async def test_the_primary_leaves_last(segment: Segment) -> None:
    first, primary = await segment.primary()
    physical = {name: bytes((0x52, 0, 0, 0, 1, slot)) for slot, name in enumerate(("int", "ext"))}
    _, node = await segment.auxiliary(2)
    with pytest.raises(StateError, match="node2"):
        await leave(primary)
    await leave(node)
    first.log.clear()
    assert (await leave(primary))[-1] == (0, True)
    assert {name: first.macs[name] for name in physical} == physical
    assert first.log == ["detached", "mac int", "mac ext", "announce int", "announce ext"]
    await primary.join(JoinRequest(primary=True))
    assert primary.context.state.generation == 2


async def test_weights_from_either_side(segment: Segment) -> None:
    first, primary = await segment.primary()
    _, node = await segment.auxiliary(2, weight=3)
    assert first.plane.sequence.count(2) == 3 * first.plane.sequence.count(1)
    assert isinstance(node.role, Auxiliary)
    await node.role.set_weight("node1", 0)
    assert set(first.plane.sequence) == {2}
    await role_of(primary).set_weight("node1", 3)
    assert first.plane.sequence.count(2) == first.plane.sequence.count(1)
    with pytest.raises(StateError, match="nobody"):
        await node.role.set_weight("nobody", 1)


async def test_a_killed_auxiliary_falls_silent_and_resumes(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, node = await segment.auxiliary(2)
    await kill(node)
    await until(lambda: states(primary)["node2"] == "silent")
    await until(lambda: set(first.plane.sequence) == {1})
    assert set(first.plane.members) == {1, 2}
    assert any("silent" in problem for problem in (await views.status(primary)).problems)
    again = segment.boot(second)
    await again.resume()
    await until(lambda: states(primary)["node2"] == "active")
    await until(lambda: set(first.plane.sequence) == {1, 2})
    assert second.plane.settings.node_id == 2
    assert second.log.count("detached") == 0


async def test_a_killed_primary_resumes_and_leaves_the_schedule_alone(segment: Segment) -> None:
    first, primary = await segment.primary()
    _, node = await segment.auxiliary(2)
    await role_of(primary).set_weight("node2", 2)
    epoch = role_of(primary).members.epoch
    await kill(primary)
    assert isinstance(node.role, Auxiliary)
    await until(lambda: node.context.clock() - node.role.heard > 0.25)  # type: ignore[union-attr]
    assert (await views.status(node)).health == "down"
    again = segment.boot(first)
    await again.resume()
    await until(lambda: node.context.clock() - node.role.heard < 0.1)  # type: ignore[union-attr]
    assert first.plane.calls == ["start", "set_members"], "the schedule goes on where it was"
    members = role_of(again).members
    assert (members.epoch, members.generation, members.nodes[2].weight) == (epoch, 1, 2)
    assert (await views.status(again)).health == "ok"


async def test_a_rebooted_auxiliary_joins_again_by_itself(segment: Segment) -> None:
    _, primary = await segment.primary()
    second, node = await segment.auxiliary(2)
    await kill(node)
    second.pinned = False
    await segment.boot(second).resume()
    assert states(primary)["node2"] == "active"


async def test_a_rebooted_primary_begins_a_generation_and_the_others_come_back(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, node = await segment.auxiliary(2)
    await kill(primary)
    first.pinned = False
    again = segment.boot(first)
    await again.resume()
    await until(lambda: states(again).get("node2") == "active")
    assert node.context.state.generation == 2
    assert second.plane.settings.generation == 2
    assert second.log == ["attached", "forgot"], "its dataplane went on meanwhile, its sessions are nobody's"
    await until(lambda: set(first.plane.sequence) == {1, 2})


async def test_what_the_programs_tell_reaches_the_neighbour_table(segment: Segment) -> None:
    machine, _ = await segment.primary()
    machine.events = [Event(1, "neighbour", 1, "10.77.2.100", bytes(6)), Event(2, "table_full", 0, "::", bytes(6))]
    os.write(machine.pipe[1], b"x")
    await until(lambda: machine.neighbours == [(3, "10.77.2.100", bytes(6))])


async def test_a_rival_is_a_problem(segment: Segment) -> None:
    _, primary = await segment.primary()
    ports = dict(segment.hub.ports)
    segment.hub.ports.clear()
    rival = segment.boot(segment.machine(4))
    await rival.join(JoinRequest(primary=True))
    segment.hub.ports.update(ports)
    await until(lambda: role_of(primary).rival is not None)
    assert any("another primary" in problem for problem in (await views.status(primary)).problems)


async def test_the_primary_tells_its_ruleset_digest(segment: Segment) -> None:
    machine, _ = await segment.primary()
    _, node = await segment.auxiliary(2)
    machine.ruleset = "ef" * 32
    assert isinstance(node.role, Auxiliary)
    assert await node.role.primary_digest() == "ef" * 32


async def test_a_primary_that_died_before_the_schedule_was_written_writes_it(segment: Segment) -> None:
    first, primary = await segment.primary()
    await segment.auxiliary(2)
    await primary.context.remember(applied={1: 1})
    await kill(primary)
    await segment.boot(first).resume()
    assert first.plane.calls == ["start", "set_members", "set_schedule"]
    assert set(first.plane.sequence) == {1, 2}
