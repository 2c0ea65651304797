# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that act differently on an auxiliary, found in a ruleset recorded with nft 1.0.6 (data/auxiliary.json).

The flowtable rule is written after libnftables-json(5): the kernel it was recorded on has none.
"""

import json
from pathlib import Path

import pytest

from aa_cluster.doctor import limits
from aa_cluster.netlink import ruleset

RECORDED = json.loads((Path(__file__).parent / "data" / "auxiliary.json").read_text())
LIMITS_PAGE = Path(__file__).parents[2] / "docs" / "auxiliary-limits.md"
FLOWTABLE = [{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}]
FLOWTABLE.append({"flow": {"op": "add", "flowtable": "@ft"}})


def text(*rules, chain="forward"):
    """The recorded ruleset with these rules' expressions only, all in one chain."""
    kept = [entry for entry in RECORDED["nftables"] if "rule" not in entry]
    kept += [{"rule": {"family": "inet", "table": "f", "chain": chain, "expr": rule}} for rule in rules]
    return "".join(f"{line}\n" for line in ruleset.normalised({"nftables": kept}))


def recorded(handle):
    return next(e["rule"]["expr"] for e in RECORDED["nftables"] if e.get("rule", {}).get("handle") == handle)


MEETS = {
    13: {"ct helper"},
    14: {"ct helper"},
    15: {"ct bytes"},
    16: {"ct bytes"},
    17: {"ct bytes"},
    18: {"ct label"},
    19: {"ct label"},
    20: {"ct timeout"},
    21: {"ct zone"},
    22: {"ct zone"},
    23: {"limit"},
    24: {"limit"},
    25: {"limit"},
    26: {"quota"},
    27: {"quota"},
    28: {"limit", "dynamic set"},
    29: {"dynamic set"},
    30: {"dynamic set", "ct count"},
    31: {"ct count"},
    33: {"limit", "dynamic set"},
    34: {"synproxy"},
    35: {"synproxy"},
    37: {"ct helper"},
    38: set(),
    39: set(),
    40: {"notrack"},
    41: set(),
    42: set(),
    43: set(),
    45: set(),
}
"""Handle of a recorded rule → the limits it meets. Marks, counters and looking into a set act the same everywhere."""


@pytest.mark.parametrize("handle", MEETS)
def test_each_recorded_rule(handle):
    assert {name for name, _ in limits.met(text(recorded(handle)))} == MEETS[handle]


def test_a_flowtable():
    assert [name for name, _ in limits.met(text(FLOWTABLE))] == ["flowtable"]


def test_the_whole_recording_meets_every_limit_but_the_flowtable():
    whole = "".join(f"{line}\n" for line in ruleset.normalised(RECORDED))
    found = list(limits.checks(whole))
    assert [check.name for check in found] == [
        f"on auxiliaries: {limit.name}" for limit in limits.LIMITS if limit.name != "flowtable"
    ]
    assert {check.result for check in found} == {"warn"}
    assert all(check.fix for check in found)


def test_rules_for_the_node_itself_do_not_matter():
    """In the recording a limit stands in the input chain, a quota in a chain that nobody jumps to."""
    assert list(limits.met(text(recorded(23), chain="input"))) == []
    assert list(limits.met(text(recorded(26), chain="unused"))) == []


def test_chains_are_followed_through_verdict_maps():
    whole = "".join(f"{line}\n" for line in ruleset.normalised(RECORDED))
    assert dict(limits.met(whole))["quota"] == ["inet f forward", "inet f forward", "inet f called"]


def test_nothing_to_say():
    (check,) = limits.checks(text(recorded(41)))
    assert check.result == "pass"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            "-A FORWARD -p tcp -m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr -j DROP",
            "ct count",
        ),
        ("-A FORWARD -m limit --limit 3/sec -j ACCEPT", "limit"),
        ("-A FORWARD -m hashlimit --hashlimit-upto 3/sec --hashlimit-mode srcip --hashlimit-name x -j ACCEPT", "limit"),
        ("-A FORWARD -m recent --set --name z --mask 255.255.255.255 --rsource", "dynamic set"),
        ("-A FORWARD -m connbytes --connbytes 10 --connbytes-mode bytes --connbytes-dir both", "ct bytes"),
        ("-A FORWARD -m quota --quota 100", "quota"),
        ("-A FORWARD -m helper --helper ftp", "ct helper"),
        ('-A FORWARD -m connlabel --label "3"', "ct label"),
        ("-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp", "ct helper"),
        ("-A PREROUTING -p tcp -m tcp --dport 21 -j CT --timeout agg", "ct timeout"),
        ("-A PREROUTING -p tcp -m tcp --dport 21 -j CT --zone 5", "ct zone"),
        ("-A PREROUTING -p tcp -m tcp --dport 21 -j CT --notrack", "notrack"),
        ("-A FORWARD -p tcp -m state --state INVALID -j SYNPROXY --sack-perm", "synproxy"),
    ],
)
def test_the_same_in_iptables_words(line, name):
    """As iptables-nft-save and iptables-legacy-save print them."""
    assert list(limits.met(f"iptables-nft filter {line}\n")) == [(name, [f"iptables-nft {line.split()[1]}"])]


def test_the_page_names_every_limit():
    page = LIMITS_PAGE.read_text()
    for limit in limits.LIMITS:
        assert f"**{limit.name}**" in page
