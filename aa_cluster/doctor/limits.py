# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that act differently on an auxiliary, because it adopts sessions in the middle of their life.

docs/auxiliary-limits.md tells the same with its reasons. Looked at are rules that forwarded packets can meet: chains of
the prerouting, forward, postrouting and ingress hooks, and what they jump to. Rules for the node itself do not matter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from aa_cluster.api import Check
from aa_cluster.doctor.verdict import passed, warned

Json: TypeAlias = Any  # what json.loads gives: checked where it is read
Chain: TypeAlias = tuple[str, str, str]

HOOKS = frozenset(("prerouting", "forward", "postrouting", "ingress", "egress"))
KEEP = 'keep such sessions on the primary: a rule with action = "keep" in [policy], or a mark bit of [policy] keep_mark'


@dataclass(frozen=True, slots=True)
class Limit:
    """``differs``: what happens instead; ``remedy``: what to do. ``xtables``: the same in iptables' words."""

    name: str
    differs: str
    remedy: str
    uses: Callable[[Json], bool]
    xtables: str


def ct_key(*keys: str) -> Callable[[Json], bool]:
    """An expression that reads or sets one of these keys of ``ct``."""
    return lambda node: isinstance(node.get("ct"), dict) and node["ct"].get("key") in keys


def statement(*names: str) -> Callable[[Json], bool]:
    return lambda node: any(name in node for name in names)


def any_of(*tests: Callable[[Json], bool]) -> Callable[[Json], bool]:
    return lambda node: any(test(node) for test in tests)


def dynamic_set(node: Json) -> bool:
    return any(isinstance(node.get(kind), dict) and "op" in node[kind] for kind in ("set", "map")) or "meter" in node


LIMITS: tuple[Limit, ...] = (
    Limit(
        "ct helper",
        "an adopted entry never gets a helper",
        "nothing: sessions with a helper, and those it expects, stay on the primary (`aa-cluster policy check`); "
        "[policy] share_helpers = true shares those of ftp",
        any_of(statement("ct helper", "ct expectation"), ct_key("helper")),
        r"-m helper\b|-j CT .*--helper\b",
    ),
    Limit(
        "ct bytes",
        "adopted entries have no counters: ct bytes, packets and avgpkt read 0 there, so thresholds are never reached",
        KEEP,
        ct_key("bytes", "packets", "avgpkt"),
        r"-m connbytes\b",
    ),
    Limit(
        "ct label",
        "labels do not travel with a session, and an adopted entry cannot get one",
        "use the connection mark (ct mark), which travels",
        ct_key("label"),
        r"-m connlabel\b",
    ),
    Limit(
        "ct timeout",
        "an adopted entry cannot get a timeout policy: it lives by the node's nf_conntrack_tcp_timeout_*",
        "set those sysctls on every node instead; or " + KEEP,
        statement("ct timeout"),
        r"-j CT .*--timeout\b",
    ),
    Limit(
        "ct zone",
        "only sessions in zone 0 can be handed off",
        "nothing: sessions in another zone stay on the primary",
        ct_key("zone"),
        r"-j CT .*--zone",
    ),
    Limit(
        "limit",
        "each node has a limit of its own, for the packets it sees: first packets pass the primary and their owner, "
        "later ones their owner alone",
        "a limit on new connections holds for the cluster, the primary sees them all; "
        "divide others by the number of nodes",
        statement("limit"),
        r"-m (?:limit|hashlimit)\b",
    ),
    Limit(
        "quota",
        "each node has a quota of its own and counts only what it processes itself",
        "divide it by the number of nodes; or " + KEEP,
        statement("quota"),
        r"-m quota2?\b",
    ),
    Limit(
        "dynamic set",
        "each node has elements of its own: those of first packets are complete on the primary only, "
        "those of later packets nowhere",
        "fill and ask such sets with first packets (ct state new), where the primary decides; or " + KEEP,
        dynamic_set,
        r"-m recent\b|-j SET\b",
    ),
    Limit(
        "ct count",
        "each node counts the connections in its own table: an auxiliary those it owns, "
        "the primary also those it handed off, as long as its entries last",
        "divide it by the number of nodes; or " + KEEP,
        statement("ct count"),
        r"-m connlimit\b",
    ),
    Limit(
        "synproxy",
        "the primary answers the handshake itself, so there is no first packet to hand off",
        "nothing: such sessions stay on the primary; leave out what is to be shared",
        statement("synproxy"),
        r"-j SYNPROXY\b",
    ),
    Limit(
        "flowtable",
        "packets that take the flowtable's way are not seen by conntrack: an adopted entry does not follow its session",
        "take the data interfaces out of the flowtable; steering passes the primary's stack by anyway",
        statement("flow"),
        r"-j FLOWOFFLOAD\b",
    ),
    Limit(
        "notrack",
        "sessions that are not tracked cannot be handed off",
        "nothing: they stay on the primary; leave out what is to be shared",
        statement("notrack"),
        r"-j (?:NOTRACK\b|CT .*--notrack)",
    ),
)


