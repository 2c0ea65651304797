# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy: what the configuration may say, and that ``decide`` and the compiled lines say the same."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aa_cluster import config
from aa_cluster.cli.config import toml
from aa_cluster.core.policy import (
    BUILT_IN,
    MAX_RULES,
    NO_MARK,
    Decision,
    Mark,
    Policy,
    Ports,
    Rule,
    Session,
    decide,
    parse_mark,
    parse_ports,
    protocol_name,
    protocol_number,
)
from aa_cluster.dataplane.decisions import HITS_BUILT_IN, compile_policy, mapped
from aa_cluster.errors import ConfigError

BASE = """
[cluster]
id = 7
[node]
name = "gw1"
[ha]
interface = "ha"
[data]
interfaces = ["int", "ext"]
"""
SLOTS = {"int": 0, "ext": 1}

LINE = np.dtype(
    [
        *((name, "u1", 16) for name in ("source", "source_mask", "destination", "destination_mask")),
        *((name, "<u4") for name in ("mark", "mark_mask")),
        *((name, "<u2") for name in ("source_first", "source_last", "first", "last", "slots")),
        *((name, "u1") for name in ("protocol", "family", "share", "number")),
    ]
)
"""As struct rule; tests/bpf/test_layout.py compares the real one."""


def read(text: str) -> Policy:
    from aa_cluster.core.policy import parse

    return parse(config.parse((BASE + text).encode()).policy, ("int", "ext"))


def test_nothing_said_shares_everything_but_short_exchanges() -> None:
    assert read("") == Policy((), "share", NO_MARK, BUILT_IN)
    assert read("[policy]\nkeep_short_exchanges = false\n") == Policy((), "share", NO_MARK, ())


def test_built_in_lines_are_among_the_128() -> None:
    """A policy that fills them all has to do without."""
    ports = f"[{', '.join(str(port) for port in range(1, 2 * 127, 2))}]"
    text = f'[policy]\nrules = [{{ action = "keep", ports = {ports} }}]\n'
    with pytest.raises(ConfigError, match=r"127 pairs .* expected 126 at most"):
        read(text)
    whole = read(f"{text}keep_short_exchanges = false\n")
    assert len(compile_policy(whole, SLOTS, LINE)) == 127
    fitting = read(text.replace(", 253]", "]"))
    assert compile_policy(fitting, SLOTS, LINE)["number"].tolist() == [0] * 126 + [HITS_BUILT_IN, HITS_BUILT_IN + 1]


def test_a_whole_policy() -> None:
    policy = read(
        """
[policy]
default = "keep"
keep_mark = "0x80000000/0x80000000"
rules = [
  { action = "keep", interface = "ext", ports = "5060-5061" },
  { action = "share", protocol = "tcp", source = "10.1.0.0/16", destination = "192.0.2.7", ports = [443, 80, "81-90"] },
  { action = "share", source = "2001:db8::/32", source_ports = "1024-65535", mark = "0x1/0xff" },
  { action = "share", protocol = "udp", destination = "2001:db8::53", ports = 53 },
]
"""
    )
    assert policy.default == "keep"
    assert policy.keep_mark == Mark(1 << 31, 1 << 31)
    assert policy.rules == (
        Rule("keep", interface="ext", ports=(Ports(5060, 5061),)),
        Rule(
            "share",
            protocol=6,
            source=ip_network("10.1.0.0/16"),
            destination=ip_network("192.0.2.7/32"),
            ports=(Ports(80, 90), Ports(443, 443)),
        ),
        Rule("share", source=ip_network("2001:db8::/32"), source_ports=(Ports(1024, 65535),), mark=Mark(1, 0xFF)),
        Rule("share", protocol=17, destination=ip_network("2001:db8::53/128"), ports=(Ports(53, 53),)),
    )


