# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs tell, turned into events: one for each kind, interface and address of a batch, with its count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aa_cluster import api, log
from aa_cluster.agent.context import Context

if TYPE_CHECKING:
    from aa_cluster.dataplane.events import Event
    from aa_cluster.dataplane.settings import Port

MOST = 16
"""Events of one batch that are told one by one; the rest in one line a kind."""
_WORDS: dict[str, tuple[api.EventKind, str]] = {
    "table_full": ("table-full", "the flow table is full: {count} new sessions stayed on the primary"),
    "refused_block": ("refused-block", "{count} handoff blocks were refused"),
}

_log = log.get("dataplane")


def say_all(context: Context, ports: Sequence[Port], events: Sequence[Event]) -> None:
    """All but neighbours, which are not for people."""
    names = {port.slot: port.name for port in ports}
    counted = Counter((event.kind, event.slot, event.address) for event in events if event.kind in _WORDS)
    for kind, total in Counter(event.kind for event in events if event.kind in _WORDS).items():
        _log.warning("dataplane event", what=kind, times=total)
    rest: Counter[str] = Counter()
    for number, ((kind, slot, address), count) in enumerate(counted.most_common()):
        if number >= MOST:
            rest[kind] += count
            continue
        name, words = _WORDS[kind]
        text = f"{words.format(count=count)}, from {address} on {names.get(slot, slot)}"
        interface = names.get(slot, str(slot))
        context.events.say(name, text, node=context.name, address=address, interface=interface, count=count)
    for other, count in rest.items():
        name, words = _WORDS[other]
        text = f"{words.format(count=count)}, from other addresses"
        context.events.say(name, text, node=context.name, count=count)
