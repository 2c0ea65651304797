# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures every layer can use: labs with names of their own, torn down whatever happens."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from aa_cluster.topology.lab import Lab

_numbers = itertools.count(1)


def lab_name() -> str:
    """No other lab on the machine is called so: this process's id, and a letter or two."""
    return f"t{os.getpid()}{_letters(next(_numbers))}"


def _letters(number: int) -> str:
    return ("" if number <= 26 else _letters((number - 1) // 26)) + chr(ord("a") + (number - 1) % 26)


@pytest.fixture
def new_lab_name() -> str:
    return lab_name()


@pytest.fixture(scope="session")
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root (namespaces, BPF)")


@pytest.fixture(scope="module")
def make_lab(root: None) -> Iterator[Callable[..., Lab]]:
    """``make_lab(nodes, …)``: a lab that is up (arguments as ``Lab``), and gone when the module's tests are done."""
    with ExitStack() as labs:
        yield lambda nodes=3, **options: labs.enter_context(Lab(lab_name(), nodes, **options))


@pytest.fixture(scope="session")
def shared_lab(root: None) -> Iterator[Lab]:
    """Three nodes with the default ruleset, for all tests that put back what they change (see ``lab``)."""
    with Lab(lab_name(), 3) as lab:
        yield lab