def test_config_show_writes_rules_that_are_read_back(tmp_path: Path) -> None:
    rules = 'rules = [{ action = "keep", ports = ["80", 443] }, { action = "share", mark = "0x1/0xff" }]'
    before = config.parse(f"{BASE}\n[policy]\n{rules}\n".encode())
    assert config.parse(toml(before).encode()) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('rules = [{ action = "drop" }]', "policy.rules[0].action"),
        ('rules = [{ action = "keep", colour = 1 }]', "colour"),
        ("rules = [{ }]", "action"),
        ('rules = [{ action = "keep", protocol = "sctp" }]', "protocol"),
        ('rules = [{ action = "keep" }, { action = "keep", interface = "dmz" }]', "rule 2: interface is 'dmz'"),
        ('rules = [{ action = "keep", source = "10.0.0.1/8" }]', "write 10.0.0.0/8"),
        ('rules = [{ action = "keep", source = "10.0.0.0/33" }]', "rule 1: source is '10.0.0.0/33'"),
        ('rules = [{ action = "keep", destination = "www" }]', "rule 1: destination is 'www'"),
        ('rules = [{ action = "keep", source = "::ffff:10.0.0.0/104" }]', "write it as an IPv4 prefix"),
        ('rules = [{ action = "keep", source = "10.0.0.0/8", destination = "::/0" }]', "two address families"),
        ('rules = [{ action = "keep", ports = "90-80" }]', "write 80-90"),
        ('rules = [{ action = "keep", ports = "80-" }]', "rule 1: ports has '80-'"),
        ('rules = [{ action = "keep", ports = 65536 }]', "from 0 to 65535"),
        ('rules = [{ action = "keep", source_ports = [] }]', "source_ports is an empty list"),
        ('rules = [{ action = "keep", mark = "1/2/3" }]', "rule 1: mark is '1/2/3'"),
        ('rules = [{ action = "keep", mark = "0x100/0xff" }]', "bits outside its mask"),
        ('rules = [{ action = "keep", mark = "0x1ffffffff" }]', "32-bit"),
        ('keep_mark = "0x0/0x1"', "policy.keep_mark"),
        ('default = "drop"', "policy.default"),
        ("rules = [" + '{ action = "keep" },' * (MAX_RULES + 1) + "]", "expected 64 at most"),
        (f'rules = [{{ action = "keep", ports = {list(range(1, 500, 3))} }}]', "expected 126 at most"),
    ],
)
def test_complaints_name_rule_and_key(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as complaint:
        read(f"[policy]\n{text}\n")
    assert said in str(complaint.value)


@pytest.mark.parametrize(
    ("given_", "ranges"),
    [
        (None, ()),
        (80, (Ports(80, 80),)),
        ("80", (Ports(80, 80),)),
        ("80-90", (Ports(80, 90),)),
        ("443, 80", (Ports(80, 80), Ports(443, 443))),
        (["80-90", 91, "85-100", 200], (Ports(80, 100), Ports(200, 200))),
        ("0-65535", (Ports(0, 65535),)),
    ],
)
def test_ports(given_: object, ranges: tuple[Ports, ...]) -> None:
    assert parse_ports(given_) == ranges  # type: ignore[arg-type]


def test_marks() -> None:
    assert parse_mark("0x1/0xff") == Mark(1, 0xFF)
    assert parse_mark("7") == Mark(7, 0xFFFFFFFF)
    assert Mark(1, 0xFF).on(0x101, 0)
    assert Mark(1, 0xFF).on(3, 1)
    assert not Mark(3, 0xFF).on(1, 2)
    assert Mark(0, 0xFF).on(0x100, 0x200)
    assert not Mark(0, 0xFF).on(0x100, 0x201)


def session(**changes: object) -> Session:
    values: dict[str, object] = {
        "interface": "int",
        "source": IPv4Address("10.1.2.3"),
        "destination": IPv4Address("192.0.2.7"),
        "source_port": 40000,
        "port": 80,
    }
    return Session(**(values | changes))  # type: ignore[arg-type]


def test_the_first_match_decides_and_says_why() -> None:
    rules = (
        Rule("keep", interface="ext"),
        Rule("share", ports=(Ports(80, 90),)),
        Rule("keep", source=ip_network("10.0.0.0/8")),
    )
    first = decide(rules, "keep", NO_MARK, session())
    assert first == Decision("share", 1, "rule 2 matches: share ports 80-90")
    assert first.mismatches == ("rule 1 does not match: it came in on int, not ext",)
    assert decide(rules, "keep", NO_MARK, session(port=443)).rule == 2
    last = decide(rules, "keep", NO_MARK, session(port=443, source=IPv4Address("11.0.0.1")))
    assert (last.action, last.rule, last.why) == ("keep", None, "no rule matches: the default is keep")
    assert len(last.mismatches) == 3
    assert decide(rules, "share", Mark(8, 8), session(mark=8)).why == (
        "connmark 0x0 or packet mark 0x8 has keep_mark 0x8/0x8"
    )
    udp = decide((Rule("share", protocol=6), *rules), "keep", NO_MARK, session(protocol=17))
    assert udp.mismatches[0] == "rule 1 does not match: protocol udp is not tcp"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("port", "which"), [(53, 0), (123, 1), (443, None)])
def test_short_exchanges_are_kept_unless_somebody_says_else(version: int, port: int, which: int | None) -> None:
    six = {"source": IPv6Address("2001:db8::1"), "destination": IPv6Address("2001:db8::2")} if version == 6 else {}
    one = session(protocol=17, port=port, **six)
    found = decide((), "share", NO_MARK, one, BUILT_IN)
    assert (found.action, found.rule, found.built_in) == ("share" if which is None else "keep", None, which)
    if which is not None:
        assert found.why == f"a built-in rule matches: keep protocol udp, ports {port}"
    over_tcp = session(protocol=6, port=port, **six)
    assert decide((), "share", NO_MARK, over_tcp, BUILT_IN).action == "share"
    said = decide((Rule("share", protocol=17),), "share", NO_MARK, one, BUILT_IN)
    assert (said.action, said.rule, said.built_in) == ("share", 0, None), "the operator's come first"
    assert decide((), "keep", NO_MARK, one, BUILT_IN).action == "keep"
    assert decide((), "share", NO_MARK, one).action == "share", "turned off"


