# SPDX-License-Identifier: GPL-2.0-or-later
"""Which conntrack entries an auxiliary lets go of when its flows have been taken over."""

from __future__ import annotations

import numpy as np
import pytest

from aa_cluster.agent.forgetting import forwarded
from aa_cluster.dataplane.decisions import mapped
from aa_cluster.dataplane.flows import FLOW_ROW

OWN = ("10.77.1.1", "10.77.2.1", "fd77:1::1", "fd77:2::1", "fe80::1")


def row(source: str, answers: str, protocol: int) -> np.ndarray:
    """``answers``: who answers, as the reply tuple has it."""
    out = np.zeros(1, FLOW_ROW)
    out["saddr"], out["reply_saddr"] = list(mapped(source)), list(mapped(answers))
    out["family"], out["protocol"] = 6 if ":" in source else 4, protocol
    return out


@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize(
    ("source", "answers", "goes"),
    [
        ("10.77.1.100", "10.77.2.100", True),
        ("10.77.1.1", "10.77.2.100", False),
        ("10.77.1.100", "10.77.2.1", False),
        ("127.0.0.1", "127.0.0.53", False),
        ("10.77.1.100", "224.0.0.251", False),
        ("10.77.1.100", "255.255.255.255", False),
        ("fd77:1::100", "fd77:2::100", True),
        ("fd77:1::1", "fd77:2::100", False),
        ("fd77:1::100", "fd77:2::1", False),
        ("::1", "::1", False),
        ("fe80::5", "fd77:2::100", False),
        ("febf::5", "fd77:2::100", False),
        ("fec0::5", "fd77:2::100", True),
        ("fd77:1::100", "ff02::fb", False),
        ("::2", "fd77:2::100", True),
    ],
)
def test_sessions_that_begin_and_end_elsewhere_go(source: str, answers: str, goes: bool, protocol: int) -> None:
    assert len(forwarded(row(source, answers, protocol), OWN)) == goes


@pytest.mark.parametrize("addresses", [(), OWN, tuple(f"fd77:9::{one:x}" for one in range(1, 200))], ids=len)
def test_many_addresses_and_many_rows(addresses: tuple[str, ...]) -> None:
    ends = [(f"fd77:1::{one:x}", "fd77:2::100") for one in range(16, 400)]
    ends += [(one, "fd77:2::100" if ":" in one else "10.77.2.100") for one in addresses]
    rows = np.concatenate([row(*each, 17) for each in ends])
    assert len(forwarded(rows, addresses)) == 384
