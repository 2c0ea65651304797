# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary is gone: who stands, when it is promoted, and what keeps it from that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aa_cluster.agent.keepalived import CHOSEN, ORDINARY, behind
from aa_cluster.agent.node import Node
from aa_cluster.agent.primary import Primary
from aa_cluster.agent.succession import Succession
from aa_cluster.api import JoinRequest
from tests.unit.fake_node import Machine, kill, until
from tests.unit.test_agents import VIRTUAL, Segment, segment, states
from tests.unit.test_keepalived import Desk, say
from tests.unit.test_succession import auxiliary_of, disk, in_order, know_each_other, trouble

pytestmark = pytest.mark.slow  # a whole cluster plays in real time

__all__ = ["segment"]

PENANCE = 0.3


class Polls:
    """A segment whose nodes take part in the election, each with a script as its keepalived."""

    def __init__(self, segment: Segment, desks: dict[int, Desk]) -> None:
        self.segment = segment
        self.desks = desks

    def boot(self, number: int) -> tuple[Machine, Node]:
        machine = self.segment.machine(number, keepalived=self.desks[number].program)
        (machine.directory / "run").mkdir(parents=True, exist_ok=True)
        node = self.segment.boot(machine)
        node.succession = Succession(node, penance=PENANCE)
        return machine, node

    async def two(self) -> tuple[Machine, Node]:
        """The second one; the first one was its primary, and has just died."""
        _, primary = self.boot(1)
        await primary.join(JoinRequest(primary=True))
        machine, node = self.boot(2)
        await node.join(JoinRequest(timeout=3.0))
        await know_each_other(node)
        await until(lambda: len(self.desks[2].pids) == 1 and (machine.directory / "run/keepalived.fifo").is_fifo())
        await kill(primary)
        return machine, node


@pytest.fixture
async def polls(segment: Segment, tmp_path: Path) -> AsyncIterator[Polls]:
    made = Polls(segment, {number: Desk(tmp_path / f"desk{number}") for number in (1, 2)})
    yield made
    for node in segment.running:
        await kill(node)
        async with node.changing:
            await node.succession.candidate.leave()
    assert [desk.alive() for desk in made.desks.values()] == [[], []]


def master(machine: Machine, *paths: str) -> None:
    say(machine.directory / "run", *(f"{path} MASTER" for path in paths))


def part(machine: Machine) -> int:
    return int((machine.directory / "run" / "keepalived.part").read_text("ascii"))


async def test_without_the_flow_table_it_stands_behind_the_others(polls: Polls) -> None:
    machine, node = await polls.two()
    role = auxiliary_of(node)
    role.sync.complete = False
    await node.succession.candidate.run_as("auxiliary", 2, machine.address, role.sync.complete)
    assert part(machine) == behind(2)
    role.sync.complete = True
    role.sync.on_complete()
    assert part(machine) == ORDINARY


async def test_whoever_is_to_be_primary_does_not_fall_back_when_it_has_caught_up(polls: Polls) -> None:
    machine, node = await polls.two()
    role = auxiliary_of(node)
    await node.succession.candidate.run_as("auxiliary", 2, machine.address, False)
    node.succession.candidate.favour()
    role.sync.on_complete()
    assert part(machine) == CHOSEN


async def test_when_all_paths_say_so_it_is_promoted(polls: Polls) -> None:
    machine, node = await polls.two()
    assert part(machine) == ORDINARY
    master(machine, "ha")
    await until(lambda: node.succession.candidate.paths["ha"] == "master")
    assert not node.succession.candidate.won
    master(machine, "data")
    await until(lambda: isinstance(node.role, Primary))
    await until(lambda: part(machine) == CHOSEN)
    await until(lambda: "reassign 1 2" in machine.plane.calls)
    assert {name: machine.macs[name] for name in VIRTUAL} == VIRTUAL
    assert states(node) == {"node1": "dead", "node2": "active"}
    await until(lambda: set(machine.plane.sequence) == {2})
    assert node.context.state.generation == 2
    assert len(polls.desks[2].pids) == 1, "keepalived went on"
    in_order(machine.log, "entries", "attached as primary", "mac int", "announce int")


async def test_while_the_primary_is_heard_it_is_not_promoted_but_asked_again(polls: Polls) -> None:
    machine, node = await polls.two()
    role = node.role
    machine.primary_heard = 0.0
    tries = machine.log.count("entries")
    master(machine, "ha", "data")
    await until(lambda: machine.log.count("entries") >= tries + 2)
    assert node.role is role
    assert "become_source" not in machine.plane.calls
    machine.primary_heard = float("inf")
    await until(lambda: isinstance(node.role, Primary))


async def test_while_the_primarys_kernel_answers_it_is_not_promoted(polls: Polls) -> None:
    """Its agent and its keepalived are both silent. No entries are made meanwhile, which would have to go again."""
    machine, node = await polls.two()
    role, made = node.role, machine.log.count("entries")
    machine.primary_answers = True
    master(machine, "ha", "data")
    await until(lambda: machine.log.count("asked") >= 2)
    assert node.role is role
    assert machine.log.count("entries") == made
    machine.primary_answers = False
    await until(lambda: isinstance(node.role, Primary))


async def test_a_promotion_that_fails_bars_the_node_for_a_while(polls: Polls) -> None:
    machine, node = await polls.two()
    role, on_disk = node.role, disk(machine)
    machine.broken = True
    master(machine, "ha", "data")
    await until(lambda: "out of the election" in node.succession.candidate.trouble)
    assert "it could not become primary: the verifier says no" in await trouble(node)
    await until(lambda: polls.desks[2].alive() == [])
    assert node.role is role
    assert disk(machine) == on_disk
    assert machine.macs["int"] != VIRTUAL["int"]
    machine.broken = False
    await until(lambda: not node.succession.candidate.trouble and len(polls.desks[2].pids) == 2)
    assert "election" not in await trouble(node)
    master(machine, "ha", "data")
    await until(lambda: isinstance(node.role, Primary))


async def test_an_interface_without_its_virtual_mac_is_a_trouble_of_the_new_primary(polls: Polls) -> None:
    """The role is taken already: it does not say that it stays an auxiliary."""
    machine, node = await polls.two()
    machine.unchangeable = {"ext"}
    master(machine, "ha", "data")
    await until(lambda: isinstance(node.role, Primary) and part(machine) == CHOSEN)
    assert node.context.state.role == "primary"
    assert machine.macs["int"] == VIRTUAL["int"]
    assert "not every data interface has its virtual MAC" in await trouble(node)


async def test_a_node_that_cannot_prepare_is_out_and_says_so(polls: Polls) -> None:
    _, primary = polls.boot(1)
    await primary.join(JoinRequest(primary=True))
    machine, node = polls.boot(2)
    machine.unprepared = True
    await node.join(JoinRequest(timeout=3.0))
    await until(lambda: "cannot prepare" in node.succession.candidate.trouble)
    assert polls.desks[2].pids == []
    machine.unprepared = False
    await until(lambda: len(polls.desks[2].pids) == 1 and not node.succession.candidate.trouble)
