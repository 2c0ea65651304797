# SPDX-License-Identifier: GPL-2.0-or-later
"""The loaded programs, once for all tests of this folder; reset before each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.harness import Plane, loaded, namespace


@pytest.fixture(scope="session")
def object_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def loaded_plane(root: None, object_cache: Path) -> Iterator[Plane]:
    with namespace(f"bpf{os.getpid()}"), loaded(object_cache) as plane:
        yield plane


@pytest.fixture
def plane(loaded_plane: Plane) -> Plane:
    loaded_plane.reset()
    return loaded_plane
