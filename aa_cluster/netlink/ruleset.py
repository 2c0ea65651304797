# SPDX-License-Identifier: GPL-2.0-or-later
"""The packet filter's rules as one text that is equal on two nodes exactly when their rules are.

Sources: ``nft -j list ruleset``; ``iptables-legacy-save`` and ``ip6tables-legacy-save`` when legacy tables exist
(asking for a table that does not exist would create it, so ``/proc/net/ip_tables_names`` is read first);
``iptables-nft-save`` when nft meets expressions of xtables, whose parameters its JSON leaves out.

Left out of the text: counters, handles, quota usage, expiry times, elements that packets or timeouts put into sets
(nft 1.0.6 prints no ``dynamic`` flag, so sets are recognised by the rules that add to them), order of tables, of set
elements and of chains. Order of rules in a chain stays.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from aa_cluster.errors import NetlinkError

Json: TypeAlias = Any  # what json.loads gives: checked where it is read
Run: TypeAlias = Callable[[Sequence[str]], str]

STATEFUL_KEYS = frozenset({"handle", "used", "used_unit", "expires", "index", "position"})
RANK = {"table": 0, "flowtable": 1, "set": 2, "map": 2, "chain": 3}
"""Places of objects within their table; others come after chains, rules last."""
LAST = 4
LEGACY = (
    ("ip_tables_names", "iptables-legacy-save"),
    ("ip6_tables_names", "ip6tables-legacy-save"),
)
XTABLES_NFT = ("iptables-nft-save", "ip6tables-nft-save")
COMMAND_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Ruleset:
    """``digest``: SHA-256 of ``text`` in hex. ``text``: one line per object or rule, fit for a diff."""

    digest: str
    text: str


def read() -> Ruleset:
    """The rules of this network namespace; ``NetlinkError`` when the tools are missing or fail."""
    return gather(run_command, Path("/proc/thread-self/net"))


def gather(run: Run, proc_net: Path) -> Ruleset:
    """As ``read``, with the runner of commands and the place of the legacy tables' names given."""
    document = json.loads(run(("nft", "-j", "list", "ruleset")) or "{}")
    lines = list(normalised(document))
    commands = list(XTABLES_NFT) if _has_xtables(document) else []
    commands += [command for names, command in LEGACY if _listed(proc_net / names)]
    for command in commands:
        lines += [f"{command.removesuffix('-save')} {line}" for line in normalised_save(run((command,)))]
    text = "".join(f"{line}\n" for line in lines)
    return Ruleset(hashlib.sha256(text.encode()).hexdigest(), text)


def normalised(document: Json) -> Iterator[str]:
    """The lines of one ``nft -j`` document."""
    objects = [entry for entry in document.get("nftables", []) if "metainfo" not in entry]
    dynamic = set(_dynamic_sets(objects))
    plain = [_object(kind, body, dynamic) for entry in objects for kind, body in entry.items()]
    for kind, body in sorted(plain, key=_place):
        yield f"{kind} {_canonical(body)}"


def normalised_save(text: str) -> Iterator[str]:
    """The lines of one ``iptables-save``, sorted by table, without comments, counters and untouched tables."""
    tables: dict[str, list[str]] = {}
    current: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("*"):
            current = tables.setdefault(line[1:], [])
        elif line and line != "COMMIT" and not line.startswith("#"):
            current.append(re.sub(r"\s*\[\d+:\d+\]\s*", " ", line).strip())
    for name, lines in sorted(tables.items()):
        if any(not re.fullmatch(r":\S+ ACCEPT", line) for line in lines):
            yield from (f"{name} {line}" for line in lines)


def run_command(argv: Sequence[str]) -> str:
    """Standard output of a command; ``NetlinkError`` when it is missing, fails or takes too long."""
    path = shutil.which(argv[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise NetlinkError(f"{argv[0]} is not installed", "apt install nftables iptables")
    try:
        done = subprocess.run([path, *argv[1:]], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NetlinkError(f"{' '.join(argv)} gave no answer in {COMMAND_SECONDS} s") from None
    if done.returncode:
        raise NetlinkError(f"{' '.join(argv)} failed: {done.stderr.strip() or done.returncode}", "run as root")
    return done.stdout


def _listed(names: Path) -> bool:
    try:
        return bool(names.read_text().strip())
    except OSError:  # the kernel has no such tables, or the module is not loaded
        return False


def _has_xtables(node: Json) -> bool:
    if isinstance(node, dict):
        return "xt" in node or any(map(_has_xtables, node.values()))
    return isinstance(node, list) and any(map(_has_xtables, node))


def _dynamic_sets(objects: Sequence[Json]) -> Iterator[tuple[str, str, str]]:
    """(family, table, name) of every set or map that a rule adds to, and of every set that says so itself."""
    for entry in objects:
        for kind in ("set", "map"):
            if kind in entry and "dynamic" in _flags(entry[kind]):
                yield _key(entry[kind])
        rule = entry.get("rule", {})
        for expression in rule.get("expr", []):
            for kind in ("set", "map"):
                target = expression.get(kind) if isinstance(expression, dict) else None
                if isinstance(target, dict) and "op" in target:
                    yield rule["family"], rule["table"], str(target.get(kind, "")).removeprefix("@")


def _flags(body: Json) -> Sequence[str]:
    """nft writes one flag as a list or as a bare word, by version."""
    flags = body.get("flags", [])
    return [flags] if isinstance(flags, str) else flags


def _key(body: Json) -> tuple[str, str, str]:
    return body["family"], body["table"], body["name"]


def _object(kind: str, body: Json, dynamic: set[tuple[str, str, str]]) -> tuple[str, Json]:
    kept = dict(body)
    if kind == "counter":
        kept = {key: value for key, value in kept.items() if key not in ("packets", "bytes")}
    if kind in ("set", "map"):
        elements = [] if _key(kept) in dynamic else [one for one in kept.get("elem", []) if not _expires(one)]
        kept["elem"] = elements
        kept["flags"] = sorted(_flags(kept))
    return kind, _stateless(kept)


def _expires(element: Json) -> bool:
    """True of an element (or of a map's key) that a timeout will remove."""
    if isinstance(element, list) and element:
        element = element[0]
    return isinstance(element, dict) and isinstance(element.get("elem"), dict) and "expires" in element["elem"]


def _stateless(node: Json) -> Json:
    """The same tree without state, and with the elements of sets in one order."""
    if isinstance(node, list):
        return [_stateless(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept: dict[str, Json] = {}
    for key, value in node.items():
        if key in STATEFUL_KEYS:
            continue
        if key == "counter" and isinstance(value, dict):
            kept[key] = None
        elif key in ("set", "elem") and isinstance(value, list):
            kept[key] = sorted(map(_stateless, value), key=_canonical)
        else:
            kept[key] = _stateless(value)
    return kept


def _place(entry: tuple[str, Json]) -> tuple[str, str, int, str]:
    """Sorting by it is stable, so rules of one chain stay in their order."""
    kind, body = entry
    owner = body.get("name", "") if kind == "table" else body.get("table", "")
    name = body.get("chain", "") if kind == "rule" else body.get("name", "")
    return body.get("family", ""), owner, LAST + 1 if kind == "rule" else RANK.get(kind, LAST), name


def _canonical(node: Json) -> str:
    return json.dumps(node, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
