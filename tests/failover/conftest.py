# SPDX-License-Identifier: GPL-2.0-or-later
"""How often each scenario is run, and the table of what was found at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aa_cluster.topology import rulesets
from aa_cluster.topology.lab import Lab
from tests.conftest import lab_name
from tests.failover.figures import Figures

_figures = Figures()


@pytest.fixture(scope="session")
def rounds() -> int:
    """AA_FAILOVER_ROUNDS; 1 where it is not set."""
    return int(os.environ.get("AA_FAILOVER_ROUNDS", "1"))


@pytest.fixture(scope="package")
def trio(root: None) -> Iterator[Lab]:
    """Three nodes with election, for every test that puts back what it breaks (``oracle.restore``)."""
    with Lab(lab_name(), 3, rulesets.text("failover"), election=True) as lab:
        yield lab


@pytest.fixture
def figures() -> Figures:
    return _figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = _figures.table()
    if lines:
        terminalreporter.section("failover: what each scenario did to a thousand streams")
        for line in lines:
            terminalreporter.write_line(line)
