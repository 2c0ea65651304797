# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's view of the nodes, as playbooks: events in, commands out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.core import membership
from aa_cluster.core.membership import (
    Announce,
    Command,
    Drain,
    Event,
    Facts,
    Fit,
    Heard,
    Join,
    Leave,
    Membership,
    Node,
    Note,
    Persist,
    ProbeNode,
    Ready,
    SetDraining,
    SetEpoch,
    SetMembers,
    SetSchedule,
    SetWeight,
    TakeOver,
    Tick,
    Unfit,
    step,
)
from aa_cluster.errors import StateError

BEAT, DEAD = 0.2, 1.0


def facts(number: int) -> Facts:
    mac = bytes((2, 0, 0, 0, 0, number))
    return Facts(f"node{number}", mac, f"10.77.0.{100 + number}", (mac, mac), "6.18")


def alone() -> Membership:
    node = Node(id=1, facts=facts(1), weight=1, heard=0.0, ready=True)
    return Membership(1, 1, 1, "weighted", DEAD, BEAT, {1: node}, {"node1": 1}, {}, 0.0)


def play(state: Membership, *events: Event) -> tuple[Membership, list[Command]]:
    said: list[Command] = []
    for event in events:
        state, commands = step(state, event)
        said += commands
    return state, said


def joined(*numbers: int) -> Membership:
    state = alone()
    for number in numbers:
        state, _ = play(state, Join(facts(number), 1, 0.0), Ready(state.nodes.__len__() + 1, 0.0))
    return state


def sequences(commands: list[Command]) -> list[tuple[int, ...]]:
    return [command.sequence for command in commands if isinstance(command, SetSchedule)]


def test_a_joining_node_gets_no_work_until_it_is_ready() -> None:
    state, said = play(alone(), Join(facts(2), 1, 0.0))
    assert state.nodes[2].state == "joining"
    assert sequences(said) == []
    assert state.epoch == 1
    state, said = play(state, Ready(2, 0.5))
    assert state.nodes[2].state == "active"
    assert state.epoch == 2
    assert sequences(said)[0][:4] == (1, 2, 1, 2)


def test_commands_come_in_the_order_that_is_safe() -> None:
    """On disk before anything else; the members before the schedule that names them."""
    state, _ = play(alone(), Join(facts(2), 1, 0.0))
    _, said = play(state, Ready(2, 0.5))
    assert [type(command) for command in said] == [
        Note,
        Persist,
        SetEpoch,
        SetMembers,
        SetDraining,
        SetSchedule,
        Announce,
    ]


def test_silence_takes_a_node_out_of_the_schedule_but_not_out_of_the_members() -> None:
    state = joined(2)
    ticks = [Tick(at / 10) for at in range(2, 14, 2)]
    state, said = play(state, *ticks)
    assert state.nodes[2].state == "silent"
    assert set(sequences(said)[-1]) == {1}
    assert [node.id for node in state.reachable()] == [1, 2]
    assert ProbeNode(2) in said


def test_a_silent_node_that_is_heard_works_again() -> None:
    state = joined(2)
    state = replace(state, nodes={**state.nodes, 2: replace(state.nodes[2], silent=True)})
    epoch = state.epoch
    state, said = play(state, Heard(2, 1, True, 2.0))
    assert state.nodes[2].state == "active"
    assert state.epoch == epoch + 1
    assert set(sequences(said)[-1]) == {1, 2}


def test_a_heartbeat_of_another_generation_gives_no_work() -> None:
    state, _ = play(alone(), Join(facts(2), 1, 0.0))
    state, said = play(state, Heard(2, 7, True, 0.1))
    assert state.nodes[2].state == "joining"
    assert said == []


def test_ordinary_heartbeats_cause_nothing() -> None:
    state, said = play(joined(2), *(Heard(2, 1, True, at / 5) for at in range(10)))
    assert said == []
    assert state.nodes[2].heard == pytest.approx(1.8)


