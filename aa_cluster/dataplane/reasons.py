# SPDX-License-Identifier: GPL-2.0-or-later
"""The reasons, read from the very header the programs are compiled with (bpf/include/reasons.h)."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from aa_cluster.dataplane import source
from aa_cluster.errors import DataplaneError

Verdict = Literal["pass", "steer", "handoff", "adopt", "drop", "relay", "punt"]

_LINE = re.compile(r'^\s*R\((\d+), (\w+), (\w+), (\w+), "([^"]*)"\)', re.MULTILINE)
_COUNT = re.compile(r"^#define AA_REASON_COUNT (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reason:
    """``verdict``: what the program did with the packet; ``punt``: left to the primary's stack, not by choice."""

    number: int
    name: str
    program: str
    verdict: Verdict
    text: str


@functools.cache
def all_reasons() -> tuple[Reason, ...]:
    """In the order of their numbers."""
    header = (source.directory() / "include" / "reasons.h").read_text("utf-8")
    found = tuple(_reason(match) for match in _LINE.finditer(header))
    if len({reason.number for reason in found}) != len(found) or len({reason.name for reason in found}) != len(found):
        raise DataplaneError("reasons.h gives a number or a name twice", "reasons are append-only: take a new number")
    return tuple(sorted(found, key=lambda reason: reason.number))


def _reason(match: re.Match[str]) -> Reason:
    number, name, program, verdict, text = match.groups()
    if verdict not in get_args(Verdict):
        raise DataplaneError(f"reasons.h: {name} has verdict {verdict!r}, expected one of {get_args(Verdict)}")
    return Reason(int(number), name, program, cast(Verdict, verdict), text)


@functools.cache
def capacity() -> int:
    """Entries of the counter map."""
    match = _COUNT.search((source.directory() / "include" / "reasons.h").read_text("utf-8"))
    if match is None:
        raise DataplaneError("reasons.h does not define AA_REASON_COUNT")
    return int(match.group(1))


def by_name() -> dict[str, Reason]:
    return {reason.name: reason for reason in all_reasons()}
