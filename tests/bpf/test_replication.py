# SPDX-License-Identifier: GPL-2.0-or-later
"""From a change in the primary's flow table to the same table on an auxiliary, frame by frame."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aa_cluster.dataplane import configuration, flows, syscall
from aa_cluster.dataplane.maps import JOURNAL
from tests.bpf import replicas
from tests.bpf.families import SHARED, session
from tests.bpf.harness import OTHER, SELF, THIRD, entry, namespace, segment
from tests.bpf.replicas import Pair, add, flow, seal

pytestmark = pytest.mark.bpf


@pytest.fixture(scope="module")
def loaded_pair(root: None, object_cache: Path) -> Iterator[Pair]:
    with namespace(f"repl{os.getpid()}"), replicas.pair(object_cache) as both:
        yield both


@pytest.fixture
def pair(loaded_pair: Pair) -> Pair:
    replicas.configure(loaded_pair)
    return loaded_pair


def rejournal(pair: Pair, first: int, last: int, free: bool = False) -> None:
    pair.sender().rejournal(first, last, free)


def begin(pair: Pair, number: int) -> None:
    """A SYN through `handoff`."""
    original, reply = flow(number)
    entry(original, reply, mark=number)
    leaving = replicas.tuple_of("10.77.2.1", original.source_port, "10.77.2.100", 80)
    assert pair.primary.run("handoff", segment(leaving, "S", ttl=63)).why == {"HANDOFF_SENT": 1}


class TestJournal:
    @pytest.mark.parametrize(
        ("ended", "told_s", "again"), [(0, 7, False), (0, 8, True), (flows.LASTS, 29, False), (flows.LASTS, 31, True)]
    )
    @pytest.mark.parametrize("owner", [SELF, OTHER])
    @pytest.mark.parametrize("state", [flows.SYN_SENT, flows.ESTABLISHED])
    def test_how_old_a_udp_flow_is(
        self, pair: Pair, state: int, owner: int, ended: int, told_s: int, again: bool
    ) -> None:
        """Told with the sweep's look that finds a datagram, once in a quarter of its timeout."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        pair.primary.add_flow(*session((4, 17)), owner, state, seen_ns=now - 15 * 10**9)
        rejournal(pair, 1, 1)
        pair.replicate()
        ours, theirs = (plane.maps["records"].view()[1:2] for plane in pair.planes())
        began = int(theirs["created_ns"][0])
        ours["ended"], ours["held_ns"] = ended, now - told_s * 10**9
        pair.primary.sweep()
        assert pair.frames() == [], "no datagram has come"
        pair.primary.maps["buckets"].view()["word"].reshape(-1)[ours["place"][0]] |= np.uint64(flows.TOUCHED)
        pair.primary.sweep()
        frames = pair.frames()
        assert bool(frames) is again
        pair.take(*frames)
        assert int(theirs["seen_ns"][0]) == pytest.approx(now - (0 if again else 15 * 10**9), abs=10**9)
        assert int(theirs["created_ns"][0]) == began, "by which it is known"

    def test_a_session_from_its_syn_to_its_end(self, pair: Pair) -> None:
        begin(pair, 1)
        original, reply = flow(1)
        pair.replicate()
        pair.assert_equal()
        assert pair.auxiliary.flow(original)["state"] == flows.SYN_SENT  # type: ignore[index]
        for which, flags, state in (
            (reply, "SA", flows.SYN_SENT),
            (original, "A", flows.ESTABLISHED),
            (original, "FA", flows.CLOSING),
            (reply, "FA", flows.CLOSED),
        ):
            pair.primary.run("steer", segment(which, flags))
            pair.replicate()
            found = pair.auxiliary.flow(original)
            assert found is not None
            assert (int(found["state"]), int(found["mark"]), int(found["owner"])) == (state, 1, OTHER)
        pair.assert_equal()

    def test_it_goes_when_it_dies(self, pair: Pair) -> None:
        index = add(pair.primary, 1)
        rejournal(pair, 1, 1)
        pair.replicate()
        pair.primary.maps["records"].view()["seen_ns"][index] = 1
        pair.primary.maps["config"].view()["timeout_s"][0][1:6] = 1
        pair.primary.sweep()
        pair.replicate()
        assert (pair.auxiliary.flow_count(), pair.auxiliary.entry_count()) == (0, 0)
        pair.assert_equal()

    def test_packets_inside_a_session_are_not_journalled(self, pair: Pair) -> None:
        add(pair.primary, 1)
        for _ in range(10):
            pair.primary.run("steer", segment(flow(1)[0], "A"))
        assert pair.sender().head() == 0

    def test_changes_that_were_not_sent_share_an_entry(self, pair: Pair) -> None:
        begin(pair, 1)
        original, reply = flow(1)
        for which, flags in ((reply, "SA"), (original, "A"), (original, "FA"), (reply, "FA")):
            pair.primary.run("steer", segment(which, flags))
        assert pair.sender().head() == 1
        pair.replicate()
        pair.assert_equal()

    def test_off_nothing_is_journalled(self, pair: Pair) -> None:
        replicas.configure(pair, "off")
        begin(pair, 1)
        assert pair.sender().head() == 0

    def test_take_over_needs_no_half_open_flows(self, pair: Pair) -> None:
        replicas.configure(pair, "takeover")
        begin(pair, 1)
        original, reply = flow(1)
        pair.primary.run("steer", segment(reply, "SA"))
        assert pair.sender().head() == 0
        pair.primary.run("steer", segment(original, "A"))
        assert pair.sender().head() == 1
        pair.replicate()
        pair.assert_equal()

    def test_the_first_entry_wakes_the_agent_once(self, pair: Pair) -> None:
        assert pair.sender().arm()
        begin(pair, 1)
        begin(pair, 2)
        assert [event.kind for event in pair.primary.events()] == ["journal"]
        assert not pair.sender().arm()

    def test_what_was_written_over_before_it_was_sent_is_skipped(self, pair: Pair) -> None:
        for number in range(8):
            add(pair.primary, number)
        state = pair.primary.maps["replication"].view()
        for _ in range(JOURNAL // 8 + 1):
            pair.primary.maps["records"].view()["position"][:] = 0
            rejournal(pair, 1, 8)
        assert pair.sender().pending() == JOURNAL + 8
        assert pair.compose() is not None
        assert int(state["skipped"][0]) > 0
        assert pair.sender().pending() < JOURNAL


class TestFrame:
    def test_its_bytes(self, pair: Pair) -> None:
        add(pair.primary, 1)
        rejournal(pair, 1, 1)
        frame = pair.compose()
        assert frame is not None
        assert frame[:6] == b"\xff" * 6
        assert frame[12:14] == b"\x88\xb6"
        magic, version, kind, cluster, generation, epoch, sender, target, length = struct.unpack_from(
            "!4sBBHIIBBH", frame, 14
        )
        assert (magic, version, kind, cluster, generation, epoch) == (b"AAHL", 1, 1, 7, 3, 5)
        assert (sender, target, length) == (SELF, 0, len(frame) - 14)
        assert struct.unpack_from("!B3xQQ", frame, 34) == (1, 0, 1)
        assert frame == seal(frame)

    def test_as_many_as_fit(self, pair: Pair) -> None:
        for number in range(40):
            add(pair.primary, number)
        rejournal(pair, 1, 40)
        frames = pair.frames()
        assert [frame[34] for frame in frames] == [15, 15, 10]
        assert max(map(len, frames)) <= 1514
        pair.take(*frames)
        pair.assert_equal()

    def test_all_else_leaves_as_it_is(self, pair: Pair) -> None:
        ran = pair.primary.run("compose", segment(flow(1)[0], "S"))
        assert ran.raw == bytes(segment(flow(1)[0], "S"))
        assert ran.why == {"REPLICA_OUT": 1}

    def test_nothing_pends(self, pair: Pair) -> None:
        assert pair.compose() is None
        assert pair.compose((replicas.RANGE, OTHER, 5, 0, 3)) is None

    @pytest.mark.parametrize("kind", SHARED.values(), ids=SHARED)
    def test_a_clone_of_a_first_packet_becomes_one(self, pair: Pair, kind: tuple[int, int]) -> None:
        """Of any length and kind: nothing is left of the packet."""
        for number, payload in enumerate((b"", b"x" * 7, b"y" * 1200)):
            add(pair.primary, number)
            rejournal(pair, number + 1, number + 1)
            raw = bytes(segment(session(kind)[0], "S", payload))
            context = bytearray(replicas.skb_context(0, 0, 0x41415231))
            ran = syscall.run_program(pair.primary.fds["compose"], raw, context=bytes(context), room=2048)
            assert ran.packet == seal(ran.packet)
            assert len(ran.packet) == 14 + 40 + 96 + 8
            assert pair.take(ran.packet) == {"REPLICA_TAKEN": 1}
        pair.assert_equal()


class TestMirror:
    def some(self, pair: Pair, count: int = 30) -> list[bytes]:
        first = int(pair.primary.maps["watermark"].get(0)) + 1  # type: ignore[arg-type]
        for number in range(count):
            add(pair.primary, first + number)
        rejournal(pair, first, first + count)
        return pair.frames()

    def test_loss_is_seen_and_mended(self, pair: Pair) -> None:
        frames = self.some(pair, 60)
        pair.take(frames[0], frames[2])
        pair.mirror.note_head(pair.sender().head())
        assert pair.mirror.missing() == [(15, 30), (45, 60)]
        assert pair.mirror.state().low == 15
        pair.take(*pair.again(15, 30), *pair.again(45, 60))
        assert pair.mirror.missing() == []
        assert pair.mirror.state().lag == 0
        pair.assert_equal()

    def test_a_gap_tells_the_agent(self, pair: Pair) -> None:
        frames = self.some(pair, 45)
        pair.mirror.arm()
        pair.take(frames[0])
        assert pair.auxiliary.events() == []
        pair.take(frames[2])
        assert [event.kind for event in pair.auxiliary.events()] == ["gap"]

    def test_twice_is_once(self, pair: Pair) -> None:
        frames = self.some(pair)
        pair.take(*frames, *frames)
        assert pair.mirror.state().stale == 30
        pair.assert_equal()

    def test_reordered_frames_do_not_regress(self, pair: Pair) -> None:
        index = add(pair.primary, 1, state=flows.SYN_SENT)
        old = []
        for state, owner in ((1, OTHER), (3, OTHER), (3, THIRD), (4, THIRD)):
            row = pair.primary.maps["records"].view()[index]
            row["state"], row["owner"] = state, owner
            rejournal(pair, 1, 1)
            old += pair.frames()
        pair.take(*reversed(old))
        found = pair.auxiliary.flow(flow(1)[0])
        assert found is not None
        assert (int(found["state"]), int(found["owner"])) == (4, THIRD)
        assert pair.auxiliary.owner(flow(1)[0]) == pair.auxiliary.owner(flow(1)[1]) == THIRD
        assert pair.mirror.missing() == []
        pair.assert_sound()

    def test_a_number_given_out_again(self, pair: Pair) -> None:
        add(pair.primary, 1)
        rejournal(pair, 1, 1)
        pair.replicate()
        pair.primary.reset()
        pair.primary.configure(features=4, replica_key=np.frombuffer(replicas.REPLICA_KEY, "<u8"))
        add(pair.primary, 2)
        rejournal(pair, 1, 1)
        pair.replicate()
        assert pair.auxiliary.flow(flow(1)[0]) is None
        assert pair.auxiliary.flow(flow(1)[1]) is None
        pair.assert_equal()

    def test_a_tuple_under_another_number_before_the_old_one_is_told_dead(self, pair: Pair) -> None:
        """In either order, and with what the old number was late: the later one in the journal has the tuple."""
        add(pair.primary, 1)
        rejournal(pair, 1, 1)
        old = pair.frames()
        pair.primary.maps["records"].view()["state"][1] = flows.CLOSED
        rejournal(pair, 1, 1)
        closed = pair.frames()
        pair.primary.maps["records"].view()["state"][1] = flows.DEAD
        pair.primary.maps["buckets"].view()["word"][:] = 0
        rejournal(pair, 1, 1, free=True)
        dead = pair.frames()
        add(pair.primary, 1)
        rejournal(pair, 2, 2)
        new = pair.frames()
        order = [*old, *new, *closed, *dead]
        pair.take(*order)
        pair.assert_equal(counters=False)
        for _ in range(10):
            random.Random(_).shuffle(order)
            pair.mirror.clear()
            pair.take(*order)
            pair.assert_equal(counters=False)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda frame: frame[:-1] + bytes((frame[-1] ^ 1,)), "REPLICA_TAG"),
            (lambda frame: frame[:60] + b"\xaa" + frame[61:], "REPLICA_TAG"),
            (lambda frame: seal(frame[:25] + b"\x02" + frame[26:]), "REPLICA_OLD"),
            (lambda frame: seal(frame[:25] + b"\x04" + frame[26:]), "REPLICA_OLD"),
            (lambda frame: seal(frame[:21] + b"\x09" + frame[22:]), "REPLICA_STRANGER"),
            (lambda frame: seal(frame[:30] + b"\x03" + frame[31:]), "REPLICA_STRANGER"),
            (lambda frame: seal(frame[:31] + b"\x03" + frame[32:]), "REPLICA_STRANGER"),
            (lambda frame: seal(frame[:18] + b"\x02" + frame[19:]), "REPLICA_MALFORMED"),
            (lambda frame: seal(frame[:34] + b"\x00" + frame[35:]), "REPLICA_MALFORMED"),
            (lambda frame: seal(frame[:34] + b"\xff" + frame[35:]), "REPLICA_MALFORMED"),
            (lambda frame: frame[:40], "REPLICA_MALFORMED"),
            (lambda frame: frame[:90], "REPLICA_MALFORMED"),
            (lambda frame: seal(frame[:19] + b"\x02" + frame[20:]), "REPLICA_OTHER"),
            (lambda frame: frame[:12] + b"\x08\x00" + frame[14:], "REPLICA_OTHER"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_refused(self, pair: Pair, change: object, why: str) -> None:
        (frame, *_) = self.some(pair, 1)
        assert callable(change)
        assert pair.take(change(frame)) == {why: 1}
        assert pair.auxiliary.flow_count() == 0
        assert pair.take(frame) == {"REPLICA_TAKEN": 1}

    def test_ipv6_and_udp(self, pair: Pair) -> None:
        """Any family and protocol: the table knows no difference."""
        index = add(pair.primary, 1)
        row = pair.primary.maps["records"].view()[index]
        for name in ("original_family", "reply_family"):
            row[name] = 6
        row["original_saddr"] = list(range(16))
        row["original_protocol"] = row["reply_protocol"] = 17
        rejournal(pair, 1, 1)
        assert pair.replicate() == {"REPLICA_TAKEN": 1}
        ours, theirs = pair.tables()
        for name in replicas.STABLE:
            assert np.array_equal(ours[name], theirs[name])
        pair.assert_sound()

    def test_no_such_number_here(self, pair: Pair) -> None:
        (frame, *_) = self.some(pair, 1)
        for number in (0, 1025, 0xFFFFFFFF):
            assert pair.take(seal(frame[:54] + struct.pack("!I", number) + frame[58:])) == {
                "REPLICA_TAKEN": 1,
                "REPLICA_NO_ROOM": 1,
            }
        assert pair.auxiliary.flow_count() == 0

    def test_mutants_do_no_harm(self, pair: Pair) -> None:
        """Frames with right tags and any contents: no entry without its flow, no flow without its entries."""
        draw = random.Random(11)
        frames = self.some(pair, 60)
        for _ in range(2000):
            frame = bytearray(draw.choice(frames))
            for _ in range(draw.choice((1, 1, 2, 8, 40))):
                frame[draw.randrange(34, len(frame) - 8)] = draw.randrange(256)
            frame[34:38] = draw.choice(frames)[34:38]
            frame[46:54] = struct.pack("!Q", draw.randrange(200))  # head
            frame[38:46] = struct.pack("!Q", draw.randrange(200))
            pair.take(seal(bytes(frame)))
            state = pair.auxiliary.maps["mirrored"].view()
            assert int(state["lock"][0]) == 0
        pair.assert_sound()

    def test_a_generation_of_its_own(self, pair: Pair) -> None:
        """Another primary counts from 0 again: after `forget` its frames count, and the contents have stayed."""
        self.some(pair, 30)
        pair.take(*pair.again(0, 30))
        pair.mirror.forget()
        assert pair.auxiliary.flow_count() == 30
        state = pair.primary.maps["replication"].view()
        state["head"] = state["cursor"] = 0
        pair.primary.maps["records"].view()["position"][:] = 0
        pair.primary.maps["records"].view()["state"][1] = flows.CLOSED
        rejournal(pair, 1, 1)
        pair.replicate()
        assert pair.mirror.state().low == 0
        assert pair.mirror.missing() == []
        assert int(pair.auxiliary.maps["records"].view()["state"][1]) == flows.CLOSED

    def test_user_space_at_the_table(self, pair: Pair) -> None:
        (frame, *_) = self.some(pair, 1)
        pair.auxiliary.maps["mirrored"].view()["closed"] = 1
        assert pair.take(frame) == {"REPLICA_NOT_READY": 1}
        assert pair.auxiliary.flow_count() == 0

    def test_what_promotion_needs(self, pair: Pair) -> None:
        self.some(pair, 30)
        row = pair.primary.maps["records"].view()
        row["state"][5] = flows.DEAD
        rejournal(pair, 5, 5, free=True)
        pair.take(*pair.again(0, 30), *pair.frames())
        assert pair.mirror.become_source() == 29
        table = pair.auxiliary.maps["records"].view()
        assert int(table["state"][5]) == flows.DEAD
        assert not table["position"].any()
        assert pair.auxiliary.maps["replication"].view()["head"][0] == 0
        assert int(pair.auxiliary.maps["watermark"].get(0)) == 30  # type: ignore[arg-type]

    @pytest.mark.parametrize(("protocol", "state"), [(6, flows.SYN_RECV), (17, flows.SYN_SENT)], ids=["TCP", "UDP"])
    @pytest.mark.parametrize("family", [4, 6])
    def test_what_was_not_answered_yet(self, pair: Pair, family: int, protocol: int, state: int) -> None:
        """Of TCP the answer may have been seen, an ACK is enough then; a UDP flow waits for the next answer."""
        pair.take(*self.some(pair, 3))
        records = pair.auxiliary.maps["records"].view()
        for end in ("original", "reply"):
            records[f"{end}_protocol"][1:4], records[f"{end}_family"][1:4] = protocol, family
        records["state"][2] = flows.SYN_SENT
        pair.mirror.become_source()
        assert records["state"][1:4].tolist() == [flows.ESTABLISHED, state, flows.ESTABLISHED]

    def test_a_flow_that_has_closed_stays_as_old_as_it_is(self, pair: Pair) -> None:
        """However often the role moves, it goes when its time is over."""
        for frame in self.some(pair):
            pair.take(frame)
        records = pair.auxiliary.maps["records"].view()
        records["seen_ns"][1:31] = 5
        records["state"][7] = flows.CLOSED
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        pair.mirror.become_source()
        assert int(records["seen_ns"][7]) == 5
        assert (np.delete(records["seen_ns"][1:31], 6) >= before).all()

    @pytest.mark.parametrize(("ended", "timeout_s"), [(0, 30), (flows.LASTS, 120)], ids=["datagrams", "stream"])
    @pytest.mark.parametrize("left_s", [25, 7, 5, -400])
    def test_a_udp_flow_stays_as_old_as_it_is(self, pair: Pair, ended: int, timeout_s: int, left_s: int) -> None:
        """So far as the mirror knows: it has six seconds left for the next datagram."""
        pair.take(*self.some(pair, 2))
        configuration.write_timeouts(pair.auxiliary.maps, {flows.DATAGRAMS: 30, flows.STREAM: 120})
        records = pair.auxiliary.maps["records"].view()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for end in ("original", "reply"):
            records[f"{end}_protocol"][2] = flows.UDP
        records["ended"][2] = ended
        records["seen_ns"][1:3] = now - (timeout_s - left_s) * 10**9
        pair.mirror.become_source()
        left = int(records["seen_ns"][2]) + timeout_s * 10**9 - now
        assert left == pytest.approx(max(left_s, 6) * 10**9, abs=10**9)
        assert int(records["seen_ns"][1]) >= now

    def test_numbers_above_all_flows_were_never_used(self, pair: Pair) -> None:
        """Else each promotion would use up as many as sessions begin before the first sweep."""
        for frame in self.some(pair):
            pair.take(frame)
        records = pair.auxiliary.maps["records"].view()
        for number in (29, 30):
            records["state"][number] = 0
        assert pair.mirror.become_source() == 28
        assert int(pair.auxiliary.maps["watermark"].get(0)) == 28  # type: ignore[arg-type]
        assert not records["state"][29:].any()