def test_time_in_which_the_primary_slept_is_not_silence() -> None:
    """The agent was stopped or starved for a minute: nobody is declared silent for that."""
    state, said = play(joined(2), Tick(0.2), Tick(60.0))
    assert state.nodes[2].state == "active"
    assert not sequences(said)
    later = [Tick(60.0 + at / 10) for at in range(2, 20, 2)]
    state, _ = play(state, *later)
    assert state.nodes[2].state == "silent"


def test_a_dead_nodes_sessions_are_taken_over_before_all_else() -> None:
    """Nothing new for it first, so that what is taken over is all there is; it stays in the members, as a local one."""
    state, said = play(joined(2, 3), Unfit(2, "no link answers", 1.0))
    assert [type(command) for command in said] == [
        SetDraining,
        TakeOver,
        Note,
        Persist,
        SetEpoch,
        SetMembers,
        SetDraining,
        SetSchedule,
        Announce,
    ]
    assert said[:3] == [SetDraining(frozenset({2})), TakeOver(2), Note("dead", 2, "no link answers")]
    assert state.nodes[2].state == "dead"
    assert [(node.id, node.dead) for node in state.reachable()] == [(1, False), (2, True), (3, False)]
    assert set(sequences(said)[-1]) == {1, 3}


def test_a_node_dies_once_whatever_it_was_doing() -> None:
    for before in (Drain(2), Tick(0.2), Ready(2, 0.1)):
        state, said = play(joined(2, 3), before, Unfit(2, "why", 1.0))
        assert said.count(TakeOver(2)) == 1
        assert play(state, Unfit(2, "why", 2.0))[1] == []
    silent = replace(joined(2).nodes[2], silent=True)
    state = replace(joined(2), nodes={**joined(2).nodes, 2: silent})
    assert TakeOver(2) in play(state, Unfit(2, "why", 1.0))[1]


def test_who_is_not_there_cannot_die() -> None:
    state, _ = play(joined(2), Join(facts(3), 1, 0.0))
    for number in (1, 3, 9):
        assert play(state, Unfit(number, "why", 1.0))[1] == []
        assert play(state, Fit(number))[1] == []


def test_a_dead_node_works_only_after_it_has_joined_again() -> None:
    state, _ = play(joined(2), Unfit(2, "why", 1.0))
    state, said = play(state, Heard(2, 1, True, 1.1), Ready(2, 1.2), Heard(2, 1, True, 1.3), Tick(1.4))
    assert state.nodes[2].state == "dead"
    assert sequences(said) == []
    state, said = play(state, Fit(2))
    assert said == [Note("returns", 2), Announce()]
    assert (state.nodes[2].state, state.nodes[2].fit) == ("dead", True)
    state, _ = play(state, Join(facts(2), 1, 2.0))
    assert state.nodes[2].state == "joining"
    state, said = play(state, Ready(2, 2.1))
    assert state.nodes[2].state == "active"
    assert set(sequences(said)[-1]) == {1, 2}


def test_fit_for_a_moment_only() -> None:
    state, _ = play(joined(2), Unfit(2, "why", 1.0), Fit(2))
    state, said = play(state, Unfit(2, "why", 1.5))
    assert said == [Announce()]
    assert not state.nodes[2].fit


def test_who_stays_dead_is_forgotten_and_keeps_its_id() -> None:
    state = replace(joined(2, 3), forget=60.0)
    state, said = play(state, Unfit(2, "why", 1.0), Tick(2.0), Heard(3, 1, True, 60.5), Tick(60.9))
    assert 2 in state.nodes
    state, said = play(state, Heard(3, 1, True, 61.5), Tick(61.5))
    assert Note("forgotten", 2) in said
    assert 2 not in state.nodes
    assert state.ids["node2"] == 2
    assert [node.id for node in state.reachable()] == [1, 3]


def test_a_dead_node_is_not_silent_too() -> None:
    state, _ = play(joined(2), Unfit(2, "why", 0.1))
    state, said = play(state, *(Tick(at / 10) for at in range(2, 60, 2)))
    assert state.nodes[2].state == "dead"
    assert not any(isinstance(command, Note | ProbeNode) for command in said)


