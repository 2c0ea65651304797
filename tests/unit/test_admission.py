# SPDX-License-Identifier: GPL-2.0-or-later
"""May a node join? One finding per difference, and each says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from aa_cluster.core import admission
from aa_cluster.core.admission import Own
from aa_cluster.core.membership import Facts, Membership, Node
from aa_cluster.wire.control import InterfaceFacts, JoinAsk

VIRTUAL = (bytes.fromhex("02aa00010000"), bytes.fromhex("02aa00010001"))


def mac(node: int, slot: int) -> bytes:
    return bytes((0x52, 0, 0, 0, node, slot))


def interfaces(node: int) -> tuple[InterfaceFacts, ...]:
    return (
        InterfaceFacts("int", mac(node, 0), ("10.77.1.1/24", "2001:db8::1/64"), 1500),
        InterfaceFacts("ext", mac(node, 1), ("10.77.2.1/24",), 1500),
    )


def ask(**changes: object) -> JoinAsk:
    usual = JoinAsk(
        nonce=bytes(8),
        name="node3",
        wire_version=1,
        kernel="6.18",
        weight=1,
        ha_mac=mac(3, 9),
        ruleset="ab" * 32,
        interfaces=interfaces(3),
    )
    return msgspec.structs.replace(usual, **changes)


def node(number: int, **changes: object) -> Node:
    told = Facts(f"node{number}", mac(number, 9), f"10.77.0.{number}", (mac(number, 0), mac(number, 1)))
    return replace(Node(id=number, facts=told, weight=1, heard=0.0, ready=True), **changes)


OWN = Own(1, "ab" * 32, interfaces(1), VIRTUAL)
MEMBERS = Membership(1, 1, 1, "weighted", 1.0, 0.2, {1: node(1), 2: node(2)}, {"node1": 1, "node2": 2}, {}, 0.0)


def with_interface(**changes: object) -> JoinAsk:
    first, second = interfaces(3)
    return ask(interfaces=(msgspec.structs.replace(first, **changes), second))


def test_an_equal_node_may_join() -> None:
    assert admission.examine(ask(), OWN, MEMBERS) == ()


@pytest.mark.parametrize(
    ("asked", "what", "found", "expected"),
    [
        (lambda: ask(wire_version=2), "wire version", "2", "1"),
        (lambda: ask(name="node2"), "node name", "node2, which is active", "no active node"),
        (lambda: ask(name="node1"), "node name", "node1, which is active", "no active node"),
        (lambda: ask(ruleset="cd" * 32), "ruleset", "cdcd", "abab"),
        (lambda: ask(interfaces=interfaces(3)[:1]), "interface ext", "missing (there: int)", "a data interface"),
        (lambda: ask(interfaces=()), "interface int", "missing (there: none)", "a data interface"),
        (lambda: with_interface(addresses=("10.77.1.2/24",)), "addresses of int", "10.77.1.2/24", "10.77.1.1/24"),
        (lambda: with_interface(addresses=()), "addresses of int", "none", "10.77.1.1/24"),
        (lambda: with_interface(mtu=9000), "MTU of int", "9000", "1500"),
        (lambda: with_interface(mac=VIRTUAL[0]), "MAC of int", "a virtual MAC", "physical"),
        (lambda: with_interface(mac=mac(2, 0)), "MAC of int", "which node2 has too", "no other node"),
        (lambda: with_interface(mac=mac(1, 0)), "MAC of int", "which the primary has too", "no other node"),
        (lambda: ask(interfaces=interfaces(3)[::-1]), "order of data interfaces", "ext, int", "int, ext"),
        (
            lambda: ask(interfaces=(*interfaces(3), InterfaceFacts("dmz", mac(3, 2), (), 1500))),
            "interface dmz",
            "a data interface",
            "only int, ext",
        ),
    ],
)
def test_a_difference_is_named(asked: Callable[[], JoinAsk], what: str, found: str, expected: str) -> None:
    findings = admission.examine(asked(), OWN, MEMBERS)
    chosen = next(finding for finding in findings if finding.what == what)
    assert found in chosen.found
    assert expected in chosen.expected
    assert chosen.remedy


def test_all_differences_come_at_once() -> None:
    findings = admission.examine(ask(wire_version=2, ruleset="cd" * 32, interfaces=()), OWN, MEMBERS)
    assert [finding.what for finding in findings] == ["wire version", "interface int", "interface ext", "ruleset"]


def test_link_local_addresses_are_not_compared() -> None:
    told = with_interface(addresses=("fe80::3/64", "2001:db8::1/64", "10.77.1.1/24"))
    assert admission.examine(told, OWN, MEMBERS) == ()


def test_a_silent_node_and_a_machine_that_comes_back_may_take_the_name() -> None:
    silent = replace(MEMBERS, nodes={1: node(1), 2: node(2, silent=True)})
    assert admission.examine(ask(name="node2"), OWN, silent) == ()
    assert admission.examine(ask(name="node2", ha_mac=mac(2, 9), interfaces=interfaces(2)), OWN, MEMBERS) == ()


def test_no_more_than_63_names() -> None:
    full = replace(MEMBERS, ids={f"node{number}": number for number in range(100, 163)})
    assert [finding.what for finding in admission.examine(ask(), OWN, full)] == ["node id"]


def test_helpers_are_shared_by_all_or_none() -> None:
    (finding,) = admission.examine(ask(share_helpers=True), OWN, MEMBERS)
    assert (finding.what, finding.found, finding.expected) == ("policy.share_helpers", "true", "false")


def test_every_table_is_as_large() -> None:
    (finding,) = admission.examine(ask(flow_table_size=1024), replace(OWN, flow_table_size=262144), MEMBERS)
    assert (finding.what, finding.found, finding.expected) == ("data.flow_table_size", "1024", "262144")
