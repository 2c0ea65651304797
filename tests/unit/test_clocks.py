# SPDX-License-Identifier: GPL-2.0-or-later
"""A clock that is set does nothing to the cluster: nobody who decides reads the time of day.

That cannot be tried: a time namespace has no clock of the day of its own, and setting the machine's is not a test's
to do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECIDE = ("agent", "core", "dataplane", "netlink", "wire")
OF_THE_DAY = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "today"), ("datetime", "utcnow")}
TELLS = {"aa_cluster/agent/events.py"}
"""Says when something happened, for people to read."""


def readings(source: str) -> Iterator[int]:
    """Lines that read the time of day."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if (owner, node.attr) in OF_THE_DAY or node.attr == "CLOCK_REALTIME":
                yield node.lineno


@pytest.mark.parametrize("package", DECIDE)
def test_no_module_that_decides_reads_the_time_of_day(package: str) -> None:
    files = sorted((ROOT / "aa_cluster" / package).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): list(readings(file.read_text())) for file in files}
    assert {name: lines for name, lines in found.items() if lines and name not in TELLS} == {}


def test_no_program_reads_the_time_of_day() -> None:
    texts = [file.read_text() for file in (ROOT / "bpf").rglob("*.[ch]")]
    assert texts
    assert not any("bpf_ktime_get_tai" in text or "ktime_get_real" in text for text in texts)


def test_a_reading_is_found() -> None:
    assert list(readings("import time\nx = time.time()\ny = time.monotonic()\n")) == [2]
    assert list(readings("import datetime\nx = datetime.datetime.now()\n")) == [2]
