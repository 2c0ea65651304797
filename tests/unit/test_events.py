# SPDX-License-Identifier: GPL-2.0-or-later
"""Events: who gets which, what a slow reader loses, what goes over the HA link; flow events out of two looks."""

from __future__ import annotations

import numpy as np
import pytest

from aa_cluster import api
from aa_cluster.agent import flow_watch, load
from aa_cluster.agent.event_relay import EventRelay, event_of
from aa_cluster.agent.events import EventHub, Filter
from aa_cluster.agent.load import rates
from aa_cluster.dataplane.flows import CLOSED, ESTABLISHED, FLOW_ROW, SYN_SENT
from aa_cluster.wire import control, envelope
from tests.unit.fake_node import until


def hub() -> EventHub:
    return EventHub(clock=lambda: 17.0)


async def test_a_reader_gets_what_happens_while_it_reads() -> None:
    events = hub()
    events.say("drain", "before")
    with events.reading(Filter()) as reader:
        events.say("drain", "node2 drains", node="node2", epoch=3)
        assert await reader.take(1) == [
            api.Event(time=17.0, event="drain", node="node2", text="node2 drains", detail={"epoch": "3"})
        ]
        assert await reader.take(0.01) == []
    events.say("drain", "after")


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (Filter(), True),
        (Filter(kinds=frozenset({"neighbour", "join"})), True),
        (Filter(kinds=frozenset({"join"})), False),
        (Filter(nodes=frozenset({"node2"})), True),
        (Filter(nodes=frozenset({"node1"})), False),
        (Filter(addresses=frozenset({"10.0.0.1"})), True),
        (Filter(addresses=frozenset({"10.0.0.2"})), True),
        (Filter(addresses=frozenset({"10.0.0.3"})), False),
        (Filter(kinds=frozenset({"neighbour"}), nodes=frozenset({"node1"})), False),
        (Filter(protocols=frozenset({"udp"})), True),
        (Filter(protocols=frozenset({"tcp"})), False),
        (Filter(families=frozenset({"ipv6"}), protocols=frozenset({"udp"})), True),
        (Filter(families=frozenset({"ipv4"})), False),
    ],
)
def test_filters(wanted: Filter, passes: bool) -> None:
    event = api.Event(
        time=0,
        event="neighbour",
        node="node2",
        address="10.0.0.1",
        text="",
        detail={"other": "10.0.0.2", "protocol": "udp", "family": "ipv6"},
    )
    assert wanted.passes(event) == passes


async def test_flow_events_only_for_those_who_want_them() -> None:
    events, relayed = hub(), []
    events.relay = relayed.append
    with events.reading(Filter()) as plain, events.reading(Filter(flows=True)) as all_of_it:
        assert events.flows_wanted
        events.say("flow-begin", "tcp …")
        assert len(await all_of_it.take(1)) == 1
        assert await plain.take(0.01) == []
    assert not events.flows_wanted
    assert relayed == [], "there are too many for the HA link"


async def test_a_slow_reader_is_told_how_many_it_lost() -> None:
    events = hub()
    with events.reading(Filter(), size=3) as reader:
        for number in range(10):
            events.say("weight", str(number))
        told = await reader.take(1)
        assert [event.text for event in told[:3]] == ["0", "1", "2"]
        assert (told[3].event, told[3].detail) == ("dropped", {"count": "7"})
        events.say("weight", "later")
        assert [event.text for event in await reader.take(1)] == ["later"]


async def test_events_travel_in_batches_that_fit() -> None:
    sent: list[control.EventNote] = []
    relay = EventRelay(2, sent.append)
    events = hub()
    events.relay = relay.put
    for number in range(100):
        events.say("refused-block", "x" * 1000, node="node2", address="10.0.0.1", number=number, long="y" * 1000)
    await until(lambda: bool(sent))
    (note,) = sent
    assert len(note.events) == control.MAX_EVENTS
    last = event_of(note.events[-1])
    assert last is not None
    assert (last.event, last.detail["count"]) == ("dropped", str(100 - control.MAX_EVENTS + 1))
    header = envelope.Header(envelope.VERSION, 0, 1, b"1234", b"12345678", 1)
    assert len(envelope.seal(header, note, bytes(32))) < envelope.MAX_DATAGRAM
    first = event_of(note.events[0])
    assert first is not None
    assert (first.node, first.address, first.detail["number"]) == ("node2", "10.0.0.1", "0")
    relay.close()


def test_an_event_of_another_release_is_left_out() -> None:
    assert event_of(control.EventEntry(1, 0.0, "meteor", "", "", "", {})) is None


def rows(*flows: tuple[int, int, int]) -> np.ndarray:
    """(created_ns, source port, state)"""
    made = np.zeros(len(flows), FLOW_ROW)
    for row, (created, port, state) in zip(made, flows, strict=True):
        row["created_ns"], row["sport"], row["state"] = created, port, state
    return made


def test_flows_that_begin_and_end_between_two_looks() -> None:
    before = flow_watch.look(
        rows((1, 1001, ESTABLISHED), (2, 1002, ESTABLISHED), (3, 1003, CLOSED), (4, 1004, ESTABLISHED))
    )
    after = flow_watch.look(
        rows((1, 1001, ESTABLISHED), (2, 1002, CLOSED), (3, 1003, CLOSED), (9, 1001, SYN_SENT), (8, 1008, CLOSED))
    )
    began, ended = flow_watch.changes(before, after)
    assert sorted(began["created_ns"]) == [8, 9]
    assert sorted(ended["created_ns"]) == [2, 4, 8], "closed, swept, begun and closed in between"
    assert {int(row["created_ns"]): int(row["state"]) for row in ended} == {2: CLOSED, 4: ESTABLISHED, 8: CLOSED}


def test_two_flows_that_differ_in_protocol_or_family_are_two() -> None:
    """A resolver asks over UDP and TCP from one port at one moment, over both families."""
    same = rows(*[(7, 1001, ESTABLISHED)] * 4)
    same["protocol"], same["family"] = (6, 6, 17, 17), (4, 6, 4, 6)
    assert len(flow_watch.look(same).keys) == 4
    began, ended = flow_watch.changes(flow_watch.look(same[:2]), flow_watch.look(same[2:]))
    assert (len(began), len(ended)) == (2, 2)


def test_a_node_carries_what_its_flows_carry() -> None:
    row = api.LoadRow(id=2, name="two", role="auxiliary", state="active", sessions=1, begun=0.0)
    busy = load.accounted(row, {1: (9, 900), 2: (10, 4000)}, 2.0)
    assert (busy.packets, busy.octets) == (5.0, 2000.0)
    idle = load.accounted(row, {1: (9, 900)}, 2.0)
    assert (idle.packets, idle.octets) == (0.0, 0.0)


def test_rates_of_counters() -> None:
    before = {"A": 10, "B": 5, "C": 100}
    assert rates(before, {"A": 30, "B": 5, "C": 4, "D": 2}, 2.0) == {"A": 10.0, "C": 2.0, "D": 1.0}
