# SPDX-License-Identifier: GPL-2.0-or-later
"""Which conntrack helper the rules give to a session, as far as rules tell it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from aa_cluster.doctor.limits import Json, forwarded


@dataclass(frozen=True, slots=True)
class Assignment:
    """A rule that may give the session a helper. ``helper``: the kernel's name of it, like ``ftp``."""

    helper: str
    place: str

    def __str__(self) -> str:
        return f"{self.place} sets {self.helper}"


def assignments(text: str, protocol: str, port: int) -> Iterator[Assignment]:
    """Of sessions to this port; ``text`` as ``netlink.ruleset.Ruleset`` has it. What else a rule asks for (interface,
    prefix) is not looked at: the rule may give it, or not.
    """
    objects = _objects(text)
    for chain, expression in forwarded(text):
        names = [str(one["ct helper"]) for one in expression if "ct helper" in one]
        if not names or not _may_be_for(expression, protocol, port):
            continue
        for name in names:
            kind, of = objects.get((*chain[:2], name), (name, ""))
            if of in ("", protocol):
                yield Assignment(kind, f"a rule in {' '.join(chain)}")
    for line in text.splitlines():
        found = re.search(r"-j CT .*--helper (\S+)", line)
        ports, asked = re.search(r"--dports? (\S+)", line), re.search(r"(?<!! )-p (\S+)", line)
        if found and (asked is None or asked[1] == protocol) and (ports is None or _listed(ports[1], port)):
            yield Assignment(found[1], line.split()[0])


def _objects(text: str) -> dict[tuple[str, str, str], tuple[str, str]]:
    """(family, table, name) of each helper object → (helper, protocol)."""
    out = {}
    for line in text.splitlines():
        if line.startswith("ct helper "):
            body = json.loads(line.removeprefix("ct helper "))
            out[body["family"], body["table"], body["name"]] = body.get("type", body["name"]), body.get("protocol", "")
    return out


def _may_be_for(expression: Json, protocol: str, port: int) -> bool:
    """False when a match on the destination port excludes it."""
    for one in expression:
        match = one.get("match", {})
        payload = match.get("left", {}).get("payload", {}) if isinstance(match.get("left"), dict) else {}
        if payload.get("field") != "dport" or match.get("op") != "==":
            continue
        if payload.get("protocol") not in (protocol, "th") or not _among(match.get("right"), port):
            return False
    return True


def _among(right: Json, port: int) -> bool:
    if isinstance(right, dict) and "set" in right:
        return any(_among(one, port) for one in right["set"])
    if isinstance(right, dict) and "range" in right:
        return bool(right["range"][0] <= port <= right["range"][1])
    return not isinstance(right, int) or right == port


def _listed(ports: str, port: int) -> bool:
    """``21``, ``21:25`` or ``21,69``, as iptables writes it."""
    for part in ports.split(","):
        first, _, last = part.partition(":")
        if first.isdecimal() and int(first) <= port <= int(last or first):
            return True
    return False
