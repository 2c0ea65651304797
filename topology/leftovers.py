# SPDX-License-Identifier: GPL-2.0-or-later
"""Labs as the machine knows them: which there are, the lock that keeps two hands off one, and removing what is left."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aa_cluster.dataplane import bpffs
from aa_cluster.errors import LabError
from aa_cluster.topology import namespaces, processes
from aa_cluster.topology.plan import Plan

LABS = Path("/run/aa-cluster/lab")
LOCKS = Path("/run/aa-cluster/lab-locks")


def known() -> list[str]:
    """Names of the labs that left a run directory."""
    return sorted(entry.name for entry in LABS.iterdir() if entry.is_dir()) if LABS.is_dir() else []


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One at a time for a lab's changes; the kernel drops the lock when its holder dies. ``LabError`` when taken."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    handle = os.open(LOCKS / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"another command is changing lab {name}", "wait for it, or end it") from None
        yield
    finally:
        os.close(handle)


def mount_bpffs() -> None:
    """Mount the BPF file system where it belongs, unless it is; agents of a lab would otherwise race for it."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / ".bpffs").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        bpffs.mount_bpffs()


def present(plan: Plan) -> bool:
    """Whether anything of that lab exists, whole or in pieces."""
    return plan.run.exists() or plan.pins.exists() or any(map(plan.owns_namespace, namespaces.existing()))


def remove(plan: Plan) -> bool:
    """Everything of the lab, by whatever is found; whether there was anything. Safe to repeat."""
    there = present(plan)
    names = [name for name in namespaces.existing() if plan.owns_namespace(name)]
    while found := _processes(plan, names):  # again, for what was just being started
        processes.end(found)
        there = True
    namespaces.delete(names)
    for directory in (plan.pins, plan.run, plan.state):
        if directory.exists():
            shutil.rmtree(directory)
    return there


def _processes(plan: Plan, names: list[str]) -> set[int]:
    lived = processes.inhabitants(namespaces.DIRECTORY / name for name in names)
    return {*processes.of_lab(plan.name), *lived}
