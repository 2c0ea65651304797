# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo holds, shows what it promises to show, takes less than a minute, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import io
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from aa_cluster.topology import leftovers
from aa_cluster.topology.plan import Plan

pytestmark = [pytest.mark.lab, pytest.mark.slow]

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "demo.py"
SECONDS = 60


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """The script, imported."""
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # where its data classes look for their annotations
    spec.loader.exec_module(module)
    return module


def test_the_demo(root: None, new_lab_name: str) -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--name", new_lab_name], capture_output=True, text=True, check=False, timeout=110
    )
    took = time.monotonic() - start
    said = re.sub(r"\s+", " ", done.stdout.replace("│", " "))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything holds" in said
    assert "NOT everything holds" not in said
    for claim in (
        "75 sessions client → server, masquerade, IPv4: all complete",
        "75 sessions server → published, DNAT, IPv4: all complete",
        "75 sessions client → server, masquerade, IPv6: all complete",
        "75 sessions server → published, DNAT, IPv6: all complete",
        "shares are exactly 100/100/100",
        "200 of 200 entries of auxiliaries equal the primary's (NAT, mark)",
        "shares are exactly 50/100/50",
        "150 of 150 entries of auxiliaries equal the primary's (NAT, mark)",
        "no ARP frame of an auxiliary on a data segment",
    ):
        assert f"✓ {claim}" in said
    assert re.search(r"✓ [1-9]\d* relayed ARP frames \(201/202\), on the HA link only", said)
    assert re.search(r"✓ [1-9]\d* packets steered by XDP, past the primary's stack", said)
    assert "ARP frames on each segment" in said
    assert "What XDP on the primary did" in said
    assert took < SECONDS
    assert not leftovers.present(Plan(new_lab_name, 3))


def test_what_does_not_hold_is_said_and_ends_with_1(demo: ModuleType) -> None:
    account = demo.Account(Console(file=io.StringIO(), width=100))
    account.claim("this holds", True)
    assert account.close()
    account.claim("that does not", False, "2 of 3")
    assert not account.close()
    assert "✗ that does not: 2 of 3" in account.console.file.getvalue()


def test_the_exit_code_is_that_of_the_claims(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    monkeypatch.setattr(demo, "demo", lambda account, name: account.claim("it holds", False))
    assert demo.main() == 1
