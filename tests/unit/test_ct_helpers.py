# SPDX-License-Identifier: GPL-2.0-or-later
"""Which helper a ruleset gives to a session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aa_cluster.doctor import ct_helpers, limits

CHAIN = {"family": "inet", "hook": "prerouting", "name": "p", "table": "f"}
HELPER = {"family": "inet", "table": "f", "name": "std", "type": "ftp", "protocol": "tcp"}


def rule(*expression: Any) -> str:
    return f"rule {json.dumps({'family': 'inet', 'table': 'f', 'chain': 'p', 'expr': list(expression)})}"


def port(right: Any, protocol: str = "tcp") -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"field": "dport", "protocol": protocol}}, "right": right}}


def found(rule_line: str, number: int = 21, protocol: str = "tcp") -> list[str]:
    text = "\n".join((f"chain {json.dumps(CHAIN)}", f"ct helper {json.dumps(HELPER)}", rule_line))
    return [str(one) for one in ct_helpers.assignments(text, protocol, number)]


SETS = {"ct helper": "std"}
SAID = ["a rule in inet f p sets ftp"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (rule(port(21), SETS), SAID),
        (rule(SETS), SAID),
        (rule(port({"set": [20, 21]}), SETS), SAID),
        (rule(port({"range": [20, 30]}), SETS), SAID),
        (rule(port(22), SETS), []),
        (rule(port(21, "udp"), SETS), []),
        ("iptables-nft raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp", ["iptables-nft sets ftp"]),
        ("iptables-nft raw -A PREROUTING -p tcp --dport 69 -j CT --helper tftp", []),
        ("iptables-nft raw -A PREROUTING -p udp --dport 21 -j CT --helper ftp", []),
        ("iptables-nft raw -A PREROUTING ! -p udp -j CT --helper ftp", ["iptables-nft sets ftp"]),
    ],
)
def test_by_port(line: str, said: list[str]) -> None:
    assert found(line) == said


def test_an_object_for_another_protocol() -> None:
    assert found(rule(SETS), protocol="udp") == []


@pytest.mark.parametrize(("shared", "word"), [(False, "stay on the primary"), (True, "of the helpers only ftp's")])
def test_the_doctor_knows_whether_helpers_are_shared(shared: bool, word: str) -> None:
    text = "\n".join((f"chain {json.dumps(CHAIN)}", rule(SETS)))
    (check,) = limits.checks(text, share_helpers=shared)
    assert word in f"{check.found} {check.fix}"
