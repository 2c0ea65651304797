# SPDX-License-Identifier: GPL-2.0-or-later
"""The HA link: nothing replayed, forged or foreign gets through; requests ask again until answered."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aa_cluster.agent.link import Link, Peer
from aa_cluster.errors import TimeoutReached
from aa_cluster.wire import control, envelope
from aa_cluster.wire.control import AnyMessage
from aa_cluster.wire.keys import KeyRing
from tests.unit.fake_node import Hub, until

KEYS = KeyRing.derive(bytes(32))


class End:
    """One link and what it heard."""

    def __init__(self, hub: Hub, address: str, **changes: Any) -> None:
        self.link = Link(
            changes.get("keys", KEYS), changes.get("cluster", 1), time.monotonic, changes.get("version", 1)
        )
        self.heard: list[AnyMessage] = []
        self.link.on_message = self._hear
        self.link.attach(hub.port(address, self.link.receive))

    def _hear(self, message: AnyMessage, peer: Peer) -> None:
        self.heard.append(message)
        if isinstance(message, control.LeaveDone):
            self.link.send(control.LeaveAck(message.nonce), peer.address)


def beat(number: int) -> control.AuxiliaryBeat:
    return control.AuxiliaryBeat(2, "node2", number, True)


async def test_messages_arrive_after_the_sender_has_proved_to_be_alive() -> None:
    hub = Hub()
    one, two = End(hub, "a"), End(hub, "b")
    for number in (1, 2, 3):
        two.link.send(beat(number))
    await until(lambda: beat(3) in one.heard)
    two.link.send(beat(4), "a")
    await until(lambda: one.heard[-1] == beat(4))


async def test_a_recording_is_refused_also_by_an_agent_that_has_just_started() -> None:
    hub = Hub()
    one, two = End(hub, "a"), End(hub, "b")
    two.link.send(beat(1), "a")
    await until(lambda: one.heard == [beat(1)])
    recorded = [datagram for sender, datagram in hub.sent if sender == "b"]
    two.link.close()
    fresh = End(hub, "c")
    for datagram in recorded:
        one.link.receive(datagram, "b")
        fresh.link.receive(datagram, "b")
    assert one.heard == [beat(1)]
    assert fresh.heard == []


async def test_the_wrong_key_version_and_cluster() -> None:
    hub = Hub()
    one = End(hub, "a")
    other_key = End(hub, "b", keys=KeyRing.derive(b"\1" * 32))
    End(hub, "c", version=2).link.send(beat(1))
    End(hub, "d", cluster=2).link.send(beat(1))
    other_key.link.is_primary = True
    other_key.link.send(beat(1))
    await until(lambda: len(one.link.heard_strangers()) == 2)
    told = {stranger.address: stranger.header for stranger in one.link.heard_strangers()}
    assert told["b"].flags & envelope.FLAG_PRIMARY
    assert told["b"].fingerprint != KEYS.fingerprint
    assert told["c"].version == 2
    assert one.heard == []


async def test_its_own_broadcasts_are_not_heard() -> None:
    hub = Hub()
    one = End(hub, "a")
    one.link.send(beat(1))
    two = End(hub, "b")
    two.link.send(beat(2))
    await until(lambda: one.heard == [beat(2)])


async def test_a_request_is_repeated_until_it_is_answered() -> None:
    hub = Hub()
    one, two = End(hub, "a"), End(hub, "b")
    remaining = 3

    def lose_some(sender: str, datagram: bytes) -> bool:
        nonlocal remaining
        remaining -= 1
        return remaining >= 0

    hub.lost = lose_some
    answer = await one.link.ask(control.LeaveDone(b"12345678", 2), "b", 5.0)
    assert answer == control.LeaveAck(b"12345678")
    assert two.heard


async def test_no_answer_is_a_timeout_and_a_late_one_is_ignored() -> None:
    hub = Hub()
    one = End(hub, "a")
    with pytest.raises(TimeoutReached, match="LeaveDone"):
        await one.link.ask(control.LeaveDone(b"12345678", 2), "nobody", 0.05)
    End(hub, "b").link.send(control.LeaveAck(b"12345678"), "a")
    assert one.heard == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 8 * 60), st.booleans())
def test_nothing_that_arrives_can_hurt(noise: bytes, bit: int, signed: bool) -> None:
    link = Link(KEYS, 1, time.monotonic)
    heard: list[AnyMessage] = []
    link.on_message = lambda message, peer: heard.append(message)
    header = envelope.Header(1, 0, 1, KEYS.fingerprint, b"12345678", 1)
    datagram = bytearray(envelope.seal(header, beat(1), KEYS.control))
    datagram[bit // 8 % len(datagram)] ^= 1 << bit % 8
    link.receive(noise, "x")
    link.receive(bytes(datagram), "x")
    assert heard == []
