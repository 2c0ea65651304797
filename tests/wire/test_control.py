# SPDX-License-Identifier: GPL-2.0-or-later
"""Control datagrams: every message goes round, and whatever is damaged gives WireError and nothing else."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aa_cluster.errors import WireError
from aa_cluster.wire import control, envelope
from aa_cluster.wire.control import AnyMessage
from aa_cluster.wire.envelope import Header
from aa_cluster.wire.keys import KeyRing, hkdf

KEYS = KeyRing.derive(bytes(range(32)))
HEADER = Header(envelope.VERSION, 0, 7, KEYS.fingerprint, b"instance", 1)

MAC = st.binary(min_size=6, max_size=6)
NONCE = st.binary(min_size=8, max_size=8)
NAME = st.text(min_size=1, max_size=32)
TEXT = st.text(max_size=80)
ID = st.integers(1, 63)
U32 = st.integers(0, 0xFFFF_FFFF)
WEIGHT = st.integers(0, 100)
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)


def _few(of: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, max_size=3).map(tuple)


ENTRY = st.builds(
    control.NodeEntry,
    ID,
    NAME,
    st.sampled_from(("primary", "auxiliary")),
    st.sampled_from(("joining", "active", "draining", "silent")),
    WEIGHT,
    U32,
    U32,
    MAC,
    TEXT,
    _few(MAC),
    TEXT,
    st.booleans(),
)
NEIGHBOUR = st.builds(control.Neighbour, st.integers(0, 255), TEXT, MAC)
U64 = st.integers(0, 0xFFFF_FFFF_FFFF_FFFF)
MAYBE = st.none() | U64
ADDRESS, KEY = st.binary(min_size=16, max_size=16), st.binary(min_size=36, max_size=36)
EVENT = st.builds(
    control.EventEntry,
    ID,
    st.floats(0, 1e10),
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    st.dictionaries(TEXT, TEXT, max_size=3),
)
SLOT_HOSTS = st.builds(control.SlotHosts, st.integers(0, 255), _few(TEXT))
INTERFACE = st.builds(control.InterfaceFacts, NAME, MAC, _few(TEXT), st.integers(0, 65536))
FINDING = st.builds(control.Finding, TEXT, TEXT, TEXT, TEXT)
MESSAGES: dict[type, st.SearchStrategy[AnyMessage]] = {
    control.Challenge: st.builds(control.Challenge, NONCE),
    control.Response: st.builds(control.Response, NONCE),
    control.Probe: st.builds(control.Probe, NAME, st.booleans()),
    control.PrimaryBeat: st.builds(control.PrimaryBeat, ID, NAME, U32, U32, TEXT, DIGEST, MAC, _few(ENTRY)),
    control.AuxiliaryBeat: st.builds(control.AuxiliaryBeat, ID, NAME, U32, st.booleans()),
    control.JoinAsk: st.builds(
        control.JoinAsk, NONCE, NAME, st.integers(0, 255), TEXT, WEIGHT, MAC, DIGEST, _few(INTERFACE)
    ),
    control.JoinRefusal: st.builds(control.JoinRefusal, NONCE, _few(FINDING)),
    control.JoinGranted: st.builds(
        control.JoinGranted,
        NONCE,
        ID,
        U32,
        U32,
        ID,
        NAME,
        MAC,
        _few(MAC),
        _few(MAC),
        st.dictionaries(NAME, ID, max_size=3),
        _few(ENTRY),
    ),
    control.Ready: st.builds(control.Ready, NONCE, ID, U32),
    control.ReadyAck: st.builds(control.ReadyAck, NONCE, U32),
    control.LeaveAsk: st.builds(control.LeaveAsk, NONCE, ID, st.booleans()),
    control.LeaveStatus: st.builds(control.LeaveStatus, NONCE, U32),
    control.LeaveDone: st.builds(control.LeaveDone, NONCE, ID),
    control.LeaveAck: st.builds(control.LeaveAck, NONCE),
    control.WeightAsk: st.builds(control.WeightAsk, NONCE, NAME, WEIGHT),
    control.WeightAck: st.builds(control.WeightAck, NONCE, _few(ENTRY)),
    control.RulesetAsk: st.builds(control.RulesetAsk, NONCE),
    control.RulesetAnswer: st.builds(control.RulesetAnswer, NONCE, DIGEST),
    control.OrderAsk: st.builds(control.OrderAsk, NONCE, TEXT, st.binary(max_size=80)),
    control.OrderAnswer: st.builds(control.OrderAnswer, NONCE, st.binary(max_size=80)),
    control.LoadAsk: st.builds(control.LoadAsk, NONCE),
    control.LoadAnswer: st.builds(control.LoadAnswer, NONCE, U64, U64, U64, st.dictionaries(TEXT, U64, max_size=3)),
    control.ForgetAsk: st.builds(control.ForgetAsk, NONCE),
    control.ForgetAck: st.builds(control.ForgetAck, NONCE, st.integers(0, 0xFFFF_FFFF)),
    control.NeighbourTell: st.builds(control.NeighbourTell, NONCE, _few(NEIGHBOUR)),
    control.PromoteAsk: st.builds(control.PromoteAsk, NONCE, _few(SLOT_HOSTS)),
    control.PromoteGo: st.builds(control.PromoteGo, NONCE, _few(MAC), U64, st.booleans()),
    control.PromoteTake: st.builds(control.PromoteTake, NONCE),
    control.PromoteAck: st.builds(control.PromoteAck, NONCE, U32, U32),
    control.NeighbourAck: st.builds(control.NeighbourAck, NONCE, U32),
    control.EventNote: st.builds(control.EventNote, _few(EVENT)),
    control.SyncAsk: st.builds(control.SyncAsk, NONCE, ID),
    control.SyncAnswer: st.builds(control.SyncAnswer, NONCE, U32, U64),
    control.ResendAsk: st.builds(control.ResendAsk, ID, _few(st.tuples(U64, U64))),
    control.DigestAsk: st.builds(control.DigestAsk, NONCE, ID),
    control.DigestAnswer: st.builds(control.DigestAnswer, NONCE, U64, st.binary(max_size=80)),
    control.RepairAsk: st.builds(control.RepairAsk, NONCE, ID, _few(U64)),
    control.RepairAck: st.builds(control.RepairAck, NONCE, U64),
    control.SyncStatusAsk: st.builds(control.SyncStatusAsk, NONCE),
    control.SyncStatusAnswer: st.builds(
        control.SyncStatusAnswer, NONCE, U32, U64, U64, U64, U64, U64, MAYBE, MAYBE, MAYBE, MAYBE
    ),
    control.ResyncTell: st.builds(control.ResyncTell, NONCE),
    control.ResyncAck: st.builds(control.ResyncAck, NONCE),
    control.SmallState: st.builds(
        control.SmallState,
        U32,
        TEXT,
        st.binary(max_size=80),
        st.dictionaries(NAME, WEIGHT, max_size=3),
        _few(NAME),
        st.dictionaries(NAME, ID, max_size=3),
    ),
    control.BindingNote: st.builds(
        control.BindingNote, U32, st.booleans(), _few(st.tuples(ADDRESS, st.integers(0, 255), U64))
    ),
    control.ExpectationNote: st.builds(
        control.ExpectationNote, U32, st.booleans(), _few(st.tuples(KEY, st.integers(0, 255), U64))
    ),
    control.Refused: st.builds(control.Refused, NONCE, st.integers(1, 255), TEXT, TEXT),
}
ANY = st.one_of(*MESSAGES.values())


def test_every_message_has_a_strategy() -> None:
    assert set(MESSAGES) == set(get_args(AnyMessage))


@given(ANY)
def test_round_trip(message: AnyMessage) -> None:
    datagram = envelope.seal(HEADER, message, KEYS.control)
    assert envelope.peek(datagram) == HEADER
    assert envelope.unseal(datagram, KEYS.control) == message


@given(ANY, st.data())
def test_any_flipped_bit_is_refused(message: AnyMessage, data: st.DataObject) -> None:
    datagram = bytearray(envelope.seal(HEADER, message, KEYS.control))
    bit = data.draw(st.integers(0, 8 * len(datagram) - 1))
    datagram[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        envelope.unseal(bytes(datagram), KEYS.control)


@given(ANY, st.data())
def test_mutated_bodies_raise_only_wire_error(message: AnyMessage, data: st.DataObject) -> None:
    """Also of somebody who has the key: cut, overwritten or stretched bodies."""
    body = bytearray(msgspec.msgpack.encode(message))
    at = data.draw(st.integers(0, len(body)))
    body[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    try:
        control.decode(bytes(body))
    except WireError:
        return


@given(st.binary(max_size=300))
def test_noise_raises_only_wire_error(noise: bytes) -> None:
    for read in (envelope.peek, lambda data: envelope.unseal(data, KEYS.control)):
        with pytest.raises(WireError):
            read(noise)
    try:
        control.decode(noise)
    except WireError:
        return


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(WireError):
        control.decode(b"\x91" * 100_000)


@pytest.mark.parametrize("length", range(envelope.HEADER_BYTES + envelope.TAG_BYTES))
def test_short_datagrams_are_refused(length: int) -> None:
    datagram = envelope.seal(HEADER, control.RulesetAsk(bytes(8)), KEYS.control)[:length]
    with pytest.raises(WireError):
        envelope.peek(datagram)


def test_a_field_out_of_range_is_refused() -> None:
    with pytest.raises(WireError, match="out of range"):
        envelope.seal(Header(1, 0, 70_000, KEYS.fingerprint, bytes(8), 1), control.Probe("a", False), KEYS.control)


def test_another_key_is_refused() -> None:
    datagram = envelope.seal(HEADER, control.Probe("a", False), KEYS.control)
    with pytest.raises(WireError, match="tag"):
        envelope.unseal(datagram, KeyRing.derive(bytes(32)).control)


def test_hkdf_is_rfc_5869() -> None:
    """Test case 3 of RFC 5869 (no salt, no info)."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(b"\x0b" * 22, "", 42).hex() == expected


def test_derived_keys_differ_and_are_not_shown() -> None:
    assert len({KEYS.control, KEYS.handoff, KEYS.fingerprint}) == 3
    assert KEYS.control.hex() not in repr(KEYS)