HELPERS_SHARED = Limit(
    "ct helper",
    "of the helpers only ftp's sessions are shared: a node's agent makes the entry, with its helper; "
    "ct helper matches there, ct expectation does not act",
    "nothing: sessions with another helper, and those it expects, stay on the primary (`aa-cluster policy check`)",
    LIMITS[0].uses,
    LIMITS[0].xtables,
)


def checks(text: str, share_helpers: bool = False) -> Iterator[Check]:
    """``text`` as ``netlink.ruleset.Ruleset`` has it. One warning for each limit that some rule meets."""
    found = dict(met(text))
    for limit in (HELPERS_SHARED if share_helpers else LIMITS[0], *LIMITS[1:]):
        places = found.get(limit.name)
        if places:
            yield warned(f"on auxiliaries: {limit.name}", f"{_places(places)}: {limit.differs}", fix=limit.remedy)
    if not found:
        yield passed("on auxiliaries", "no rule acts differently on a node that adopts sessions")


def met(text: str) -> Iterator[tuple[str, list[str]]]:
    """(limit's name, the chains with rules that meet it, one name a rule)."""
    rules = list(forwarded(text))
    lines = [line for line in text.splitlines() if line.startswith(("iptables-", "ip6tables-"))]
    for limit in LIMITS:
        places = [" ".join(chain) for chain, expression in rules if _contains(expression, limit.uses)]
        places += [" ".join(line.split()[:4:3]) for line in lines if re.search(limit.xtables, line)]
        if places:
            yield limit.name, places


def _places(places: list[str]) -> str:
    chains = list(dict.fromkeys(places))
    rules = "1 rule" if len(places) == 1 else f"{len(places)} rules"
    return f"{rules} in {', '.join(chains)}"


def _contains(node: Json, test: Callable[[Json], bool]) -> bool:
    if isinstance(node, dict):
        return test(node) or any(_contains(one, test) for one in node.values())
    return isinstance(node, list) and any(_contains(one, test) for one in node)


def forwarded(text: str) -> Iterator[tuple[Chain, Json]]:
    """(chain, expressions) of the nft rules that forwarded packets can meet."""
    bases: set[Chain] = set()
    rules: dict[Chain, list[Json]] = {}
    for line in text.splitlines():
        kind, _, body = line.partition(" ")
        if kind == "chain":
            chain = json.loads(body)
            if chain.get("hook") in HOOKS:
                bases.add((chain["family"], chain["table"], chain["name"]))
        elif kind == "rule":
            rule = json.loads(body)
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
    for chain in _reached(bases, rules):
        yield from ((chain, expression) for expression in rules.get(chain, []))


def _reached(bases: Iterable[Chain], rules: Mapping[Chain, list[Json]]) -> list[Chain]:
    """The base chains and those they lead to, by jump, goto or a verdict map in the rule."""
    reached: list[Chain] = []
    waiting = sorted(bases)
    while waiting:
        chain = waiting.pop(0)
        if chain not in reached:
            reached.append(chain)
            waiting += [(*chain[:2], target) for target in _targets(rules.get(chain, []))]
    return reached


def _targets(node: Json) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("jump", "goto") and isinstance(value, dict) and "target" in value:
                yield str(value["target"])
            yield from _targets(value)
    elif isinstance(node, list):
        for one in node:
            yield from _targets(one)
