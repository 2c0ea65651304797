# SPDX-License-Identifier: GPL-2.0-or-later
"""A plane of this folder's own: who gets a new session, against the oracles in core/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.decisions.sessions import ROOM
from tests.bpf.harness import Plane, namespace, operated


@pytest.fixture
def plane(root: None, object_cache: Path) -> Iterator[Plane]:
    """Nodes 1 (this one) to 5."""
    with namespace(f"de{os.getpid()}"), operated(object_cache, "decide_ops", ROOM, ROOM, bindings=1024) as plane:
        plane.configure()
        plane.nodes(n1=1, n2=2, n3=2, n4=2, n5=2)
        yield plane
