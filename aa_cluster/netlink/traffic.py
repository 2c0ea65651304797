# SPDX-License-Identifier: GPL-2.0-or-later
"""What interfaces have received, from /proc/net/dev of the reader's network namespace."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

DEVICES = Path("/proc/thread-self/net/dev")


@dataclass(frozen=True, slots=True)
class Received:
    """Since the interface was made. ``octets`` as the driver counts them: with the Ethernet header on veth."""

    packets: int
    octets: int


def received(names: Collection[str], path: Path = DEVICES) -> Received:
    """Summed over ``names``; an interface that is not there counts nothing."""
    packets = octets = 0
    for line in path.read_text().splitlines()[2:]:
        name, _, columns = line.partition(":")
        if name.strip() in names:
            numbers = columns.split()
            octets += int(numbers[0])
            packets += int(numbers[1])
    return Received(packets, octets)
