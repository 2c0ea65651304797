# SPDX-License-Identifier: GPL-2.0-or-later
"""Roles change hands between whole agents on a made-up segment; keepalived is a script that does nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from aa_cluster.agent import views
from aa_cluster.agent.auxiliary import Auxiliary
from aa_cluster.agent.link import Peer
from aa_cluster.agent.node import Node
from aa_cluster.agent.primary import Primary
from aa_cluster.agent.state import NodeState, StateFile
from aa_cluster.api import JoinRequest
from aa_cluster.core import membership
from aa_cluster.dataplane.settings import Settings
from aa_cluster.errors import DataplaneError, StateError
from aa_cluster.wire import control, envelope
from aa_cluster.wire.keys import KeyRing
from tests.unit.fake_node import KEY, Hub, Machine, kill, until
from tests.unit.test_agents import VIRTUAL, Segment, role_of, segment, states

pytestmark = pytest.mark.slow  # a whole cluster plays in real time

__all__ = ["segment"]


async def trouble(node: Node) -> str:
    return "; ".join((await views.status(node)).problems)


class Diary(list[str]):
    """A list that tells a common one what is put in, and whose it is."""

    def __init__(self, whose: str, common: list[str]) -> None:
        super().__init__()
        self._whose = whose
        self._common = common

    def append(self, line: str) -> None:
        super().append(line)
        self._common.append(f"{self._whose}: {line}")


def record(hub: Hub, *machines: Machine) -> list[str]:
    """What these machines and their dataplanes do from now on, and their messages, in one order."""
    common: list[str] = []
    for machine in machines:
        machine.log = Diary(machine.name, common)
        machine.plane.calls = Diary(machine.name, common)
    names = {machine.address: machine.name for machine in machines}
    keys = KeyRing.derive(KEY)

    def note(sender: str, datagram: bytes) -> bool:
        message = envelope.unseal(datagram, keys.control)
        common.append(f"{names.get(sender, sender)}: {type(message).__name__}")
        return False

    hub.lost = note
    return common


def in_order(diary: list[str], *wanted: str) -> None:
    """Each line comes somewhere behind the one before."""
    rest = iter(diary)
    for line in wanted:
        assert line in rest, f"{line} is missing, or comes too early, in {diary}"


def disk(machine: Machine) -> bytes:
    return (machine.directory / "state" / "state.json").read_bytes()


def auxiliary_of(node: Node) -> Auxiliary:
    assert isinstance(node.role, Auxiliary)
    return node.role


async def know_each_other(*nodes: Node) -> None:
    """All of them have heard the primary's whole table."""
    await until(lambda: all(len(auxiliary_of(node).table) == len(nodes) + 1 for node in nodes))


async def hand_over(primary: Node, name: str) -> None:
    await primary.succession.hand_over(role_of(primary), name)


# The primary hands over.


