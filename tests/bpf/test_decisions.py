# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets a new session: schedules, persistence, policy and the half-open share, against the oracles in core/.

Sessions run through bpf/tests/decide_ops.bpf.c, which does what ``handoff`` and ``steer`` do, ten thousand at a time.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import numpy as np
import pytest

from aa_cluster.core import persistence, schedule
from aa_cluster.core.policy import BUILT_IN, NO_MARK, Mark, Policy, Ports, Rule, Session, decide
from aa_cluster.dataplane import decisions, flow_fill, flows, kfuncs, programs, reasons, syscall
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.decisions import mapped
from aa_cluster.dataplane.events import Ring
from aa_cluster.dataplane.maps import EVENT_BYTES, Map, open_all
from aa_cluster.wire.siphash import siphash24
from tests.bpf.harness import SOURCE_KEY, Plane, namespace

pytestmark = pytest.mark.bpf

SYN, PACKET = 0, 1
FIN, TCP_SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
ROOM = 20_000
SESSIONS = 10_000
FIVE = {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
UNEQUAL = {1: 5, 2: 3, 3: 7, 4: 1, 5: 10}
SERVER, SERVER_6 = mapped("192.0.2.1"), mapped("2001:db8:ffff::1")
KINDS = [(4, 6), (6, 6), (4, 17), (6, 17)]
"""(family, protocol)"""
WHY = {reason.name: reason.number for reason in reasons.all_reasons()}
SENT, HALF_OPEN = WHY["HANDOFF_SENT"], WHY["HANDOFF_HALF_OPEN"]


@contextmanager
def loaded(cache: Path, bindings: int) -> Iterator[Plane]:
    compiled = objects.load(("tests/decide_ops", "sweep"), kfuncs.offsets(), cache)
    declarations = {name: item for each in compiled.values() for name, item in each.maps.items()}
    ops = declarations.pop("ops")
    maps = open_all(declarations, None, ROOM, bindings=bindings)
    fd = syscall.map_create(syscall.MAP_ARRAY, 4, ops.value_size, ROOM, syscall.MMAPABLE, "ops")
    maps["ops"] = Map("ops", fd, ops)
    fds = programs.load(compiled, maps)
    ring = Ring(maps["events"].fd, EVENT_BYTES)
    try:
        yield Plane(maps, fds, ring)
    finally:
        ring.close()
        for each in (*fds.values(), *(item.fd for item in maps.values())):
            os.close(each)


@pytest.fixture
def plane(root: None, object_cache: Path) -> Iterator[Plane]:
    """Nodes 1 (this one) to 5."""
    with namespace(f"de{os.getpid()}"), loaded(object_cache, 1024) as plane:
        plane.configure()
        plane.nodes(n1=1, n2=2, n3=2, n4=2, n5=2)
        yield plane


def clients(numbers: np.ndarray, family: int = 4) -> np.ndarray:
    """10.0.0.0 + number, v4-mapped; or 2001:db8:: with the number at its end."""
    out = np.zeros((len(numbers), 16), "u1")
    if family == 4:
        out[:, 10:12] = 0xFF
        numbers = 0x0A000000 + numbers
    else:
        out[:, :4] = list(bytes.fromhex("20010db8"))
    out[:, 12:] = numbers.astype(">u4").view("u1").reshape(-1, 4)
    return out


def opening(
    plane: Plane, client: np.ndarray, port: np.ndarray, family: int = 4, protocol: int = 6, prefix: int = 0
) -> np.ndarray:
    """SYNs or first datagrams of those clients, without NAT. ``prefix``: bits 32 to 63 of an IPv6 client's address."""
    ops = np.zeros(len(client), plane.maps["ops"].value)
    who = clients(client, family)
    who[:, 4:8] |= np.frombuffer(prefix.to_bytes(4, "big"), "u1")
    ops["original_saddr"] = ops["reply_daddr"] = who
    ops["original_daddr"] = ops["reply_saddr"] = list(SERVER if family == 4 else SERVER_6)
    ops["original_sport"] = ops["reply_dport"] = port.astype("<u2").byteswap()
    ops["original_dport"] = ops["reply_sport"] = np.uint16(80).byteswap()
    for name in ("original", "reply"):
        ops[f"{name}_protocol"], ops[f"{name}_family"] = protocol, family
    return ops


def run(plane: Plane, ops: np.ndarray) -> np.ndarray:
    """The operations with their results."""
    plane.maps["ops"].view()[: len(ops)] = ops
    plane.maps["next_op"].put(0, np.array(0, "<u8"))
    syscall.run_program(plane.fds["decide_op"], bytes(64), repeat=len(ops))
    return plane.maps["ops"].view()[: len(ops)].copy()


def packets(ops: np.ndarray, flags: int, reply: bool = False) -> np.ndarray:
    out = ops.copy()
    out["kind"], out["flags"], out["reversed"] = PACKET, flags, reply
    return out


def fresh(count: int, clients_: int = 1 << 20, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(client, port) of sessions that differ."""
    numbers = np.arange(first, first + count)
    return numbers % clients_, 1024 + numbers // clients_


def use(plane: Plane, kind: schedule.Kind, weights: dict[int, int]) -> tuple[int, ...]:
    sequence = schedule.sequence(weights, kind)
    decisions.write_schedule(plane.maps, kind, sequence, weights)
    plane.maps["turns"].put(0, np.array(0, "<u8"))
    return sequence


def owners(plane: Plane, count: int = SESSIONS, **how: int) -> list[int]:
    """Of new sessions, each by another client unless told otherwise."""
    done = run(plane, opening(plane, *fresh(count, **how)))
    assert set(done["why"].tolist()) == {SENT}
    out: list[int] = done["owner"].tolist()
    return out


def counted(plane: Plane) -> tuple[dict[int, int], int]:
    """(live by owner, half-open) as the programs count."""
    return decisions.read_live(plane.maps), decisions.read_half_open(plane.maps)


def recounted(plane: Plane) -> tuple[dict[int, int], int]:
    """The same by looking at every record."""
    rows = flows.rows(plane.maps["records"], plane.maps["watermark"])
    live = flows.sessions_by_owner(plane.maps["records"], plane.maps["watermark"])
    return live, int(np.count_nonzero(rows["state"] < flows.ESTABLISHED))


class TestSchedules:
    @pytest.mark.parametrize("kind", ["round-robin", "weighted"])
    @pytest.mark.parametrize("weights", [FIVE, UNEQUAL, {1: 0, 2: 1, 3: 2}], ids=str)
    def test_in_turn_is_exact(self, plane: Plane, kind: schedule.Kind, weights: dict[int, int]) -> None:
        sequence = use(plane, kind, weights)
        assert owners(plane) == [sequence[turn % len(sequence)] for turn in range(SESSIONS)]
        assert counted(plane) == recounted(plane)

    @pytest.mark.parametrize("weights", [FIVE, UNEQUAL], ids=str)
    def test_least_connections_is_exact(self, plane: Plane, weights: dict[int, int]) -> None:
        """Sessions begin and end at random, those of node 2 seldom end: each owner is the oracle's."""
        nodes = use(plane, "least-connections", weights)
        dice = random.Random(4)
        live: dict[int, int] = dict.fromkeys(nodes, 0)
        open_: list[tuple[np.ndarray, int]] = []
        turn = 0
        for start in range(0, SESSIONS, 100):
            begun = opening(plane, *fresh(100, first=start))
            done = run(plane, begun)
            for one in done:
                expected = schedule.least_loaded(nodes, weights, live, turn)
                assert (int(one["owner"]), int(one["why"])) == (expected, SENT)
                turn += 1
                live[int(one["owner"])] += 1
                open_.append((one, int(one["owner"])))
            ending = [at for at, (_, owner) in enumerate(open_) if dice.random() < (0.05 if owner == 2 else 0.4)]
            for _, owner in (open_[at] for at in ending):
                live[owner] -= 1
            if ending:
                run(plane, packets(np.array([open_[at][0] for at in ending], begun.dtype), RST))
            gone = set(ending)
            open_ = [each for at, each in enumerate(open_) if at not in gone]
        assert counted(plane)[0] == {node: number for node, number in live.items() if number}
        assert counted(plane) == recounted(plane)

    def test_source_hash_is_the_table(self, plane: Plane) -> None:
        table = use(plane, "source-hash", UNEQUAL)
        expected = []
        for address in clients(np.arange(SESSIONS)):
            digest = siphash24(SOURCE_KEY, address.tobytes())
            expected.append(table[int.from_bytes(digest, "little") % len(table)])
        assert owners(plane) == expected

    def test_source_hash_gives_a_client_the_same_node(self, plane: Plane) -> None:
        use(plane, "source-hash", FIVE)
        got = owners(plane, 4000, clients_=200)
        assert got[200:] == got[:-200]

    @pytest.mark.parametrize(("family", "protocol"), KINDS)
    def test_every_kind_takes_its_turn(self, plane: Plane, family: int, protocol: int) -> None:
        """One sequence for all; and by source hash a client has one node, whatever it speaks."""
        sequence = use(plane, "weighted", UNEQUAL)
        done = run(plane, opening(plane, *fresh(1000), family, protocol))
        assert done["owner"].tolist() == [sequence[turn % len(sequence)] for turn in range(1000)]
        assert counted(plane) == recounted(plane)
        table = use(plane, "source-hash", UNEQUAL)
        done = run(plane, opening(plane, *fresh(1000, first=1 << 20), family, protocol))
        expected = []
        for address in clients(np.arange(1000), family):
            digest = siphash24(SOURCE_KEY, address.tobytes())
            expected.append(table[int.from_bytes(digest, "little") % len(table)])
        assert done["owner"].tolist() == expected

    @pytest.mark.parametrize("way", ["left", "drains"])
    def test_a_node_that_goes_moves_only_its_clients(self, plane: Plane, way: str) -> None:
        """One of five: a fifth of the clients, ±2 %, spread over the others; also while the table still names it."""
        use(plane, "source-hash", FIVE)
        before = owners(plane)
        if way == "left":
            use(plane, "source-hash", {node: 1 for node in FIVE if node != 3})
        else:
            decisions.write_draining(plane.maps, {3})
        after = owners(plane, first=1 << 20)
        moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert {old for old, _ in moved} == {3}
        assert 3 not in after
        assert abs(len(moved) / SESSIONS - 0.2) < 0.02
        assert all(abs(number / len(moved) - 0.25) < 0.05 for number in Counter(new for _, new in moved).values())

    @pytest.mark.parametrize("weights", [FIVE, UNEQUAL], ids=str)
    def test_random_follows_the_weights(self, plane: Plane, weights: dict[int, int]) -> None:
        """Each count is binomial: 5 σ is passed by chance once in two million. And it is not the sequence."""
        sequence = use(plane, "random", weights)
        got = owners(plane)
        for node, share in schedule.shares(weights, "random").items():
            assert abs(got.count(node) - SESSIONS * share) < 5 * (SESSIONS * share * (1 - share)) ** 0.5
        same = sum(owner == sequence[turn % len(sequence)] for turn, owner in enumerate(got))
        chance = sum(share**2 for share in schedule.shares(weights, "random").values())
        assert abs(same - SESSIONS * chance) < 5 * (SESSIONS * chance * (1 - chance)) ** 0.5

    @pytest.mark.parametrize("kind", schedule.KINDS)
    def test_a_draining_node_gets_nothing(self, plane: Plane, kind: schedule.Kind) -> None:
        use(plane, kind, FIVE)
        decisions.write_draining(plane.maps, {2, 4})
        assert set(owners(plane, 1000)) == {1, 3, 5}
        decisions.write_draining(plane.maps, ())
        assert set(owners(plane, 1000, first=5000)) == set(FIVE)

    @pytest.mark.parametrize("kind", schedule.KINDS)
    def test_nobody_left_is_the_primary(self, plane: Plane, kind: schedule.Kind) -> None:
        use(plane, kind, {2: 1, 3: 4})
        decisions.write_draining(plane.maps, {2, 3})
        assert set(owners(plane, 100)) == {1}

    def test_a_change_is_for_the_next_session_and_for_no_other(self, plane: Plane) -> None:
        use(plane, "weighted", {2: 1})
        syns = opening(plane, *fresh(100))
        assert set(run(plane, syns)["owner"].tolist()) == {2}
        use(plane, "weighted", {3: 1})
        decisions.write_draining(plane.maps, {2})
        again = run(plane, syns)
        assert set(again["owner"].tolist()) == {2}
        assert set(again["why"].tolist()) == {WHY["HANDOFF_AGAIN"]}
        assert set(owners(plane, 100, first=100)) == {3}


class TestPersistence:
    IDLE_S = 300.0

    @pytest.fixture(autouse=True)
    def enabled(self, plane: Plane) -> None:
        self.enable(plane, persistence.Settings(self.IDLE_S))

    def enable(self, plane: Plane, settings: persistence.Settings | None) -> None:
        record = plane.maps["config"].record()
        decisions.fill_persistence(record, settings)
        names = ("persist_idle_ns", "persist_v4", "persist_v6")
        plane.configure(**{name: record[name] for name in names})

    def age(self, plane: Plane, seconds: float) -> None:
        """As if so much time had passed for every client."""
        bindings = plane.maps["bindings"]
        for key, value in zip(*bindings.read(), strict=True):
            older = value.copy()
            older["seen_ns"] -= np.uint64(seconds * 1e9)
            bindings.put(key.tobytes(), older)

    def test_twenty_reconnects(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        got = np.array(owners(plane, 200 * 20, clients_=200)).reshape(20, 200)
        assert (got == got[0]).all()
        assert Counter(got[0].tolist()) == dict.fromkeys(FIVE, 40)
        assert decisions.read_persistence_counts(plane.maps) == (200 * 19, 200)
        assert int(plane.maps["turns"].get(0)) == 200, "a client that is known takes no turn"

    def test_it_expires_when_it_says(self, plane: Plane) -> None:
        use(plane, "weighted", {2: 1})
        owners(plane, 50)
        use(plane, "weighted", {2: 1, 3: 100})
        self.age(plane, self.IDLE_S - 5)
        assert set(owners(plane, 50, first=1 << 20)) == {2}
        self.age(plane, self.IDLE_S - 5)
        assert set(owners(plane, 50, first=2 << 20)) == {2}, "each session renews it"
        self.age(plane, self.IDLE_S)
        assert set(owners(plane, 50, first=3 << 20)) == {3}

    def test_a_prefix_is_one_client(self, plane: Plane) -> None:
        self.enable(plane, persistence.Settings(prefix_v4=24))
        use(plane, "round-robin", FIVE)
        got = np.array(owners(plane, 256 * 10)).reshape(10, 256)
        assert (got == got[:, :1]).all()
        assert Counter(got[:, 0].tolist()) == dict.fromkeys(FIVE, 2)

    @pytest.mark.parametrize("protocol", [6, 17])
    @pytest.mark.parametrize("length", [32, 40, 48, 56, 63, 64])
    def test_an_ipv6_prefix_is_one_client(self, plane: Plane, length: int, protocol: int) -> None:
        """Clients in 2001:db8::/32, 256 hosts in each of 16 networks whose numbers differ from bit 32 on."""
        settings = persistence.Settings(self.IDLE_S, prefix_v6=length)
        self.enable(plane, settings)
        use(plane, "round-robin", FIVE)
        networks = [(one << 28 | one << 20 | one << 12 | one << 4 | one & 1) for one in range(16)]
        owner: dict[str, set[int]] = {}
        for network in networks:
            done = run(plane, opening(plane, *fresh(256), 6, protocol, network))
            assert set(done["why"].tolist()) == {SENT}
            for row in done:
                client = str(persistence.client(IPv6Address(row["original_saddr"].tobytes()), settings))
                owner.setdefault(client, set()).add(int(row["owner"]))
        assert len(owner) == len({network >> (64 - length) for network in networks})
        assert all(len(one) == 1 for one in owner.values()), "a client keeps its node"
        assert decisions.read_persistence_counts(plane.maps) == (16 * 256 - len(owner), len(owner))
        shown = {row.address: row.node for row in decisions.read_bindings(plane.maps, self.IDLE_S)}
        assert shown == {client: nodes.pop() for client, nodes in owner.items()}

    def test_one_client_has_one_node_for_both_protocols_and_one_for_each_family(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        who = np.arange(100), np.full(100, 1024)
        tcp, udp = (run(plane, opening(plane, *who, 6, protocol))["owner"].tolist() for protocol in (6, 17))
        assert tcp == udp
        assert int(plane.maps["turns"].get(0)) == 100
        run(plane, opening(plane, *who, 4, 17))
        assert int(plane.maps["turns"].get(0)) == 200

    def test_the_operator_may_say_of_ipv6(self, plane: Plane) -> None:
        settings = persistence.Settings(self.IDLE_S, prefix_v6=64)
        self.enable(plane, settings)
        use(plane, "weighted", {2: 1, 4: 0})
        decisions.bind(plane.maps, settings, "2001:db8:0:7::1", 4)
        inside = run(plane, opening(plane, *fresh(8), 6, 17, prefix=7))
        assert set(inside["owner"].tolist()) == {4}
        outside = run(plane, opening(plane, *fresh(8), 6, 17, prefix=8))
        assert set(outside["owner"].tolist()) == {2}
        assert decisions.unbind(plane.maps, settings, "2001:db8:0:7:ffff::")

    @pytest.mark.parametrize("why", ["drains", "left", "not a member"])
    def test_a_node_that_cannot_take_it(self, plane: Plane, why: str) -> None:
        use(plane, "weighted", {2: 1})
        owners(plane, 50)
        use(plane, "weighted", {3: 1} if why == "not a member" else {2: 1, 3: 100})
        if why == "drains":
            decisions.write_draining(plane.maps, {2})
        elif why == "left":
            plane.nodes(n1=1, n3=2)
        assert set(owners(plane, 50, first=1 << 20)) == {3}
        assert decisions.read_persistence_counts(plane.maps) == (0, 100)

    def test_weight_0_takes_no_new_clients_and_keeps_the_old(self, plane: Plane) -> None:
        use(plane, "weighted", {2: 1, 3: 0})
        owners(plane, 50)
        use(plane, "weighted", {2: 0, 3: 1})
        assert set(owners(plane, 50, first=1 << 20)) == {2}
        assert set(owners(plane, 50, first=50)) == {3}

    def test_the_operator_may_say(self, plane: Plane) -> None:
        settings = persistence.Settings(self.IDLE_S)
        use(plane, "weighted", {2: 1, 3: 1, 4: 0})
        decisions.bind(plane.maps, settings, "10.0.0.7", 4)
        assert owners(plane, 8)[7] == 4
        rows = decisions.read_bindings(plane.maps, self.IDLE_S)
        assert {(row.address, row.node) for row in rows} >= {("10.0.0.7", 4)}
        assert all(0 <= row.idle_s < 5 for row in rows)
        assert decisions.unbind(plane.maps, settings, "10.0.0.7")
        assert not decisions.unbind(plane.maps, settings, "10.0.0.7")
        assert decisions.unbind_all(plane.maps) == 7
        assert decisions.read_bindings(plane.maps, self.IDLE_S) == []

    def test_its_size_is_bounded(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        owners(plane, 5000)
        assert len(plane.maps["bindings"].read()[0]) <= 1024

    def test_off_nothing_is_remembered(self, plane: Plane) -> None:
        self.enable(plane, None)
        use(plane, "round-robin", FIVE)
        owners(plane, 500, clients_=10)
        assert len(plane.maps["bindings"].read()[0]) == 0
        assert decisions.read_persistence_counts(plane.maps) == (0, 0)

    def test_random_clients_and_times_agree_with_the_oracle(self, plane: Plane) -> None:
        sequence = use(plane, "weighted", UNEQUAL)
        oracle = persistence.Bindings(persistence.Settings(self.IDLE_S))
        dice = np.random.default_rng(3)
        now, turn = 0.0, 0
        for round_ in range(40):
            who = dice.integers(0, 100, 60)
            done = run(plane, opening(plane, who, np.arange(1024 + 60 * round_, 1084 + 60 * round_)))
            for client, owner in zip(who.tolist(), done["owner"].tolist(), strict=True):
                address = str(IPv4Address(0x0A000000 + client))
                expected = oracle.recall(address, now, UNEQUAL)
                if expected is None:
                    expected = sequence[turn % len(sequence)]
                    turn += 1
                    oracle.remember(address, expected, now)
                assert owner == expected
            passed = float(dice.choice([1, 40, 120]))
            self.age(plane, passed)
            now += passed
        assert decisions.read_persistence_counts(plane.maps) == (oracle.hits, oracle.misses)
        assert oracle.hits > 500
        assert oracle.misses > 200


class TestPolicy:
    SLOTS = {"int": 0, "ext": 1, "dmz": 2}  # noqa: RUF012

    def sessions(self, plane: Plane, dice: random.Random, count: int) -> tuple[list[Session], np.ndarray]:
        them, ops = [], np.zeros(count, plane.maps["ops"].value)
        for op in ops:
            one = self.session(dice)
            for name, address in (("saddr", one.source), ("daddr", one.destination)):
                op[f"original_{name}"] = list(mapped(str(address)))
            op["original_sport"] = int.from_bytes(one.source_port.to_bytes(2, "big"), "little")
            op["original_dport"] = int.from_bytes(one.port.to_bytes(2, "big"), "little")
            op["original_protocol"], op["original_family"] = one.protocol, one.source.version
            op["connmark"], op["mark"], op["slot"] = one.connmark, one.mark, self.SLOTS[one.interface]
            them.append(one)
        return them, ops

    def session(self, dice: random.Random) -> Session:
        six = dice.random() < 0.4

        def address() -> IPv4Address | IPv6Address:
            low = dice.randrange(1 << 16)
            return IPv6Address((0x20010DB8 << 96) + (low << 64) + low) if six else IPv4Address(0x0A010000 + low)

        ports = [dice.choice((dice.randrange(65536), dice.randrange(130), 53, 123)) for _ in range(2)]
        marks = [dice.choice((0, 1, 2, 3, 0x80000000, 0x12345678)) for _ in range(2)]
        protocol = dice.choice((6, 17))
        return Session(dice.choice(list(self.SLOTS)), address(), address(), *ports, protocol, *marks)

    def rule(self, dice: random.Random) -> Rule:
        six = dice.random() < 0.4

        def prefix() -> object:
            if dice.random() < 0.5:
                return None
            low = dice.randrange(1 << 16)
            if six:
                return ip_network(((0x20010DB8 << 96) + (low << 64), dice.choice((0, 32, 50, 60))), strict=False)
            return ip_network((0x0A010000 + low, dice.choice((0, 16, 18, 20, 24))), strict=False)

        def ranges() -> tuple[Ports, ...]:
            if dice.random() < 0.6:
                return ()
            pairs = [sorted(dice.choice((65535, 100, 50)) * dice.random() for _ in range(2)) for _ in range(2)]
            return tuple(Ports(int(first), int(last)) for first, last in pairs[: dice.choice((1, 2))])

        mask = dice.choice((1, 3, 0xFF, 0xFFFFFFFF))
        return Rule(
            dice.choice(("share", "keep")),
            dice.choice((None, None, *self.SLOTS)),
            dice.choice((None, 6, 17)),
            prefix(),  # type: ignore[arg-type]
            prefix(),  # type: ignore[arg-type]
            ranges(),
            ranges(),
            Mark(dice.choice((0, 1, 2, 0x12345678)) & mask, mask) if dice.random() < 0.3 else NO_MARK,
        )

    def policy(self, dice: random.Random) -> Policy:
        rules: list[Rule] = []
        for _ in range(dice.choice((0, 1, 5, 20, 64))):
            one = self.rule(dice)
            if sum(rule.lines for rule in rules) + one.lines <= 126:
                rules.append(one)
        keep = dice.choice((NO_MARK, NO_MARK, Mark(0x80000000, 0x80000000)))
        return Policy(tuple(rules), dice.choice(("share", "keep")), keep, dice.choice(((), BUILT_IN, BUILT_IN)))

    @pytest.mark.parametrize("seed", range(4))
    def test_random_sessions_and_rules_agree_with_the_oracle(self, plane: Plane, seed: int) -> None:
        """2,500 sessions under each of ten policies, and the counters of each rule. What is shared finds no room."""
        dice = random.Random(seed)
        plane.configure(half_open_limit=0)
        them, ops = self.sessions(plane, dice, SESSIONS // 4)
        seen: Counter[str] = Counter()
        for _ in range(10):
            policy = self.policy(dice)
            decisions.write_policy(plane.maps, policy, self.SLOTS)
            expected = [decide(policy.rules, policy.default, policy.keep_mark, one, policy.built_in) for one in them]
            before = decisions.read_hits(plane.maps)
            numbers = []
            for session, one in zip(them, expected, strict=True):
                by_rule = one.rule is not None or one.built_in is not None
                kept = "RULE" if by_rule else "MARK" if "keep_mark" in one.why else "DEFAULT"
                numbers.append(HALF_OPEN if one.action == "share" else WHY[f"HANDOFF_KEPT_BY_{kept}"])
                how = "BUILT_IN" if one.built_in is not None else kept
                seen[f"{one.action} by {how}, {session.protocol} over IPv{session.source.version}"] += 1
            got = run(plane, ops)["why"].tolist()
            if got != numbers:
                at = next(i for i, pair in enumerate(zip(got, numbers, strict=True)) if pair[0] != pair[1])
                pytest.fail(f"{them[at]}: {got[at]}, the oracle {expected[at]}")
            hits = decisions.read_hits(plane.maps)
            by = Counter((one.rule, one.built_in) for one in expected)
            counts = [now - then for now, then in zip(hits.rules, before.rules, strict=True)]
            assert counts == [by[number, None] for number in range(len(policy.rules))]
            counts = [now - then for now, then in zip(hits.built_in, before.built_in, strict=True)]
            assert counts == [by[None, number] for number in range(len(policy.built_in))]
            assert hits.default + hits.keep_mark - before.default - before.keep_mark == by[None, None]
        assert len(seen) == 5 * 4 + 2, seen
        assert decisions.read_half_open(plane.maps) == 0

    @pytest.mark.parametrize(("family", "protocol"), KINDS)
    def test_short_exchanges_stay_by_themselves(self, plane: Plane, family: int, protocol: int) -> None:
        """UDP to 53 and 123, over both families; TCP is shared there, and an operator's rule goes first."""
        use(plane, "weighted", {2: 1})
        decisions.write_policy(plane.maps, Policy(built_in=BUILT_IN), self.SLOTS)
        ops = opening(plane, *fresh(300), family, protocol)
        for number, port in enumerate((53, 123, 443)):
            some = slice(100 * number, 100 * number + 100)
            for name in ("original_dport", "reply_sport"):
                ops[name][some] = np.uint16(port).byteswap()
        kept = WHY["HANDOFF_KEPT_BY_RULE"] if protocol == 17 else SENT
        assert run(plane, ops)["why"].tolist() == [kept] * 200 + [SENT] * 100
        hits = decisions.read_hits(plane.maps)
        assert (hits.rules, hits.built_in) == ((), (100, 100) if protocol == 17 else (0, 0))
        assert hits.default == (100 if protocol == 17 else 300)
        own = Rule("share", protocol=17, ports=(Ports(53, 53),))
        decisions.write_policy(plane.maps, Policy((own,), built_in=BUILT_IN), self.SLOTS)
        ops["original_sport"] = ops["reply_dport"] = np.uint16(999).byteswap()
        assert run(plane, ops)["why"].tolist() == [SENT] * 100 + [kept] * 100 + [SENT] * 100
        hits = decisions.read_hits(plane.maps)
        assert (hits.rules, hits.built_in) == ((100,), (0, 100)) if protocol == 17 else ((0,), (0, 0))

    def test_kept_sessions_take_no_turn_and_no_record(self, plane: Plane) -> None:
        sequence = use(plane, "weighted", UNEQUAL)
        rule = Rule("keep", source=ip_network("10.0.0.0/25"))
        decisions.write_policy(plane.maps, Policy((rule,)), self.SLOTS)
        done = run(plane, opening(plane, np.arange(256), np.full(256, 1024)))
        assert set(done["why"][:128].tolist()) == {WHY["HANDOFF_KEPT_BY_RULE"]}
        assert set(done["owner"][:128].tolist()) == {0}
        assert done["owner"][128:].tolist() == [sequence[turn % len(sequence)] for turn in range(128)]
        assert plane.flow_count() == 128

    def test_a_change_leaves_running_sessions_alone(self, plane: Plane) -> None:
        use(plane, "weighted", {2: 1})
        syns = opening(plane, *fresh(50))
        run(plane, syns)
        decisions.write_policy(plane.maps, Policy((), "keep"), self.SLOTS)
        assert set(run(plane, syns)["why"].tolist()) == {WHY["HANDOFF_AGAIN"]}
        run(plane, packets(syns, RST))
        assert set(run(plane, syns)["why"].tolist()) == {WHY["HANDOFF_KEPT_BY_DEFAULT"]}, "a new session"
        assert (plane.flow_count(), counted(plane)) == (0, ({}, 0))

    def test_the_same_policy_again_keeps_its_counters(self, plane: Plane) -> None:
        policy = Policy((Rule("share", interface="int"),))
        assert decisions.write_policy(plane.maps, policy, self.SLOTS)
        owners(plane, 10)
        assert not decisions.write_policy(plane.maps, policy, self.SLOTS)
        assert decisions.read_hits(plane.maps).rules == (10,)
        assert decisions.write_policy(plane.maps, Policy(), self.SLOTS)
        assert decisions.read_hits(plane.maps).rules == ()


class TestHalfOpen:
    def test_they_have_their_share_and_established_flows_keep_theirs(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        plane.configure(half_open_limit=100)
        first = opening(plane, *fresh(100))
        assert set(run(plane, first)["why"].tolist()) == {SENT}
        run(plane, packets(first, TCP_SYN | ACK, reply=True))
        assert counted(plane)[1] == 100, "a SYN-ACK does not complete it"
        run(plane, packets(first[:60], ACK))
        assert counted(plane)[1] == 40
        flood = opening(plane, *fresh(5000, first=1000))
        why = Counter(run(plane, flood)["why"].tolist())
        assert why == {SENT: 60, HALF_OPEN: 4940}
        assert counted(plane)[1] == 100
        assert plane.flow_count() == 160, "nobody was pushed out"
        assert int(plane.maps["turns"].get(0)) == 160
        run(plane, packets(flood[:10], RST))
        assert Counter(run(plane, flood[100:])["why"].tolist())[SENT] == 10

    def test_the_sweep_gives_the_room_back(self, plane: Plane) -> None:
        use(plane, "round-robin", FIVE)
        plane.configure(half_open_limit=100)
        run(plane, opening(plane, *fresh(200)))
        plane.maps["records"].view()["seen_ns"][1:101] -= np.uint64(121e9)
        plane.sweep()
        assert counted(plane) == ({}, 0)
        assert Counter(run(plane, opening(plane, *fresh(200, first=500)))["why"].tolist())[SENT] == 100


class TestCounters:
    def operations(self, plane: Plane, seed: int, count: int, universe: int) -> np.ndarray:
        dice = np.random.default_rng(seed)
        ops = opening(plane, dice.integers(0, universe, count), np.full(count, 1024))
        ops["kind"] = dice.choice([SYN, PACKET], count, p=[0.3, 0.7])
        ops["reversed"] = dice.integers(0, 2, count)
        ops["flags"] = np.where(
            ops["reversed"] == 0,
            dice.choice([ACK, FIN | ACK, RST], count, p=[0.7, 0.2, 0.1]),
            dice.choice([TCP_SYN | ACK, ACK, FIN | ACK, RST], count, p=[0.5, 0.2, 0.2, 0.1]),
        )
        return ops

    def test_they_equal_the_records_after_random_operations(self, plane: Plane) -> None:
        use(plane, "weighted", UNEQUAL)
        states: Counter[int] = Counter()
        for batch in range(100):
            run(plane, self.operations(plane, batch, 5000, 2000))
            if batch % 10 == 9:
                plane.maps["records"].view()["seen_ns"][::3] -= np.uint64(500e9)
                plane.sweep()
            assert counted(plane) == recounted(plane)
            states.update(flows.rows(plane.maps["records"], plane.maps["watermark"])["state"].tolist())
        assert set(states) == {1, 2, 3, 4, 5}
        flow_fill.recount(plane.maps)
        assert counted(plane) == recounted(plane)

    def test_two_cpus_and_the_sweep_at_the_same_flows_lose_no_count(self, plane: Plane) -> None:
        use(plane, "weighted", UNEQUAL)
        record = plane.maps["config"].get(0).copy()
        record["timeout_s"][:] = 0
        plane.maps["config"].put(0, record)
        plane.maps["ops"].view()[:] = self.operations(plane, 9, ROOM, 12)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                plane.maps["next_op"].put(0, np.array(0, "<u8"))
                syscall.run_program(plane.fds["decide_op"], bytes(64), repeat=ROOM)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            plane.sweep()
        stop.set()
        for thread in threads:
            thread.join()
        assert counted(plane) == recounted(plane)
        plane.sweep()
        plane.sweep()
        assert counted(plane) == ({}, 0)
