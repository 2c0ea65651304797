# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rules keep, share, or give to a node."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_network

import numpy as np
import pytest

from aa_cluster.core.policy import BUILT_IN, NO_MARK, Mark, Policy, Ports, Rule, Session, decide
from aa_cluster.dataplane import decisions
from aa_cluster.dataplane.decisions import mapped
from tests.bpf.decisions.sessions import (
    HALF_OPEN,
    KINDS,
    RST,
    SENT,
    SESSIONS,
    UNEQUAL,
    WHY,
    counted,
    fresh,
    opening,
    owners,
    packets,
    run,
    use,
)
from tests.bpf.harness import Plane

pytestmark = pytest.mark.bpf


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