def test_protocols_by_name_and_number() -> None:
    for text, number in (("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58), ("sctp", 132), ("gre", 47), ("esp", 50)):
        assert protocol_number(text) == protocol_number(str(number)) == number
        assert protocol_name(number) == text
    assert (protocol_number("41"), protocol_name(41)) == (41, "41")
    for wrong in ("quic", "256", "-1", "", "６"):
        assert protocol_number(wrong) is None


def lines_say(policy: Policy, one: Session) -> tuple[bool, int | None]:
    """(shared, number of the rule) by the compiled lines, compared as bpf/include/policy.h compares them."""
    keep = policy.keep_mark
    if keep.mask and keep.value in (one.connmark & keep.mask, one.mark & keep.mask):
        return False, None
    source, destination = (np.frombuffer(mapped(str(each)), "u1") for each in (one.source, one.destination))
    for line in compile_policy(policy, SLOTS, LINE):
        value, mask = int(line["mark"]), int(line["mark_mask"])
        either = value in (one.connmark & mask, one.mark & mask)
        neither = (one.connmark | one.mark) & mask == 0
        if (
            not ((source ^ line["source"]) & line["source_mask"]).any()
            and not ((destination ^ line["destination"]) & line["destination_mask"]).any()
            and line["source_first"] <= one.source_port <= line["source_last"]
            and line["first"] <= one.port <= line["last"]
            and int(line["slots"]) >> SLOTS[one.interface] & 1
            and int(line["protocol"]) in (0, one.protocol)
            and int(line["family"]) in (0, one.source.version)
            and (not mask or (either if value else neither))
        ):
            return bool(line["share"]), int(line["number"])
    return policy.default == "share", None


ADDRESSES = {
    4: st.integers(0, 15).map(lambda low: IPv4Address(0x0A000000 + low)),
    6: st.integers(0, 15).map(lambda low: IPv6Address((0x20010DB8 << 96) + low)),
}
PORT = st.integers(0, 7) | st.integers(65530, 65535)
SMALL = st.integers(0, 3)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    version = draw(st.sampled_from((4, 6)))
    source, destination = draw(ADDRESSES[version]), draw(ADDRESSES[version])
    interface = draw(st.sampled_from(("int", "ext")))
    port = draw(PORT | st.sampled_from((53, 123)))
    protocol = draw(st.sampled_from((6, 17)))
    return Session(interface, source, destination, draw(PORT), port, protocol, draw(SMALL), draw(SMALL))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128

    def prefix() -> object:
        length = draw(st.sampled_from((0, bits - 4, bits - 2, bits)))
        return ip_network((draw(ADDRESSES[version]), length), strict=False)

    def ranges() -> tuple[Ports, ...]:
        pairs = draw(st.lists(st.tuples(PORT, PORT), max_size=2))
        return tuple(Ports(min(pair), max(pair)) for pair in pairs)

    mask = draw(SMALL)
    return Rule(
        draw(st.sampled_from(("share", "keep"))),
        draw(st.sampled_from((None, "int", "ext"))),
        draw(st.sampled_from((None, 6, 17))),
        prefix() if draw(st.booleans()) else None,  # type: ignore[arg-type]
        prefix() if draw(st.booleans()) else None,  # type: ignore[arg-type]
        ranges(),
        ranges(),
        Mark(draw(SMALL) & mask, mask) if draw(st.booleans()) else NO_MARK,
    )


@given(
    st.lists(rules(), max_size=6),
    st.sampled_from(("share", "keep")),
    st.sampled_from((NO_MARK, Mark(2, 2), Mark(1, 3))),
    st.sampled_from(((), BUILT_IN)),
    st.lists(sessions(), min_size=1, max_size=8),
)
def test_decide_and_the_compiled_lines_agree(
    rules: list[Rule], default: str, keep: Mark, built_in: tuple[Rule, ...], them: list[Session]
) -> None:
    policy = Policy(tuple(rules), default, keep, built_in)  # type: ignore[arg-type]
    for one in them:
        decision = decide(policy.rules, policy.default, policy.keep_mark, one, policy.built_in)
        number = decision.rule if decision.built_in is None else HITS_BUILT_IN + decision.built_in
        assert (decision.action == "share", number) == lines_say(policy, one)


def test_a_prefix_of_no_bits_keeps_to_its_family() -> None:
    six = Rule("keep", source=ip_network("::/0"))
    four = Rule("keep", source=ip_network("0.0.0.0/0"))
    assert decide((six,), "share", NO_MARK, session()).action == "share"
    assert decide((four,), "share", NO_MARK, session()).action == "keep"
    other = session(source=ip_address("2001:db8::1"), destination=ip_address("2001:db8::2"))
    assert decide((four,), "share", NO_MARK, other).action == "share"
    assert lines_say(Policy((six,)), session()) == (True, None)
    assert lines_say(Policy((four,)), other) == (True, None)