def test_a_node_that_vanishes_while_joining_is_forgotten_but_keeps_its_id() -> None:
    state, _ = play(alone(), Join(facts(2), 1, 0.0), *(Tick(at / 10) for at in range(2, 54, 2)))
    assert 2 not in state.nodes
    state, _ = play(state, Join(facts(3), 1, 6.0), Join(facts(2), 1, 6.0))
    assert state.ids == {"node1": 1, "node2": 2, "node3": 3}


def test_drain_and_leave() -> None:
    state, said = play(joined(2, 3), Drain(2))
    assert state.nodes[2].state == "draining"
    assert set(sequences(said)[-1]) == {1, 3}
    assert {node.id for node in state.reachable()} == {1, 2, 3}
    state, said = play(state, Leave(2))
    assert {node.id for node in state.reachable()} == {1, 3}
    state, said = play(state, Leave(2))
    assert said == []


def test_ready_ends_a_drain() -> None:
    state, _ = play(joined(2), Drain(2), Ready(2, 1.0))
    assert state.nodes[2].state == "active"


def test_weights() -> None:
    state, said = play(joined(2, 3), SetWeight("node2", 2))
    assert sequences(said)[-1].count(2) == 2 * sequences(said)[-1].count(3)
    assert state.shares() == {1: 0.25, 2: 0.5, 3: 0.25}
    state, _ = play(state, Leave(2), Join(facts(2), 1, 0.0), Ready(2, 0.0))
    assert state.nodes[2].weight == 2, "what the operator set outlives the node"


def test_with_no_weight_at_all_the_primary_serves() -> None:
    state, said = play(joined(2), SetWeight("node1", 0), SetWeight("node2", 0))
    assert sequences(said)[-1] == (1,)
    assert state.shares() == {1: 1.0, 2: 0.0}


def test_the_same_weight_changes_nothing_in_the_schedule() -> None:
    state, said = play(joined(2), SetWeight("node2", 1))
    assert [type(command) for command in said] == [Persist, Announce]
    assert state.weights == {"node2": 1}


def test_impossible_requests_are_state_errors() -> None:
    with pytest.raises(StateError, match="nobody"):
        step(alone(), SetWeight("nobody", 1))
    with pytest.raises(StateError, match="node 9"):
        step(alone(), Ready(9, 0.0))
    with pytest.raises(StateError, match="primary"):
        step(alone(), Leave(1))


def test_ids_are_the_lowest_no_name_ever_had() -> None:
    assert membership.assign_id({"a": 1, "c": 3}, "b") == 2
    assert membership.assign_id({"a": 1, "c": 3}, "c") == 3
    with pytest.raises(StateError, match="63"):
        membership.assign_id({str(number): number for number in range(1, 64)}, "new")


EVENTS = st.one_of(
    st.builds(lambda number: Join(facts(number), 1, 0.0), st.integers(2, 5)),
    st.builds(Ready, st.integers(2, 5), st.just(0.0)),
    st.builds(Heard, st.integers(1, 5), st.integers(0, 2), st.booleans(), st.floats(0, 3)),
    st.builds(Tick, st.floats(0, 9)),
    st.builds(Drain, st.integers(2, 5)),
    st.builds(Unfit, st.integers(1, 6), st.just("why"), st.floats(0, 9)),
    st.builds(Fit, st.integers(1, 6)),
    st.builds(Leave, st.integers(2, 5)),
    st.builds(SetWeight, st.sampled_from([f"node{number}" for number in range(1, 6)]), st.integers(0, 3)),
)


@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens(events: list[Event]) -> None:
    """The epoch never falls and rises with every new schedule; only members are scheduled; the primary stays."""
    state = alone()
    members, epoch = {1}, state.epoch
    for event in events:
        try:
            state, commands = step(state, event)
        except StateError:
            continue
        assert state.epoch >= epoch
        for command in commands:
            if isinstance(command, SetMembers):
                members = {node.id for node in command.nodes}
            if isinstance(command, SetSchedule):
                assert command.sequence
                assert set(command.sequence) <= members
                assert state.epoch > epoch
        epoch = state.epoch
        assert state.nodes[1].state == "active"
        assert members == {node.id for node in state.reachable()}
        assert len({state.ids[node.facts.name] for node in state.nodes.values()}) == len(state.nodes)