async def test_the_steps_of_a_hand_over_come_in_order(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    diary = record(segment.hub, first, second)
    await hand_over(primary, "node2")
    await until(lambda: {"node2: announce int", "node2: announce ext"} <= set(diary))
    in_order(
        diary,
        "node1: PromoteAsk",
        "node2: prepare_standby",
        "node2: entries",
        "node2: PromoteAck",
        "node1: set_heir 2",
        "node1: PromoteGo",
        "node2: become_source",
        "node2: set_members",
        "node2: set_schedule",
        "node2: set_heir 2",
        "node2: change_role primary",
        "node2: PromoteAck",
        "node1: change_role auxiliary",
        "node1: PromoteTake",
        "node2: set_heir 0",
    )
    for net in ("int", "ext"):  # at the same time
        in_order(
            diary,
            "node1: change_role auxiliary",
            f"node1: mac {net}",
            "node1: PromoteTake",
            f"node2: mac {net}",
            f"node2: announce {net}",
        )
    assert not [line for line in diary if line.startswith("node1: announce")]
    assert first.macs["int"] == bytes((0x52, 0, 0, 0, 1, 0)), "physical again"
    assert diary.count("node2: change_role primary") == 1
    assert diary.count("node1: change_role auxiliary") == 1


async def test_the_former_primary_is_asked_for_no_pulse_before_it_has_let_go(segment: Segment) -> None:
    """Until then it answers none, and the virtual MACs that pulses come from are its own."""
    first, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    second.deaf |= {(1, link) for link in (0, 1, 16)}
    change = first.plane.change_role

    def slowly(settings: Settings, heir: bool = False) -> None:
        time.sleep(0.7)  # in the dataplane's thread: several times as long as a node may be silent
        second.deaf.clear()
        change(settings, heir)

    first.plane.change_role = slowly  # type: ignore[method-assign]
    await hand_over(primary, "node2")
    await until(lambda: states(successor) == {"node1": "active", "node2": "active"})
    assert not [call for call in second.plane.calls if call.startswith(("set_hop 1", "reassign 1"))]
    second.deaf |= {(1, 0)}
    await until(lambda: states(successor)["node1"] == "dead")


async def test_the_answer_to_go_does_not_wait_for_a_repetition(segment: Segment) -> None:
    """The task that would answer ends with the auxiliary's role."""
    first, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    primary.context.link._ask_interval = 30.0
    diary = record(segment.hub, first, second)
    await asyncio.wait_for(hand_over(primary, "node2"), 1.0)
    assert diary.count("node1: PromoteGo") == 1


async def test_the_others_follow_and_everything_is_kept(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    third, follower = await segment.auxiliary(3)
    await role_of(primary).set_weight("node1", 2)
    role_of(primary).feed(membership.SetDrained("node3", True))
    await role_of(primary).settled()
    await know_each_other(successor, follower)
    await until(lambda: any(entry.drained for entry in auxiliary_of(successor).table))
    epoch = auxiliary_of(successor).epoch
    diary = record(segment.hub, first, second, third)
    await hand_over(primary, "node2")
    await until(lambda: successor.role is not None and isinstance(successor.role, Primary))
    await until(lambda: states(successor) == {"node1": "active", "node2": "active", "node3": "draining"})
    await until(lambda: set(second.plane.sequence) == {1, 2})
    members = role_of(successor).members
    assert second.plane.sequence.count(1) == 2 * second.plane.sequence.count(2)
    assert members.weights["node1"] == members.nodes[1].weight == 2
    assert members.drained == {"node3"}
    assert second.plane.draining == {3}
    assert members.ids == {"node1": 1, "node2": 2, "node3": 3}
    assert (members.generation, members.epoch > epoch) == (2, True)
    await until(lambda: follower.context.state.primary is not None and follower.context.state.primary.name == "node2")
    await until(lambda: auxiliary_of(follower).epoch == role_of(successor).members.epoch)
    assert third.plane.settings.generation == follower.context.state.generation == 2
    assert third.plane.settings.primary_ha_mac == second.macs["ha"]
    assert not [line for line in diary if line.endswith((": JoinAsk", ": start", ": stop"))]
    assert second.plane.members[1].macs == (first.macs["int"], first.macs["ext"])
    assert auxiliary_of(primary).primary.name == "node2"
    assert StateFile(second.directory / "state").load().role == "primary"


async def test_the_role_goes_back_again(segment: Segment) -> None:
    """What the first primary once read of its interfaces, wearing virtual MACs, is no more."""
    first, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    await hand_over(primary, "node2")
    await until(lambda: states(successor) == {"node1": "active", "node2": "active"})
    await know_each_other(primary)
    await hand_over(successor, "node1")
    await until(lambda: {name: first.macs[name] for name in VIRTUAL} == VIRTUAL)
    assert second.macs["int"] == bytes((0x52, 0, 0, 0, 2, 0))
    await until(lambda: states(primary) == {"node1": "active", "node2": "active"})
    assert role_of(primary).members.generation == 3


async def test_who_was_undrained_under_another_primary_stays_so(segment: Segment) -> None:
    _, primary = await segment.primary()
    _, successor = await segment.auxiliary(2)
    await successor.context.remember(drained=("node1", "node9"))
    await know_each_other(successor)
    await hand_over(primary, "node2")
    assert role_of(successor).members.drained == {"node9"}


async def test_a_successor_that_never_hears_take_is_no_failure(segment: Segment) -> None:
    """It takes the virtual MACs by itself; the former primary is an auxiliary already."""
    _, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    keys = KeyRing.derive(KEY)
    segment.hub.lost = lambda sender, datagram: isinstance(envelope.unseal(datagram, keys.control), control.PromoteTake)
    await hand_over(primary, "node2")
    assert isinstance(primary.role, Auxiliary)
    await until(lambda: {name: second.macs[name] for name in VIRTUAL} == VIRTUAL)


# Hand-overs that are refused.


async def must_be_as_before(primary: Node, first: Machine, members: membership.Membership) -> None:
    role = role_of(primary)
    await role.settled()
    assert role.heir == 0
    assert (role.members.generation, role.members.working()) == (members.generation, members.working())
    assert first.plane.draining == role.members.withdrawn()
    assert first.plane.settings.role == "primary"
    assert {name: first.macs[name] for name in VIRTUAL} == VIRTUAL
    assert primary.context.state.role == "primary"
    assert not primary.changing.locked()


@pytest.mark.parametrize(
    ("name", "says"), [("node9", "no node is called"), ("node1", "the primary already"), ("1", "the primary already")]
)
async def test_to_nobody_and_to_itself(segment: Segment, name: str, says: str) -> None:
    first, primary = await segment.primary()
    second, _ = await segment.auxiliary(2)
    before = role_of(primary).members
    diary = record(segment.hub, first, second)
    with pytest.raises(StateError, match=says):
        await hand_over(primary, name)
    await must_be_as_before(primary, first, before)
    assert not [line for line in diary if "set_heir" in line or "Promote" in line]


@pytest.mark.parametrize("state", ["draining", "silent"])
async def test_to_a_node_that_gets_no_sessions(segment: Segment, state: str) -> None:
    first, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    if state == "draining":
        role_of(primary).feed(membership.SetDrained("node2", True))
    else:
        await kill(successor)
    await until(lambda: states(primary)["node2"] == state)
    await role_of(primary).settled()
    before, on_disk = role_of(primary).members, disk(second)
    with pytest.raises(StateError, match=f"node2 is {state}"):
        await hand_over(primary, "node2")
    await must_be_as_before(primary, first, before)
    assert disk(second) == on_disk


async def test_a_successor_whose_programs_do_not_go_on_is_an_auxiliary_as_before(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    before, on_disk, role = role_of(primary).members, disk(second), successor.role
    second.broken = True
    with pytest.raises(DataplaneError, match="verifier"):
        await hand_over(primary, "node2")
    await must_be_as_before(primary, first, before)
    assert [call for call in first.plane.calls if "heir" in call] == ["set_heir 2", "set_heir 0"]
    assert successor.role is role
    assert disk(second) == on_disk
    assert second.plane.calls.count("change_role auxiliary") == 1
    assert second.macs["int"] != VIRTUAL["int"]
    second.broken = False
    await hand_over(primary, "node2")
    await until(lambda: states(successor) == {"node1": "active", "node2": "active"})


async def test_a_successor_without_a_carrier_refuses(segment: Segment) -> None:
    first, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    before, on_disk = role_of(primary).members, disk(second)
    second.carrierless = {"ext"}
    with pytest.raises(StateError, match="no carrier on ext"):
        await hand_over(primary, "node2")
    await must_be_as_before(primary, first, before)
    assert disk(second) == on_disk
    assert [call for call in first.plane.calls if "heir" in call] == ["set_heir 0"]


async def test_a_former_primary_that_cannot_let_go_stands_down_when_it_can(segment: Segment) -> None:
    first, primary = await segment.primary()
    _, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    first.broken = True
    with pytest.raises(DataplaneError, match="verifier"):
        await hand_over(primary, "node2")
    first.broken = False
    await until(lambda: isinstance(primary.role, Auxiliary))
    await until(lambda: isinstance(successor.role, Primary) and states(successor)["node1"] == "active")


# Two primaries.


async def founded(segment: Segment, node_id: int, generation: int) -> tuple[Machine, Node]:
    """A primary of that generation; while everything is lost it sees nobody else."""
    machine = segment.machine(node_id)
    StateFile(machine.directory / "state").save(NodeState(generation=generation - 1, ids={machine.name: node_id}))
    node = segment.boot(machine)
    await node.join(JoinRequest(primary=True))
    return machine, node


@pytest.mark.parametrize(
    ("generation", "node_id", "rival", "outranked"),
    [(6, 9, True, True), (5, 1, True, True), (5, 4, True, False), (4, 1, False, False)],
)
async def test_who_stands_down(segment: Segment, generation: int, node_id: int, rival: bool, outranked: bool) -> None:
    """Node 3 of generation 5 hears another primary."""
    _, node = await founded(segment, 3, 5)
    role, met = role_of(node), list[int]()
    role.on_outranked = lambda beat, peer: met.append(beat.node_id)
    beat = control.PrimaryBeat(node_id, "other", generation, 1, "roundrobin", "", bytes(6), ())
    role.on_message(beat, Peer("10.77.0.200", bytes(8)))
    assert (role.rival is not None) is rival
    assert met == ([node_id] if outranked else [])
    assert ("another primary" in await trouble(node)) is rival


@pytest.mark.parametrize(
    ("winner", "loser"), [((4, 3), (1, 2)), ((1, 2), (4, 2))], ids=["later generation", "lower id of the same"]
)
async def test_of_two_primaries_one_stands_down(
    segment: Segment, winner: tuple[int, int], loser: tuple[int, int]
) -> None:
    segment.hub.lost = lambda sender, datagram: True
    stays, primary = await founded(segment, *winner)
    goes, former = await founded(segment, *loser)
    role = role_of(primary)
    diary = record(segment.hub, stays, goes)
    await until(lambda: states(primary).get(goes.name) == "active", 8.0)
    assert primary.role is role
    assert role.members.generation == winner[1]
    assert auxiliary_of(former).primary.name == stays.name
    assert goes.plane.settings.generation == winner[1]
    name = goes.name
    in_order(
        diary, f"{name}: change_role auxiliary", f"{name}: mac int", f"{name}: mac ext", f"{name}: clear_flows",
        f"{name}: JoinAsk", f"{name}: Ready",
    )  # fmt: skip
    assert f"{name}: announce int" not in diary
    assert len(goes.planes) == 1
    assert not [line for line in diary if line.startswith(f"{stays.name}: change_role")]


async def test_a_hand_over_that_is_under_way_does_not_keep_it_from_standing_down(segment: Segment) -> None:
    """Its question went out while it was cut off, and nobody has answered."""
    _, primary = await segment.primary()
    second, successor = await segment.auxiliary(2)
    await know_each_other(successor)
    role = role_of(primary)
    segment.hub.lost = lambda sender, datagram: sender == second.address
    asked = asyncio.create_task(hand_over(primary, "node2"))
    await until(lambda: primary.changing.locked())
    beat = control.PrimaryBeat(9, "node9", 50, 1, "roundrobin", "", bytes(6), ())
    role.on_message(beat, Peer("10.77.0.109", bytes(8)))
    with pytest.raises(StateError, match="another node has become primary"):
        await asked
    await until(lambda: isinstance(primary.role, Auxiliary))


async def test_a_table_that_cannot_be_emptied_does_not_keep_it_from_joining(segment: Segment) -> None:
    segment.hub.lost = lambda sender, datagram: True
    _, primary = await founded(segment, 1, 2)
    goes, _ = await founded(segment, 4, 2)

    def fails() -> None:
        raise DataplaneError("the map is gone")

    goes.plane.clear_flows = fails  # type: ignore[method-assign]  # of this one made-up dataplane
    segment.hub.lost = lambda sender, datagram: False
    await until(lambda: states(primary).get("node4") == "active", 8.0)
