# SPDX-License-Identifier: GPL-2.0-or-later
"""From compiled objects to programs in the kernel: maps put in place, kernel functions linked, loaded, pinned."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aa_cluster.dataplane import direct, kfuncs, syscall
from aa_cluster.dataplane.maps import Map
from aa_cluster.dataplane.object import Object, Program
from aa_cluster.errors import DataplaneError, KernelTooOld

XDP_OBJECTS = frozenset({"steer", "relinquish"})
"""Objects whose programs hook XDP; all others are TC classifiers."""


def load(objects: Mapping[str, Object], maps: Mapping[str, Map]) -> dict[str, int]:
    """Program name → fd. All or none: on a refusal what was loaded is closed again.

    The kernel verifies several at a time.
    """
    modules = kfuncs.module_btf_fds()
    try:
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="load") as pool:
            wanted = {
                label: pool.submit(
                    load_one,
                    syscall.PROG_XDP if name in XDP_OBJECTS else syscall.PROG_SCHED_CLS,
                    label,
                    program,
                    maps,
                    modules,
                )
                for name, compiled in objects.items()
                for label, program in compiled.programs.items()
            }
        refused = next((one for one in wanted.values() if one.exception()), None)
        if refused is not None:
            for one in wanted.values():
                if not one.exception():
                    os.close(one.result())
        return {label: one.result() for label, one in wanted.items()}
    finally:
        for fd in modules.values():
            os.close(fd)


def load_one(kind: int, name: str, program: Program, maps: Mapping[str, Map], modules: Mapping[str, int]) -> int:
    """The fd of one program, its maps and kernel functions in place. ``modules``: BTF fds by module name."""
    code = bytearray(program.code)
    for index, label in program.maps:
        struct.pack_into("=i", code, index * 8 + 4, maps[label].fd)
    for index, label, offset in direct.references(bytes(code)):
        direct.fill(code, index, maps[label].fd, offset)
    kfuncs.link(code, tuple(modules))
    try:
        return syscall.prog_load(kind, bytes(code), name, tuple(modules.values()))
    except syscall.VerifierRefused as refused:
        raise _explain(refused) from None


def _explain(refused: syscall.VerifierRefused) -> DataplaneError:
    if refused.errno == errno.EPERM:
        return KernelTooOld(
            f"loading {refused.program}: not permitted",
            "run as root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON); a locked-down kernel refuses BPF",
        )
    head = f"the kernel's verifier refused {refused.program} ({refused.strerror})"
    return KernelTooOld(
        f"{head}; the log ends:\n{refused.last_lines or '(no log)'}",
        f"this kernel is {os.uname().release}; Linux 6.1 or later with conntrack and NAT is needed "
        "(`aa-cluster doctor` names what is missing)",
    )


def pin(programs: Mapping[str, int], directory: Path) -> None:
    """Pins every program in ``directory``, which appears whole or not at all."""
    aside = directory.with_name(f"aside-{directory.name}")  # bpffs allows no dot in a name
    remove(aside)
    aside.mkdir(parents=True, mode=0o700)
    for name, fd in programs.items():
        syscall.obj_pin(fd, str(aside / name))
    aside.rename(directory)


def opened(directory: Path, names: frozenset[str]) -> dict[str, int] | None:
    """The pinned programs, or None when the set is not complete."""
    if not directory.is_dir() or {path.name for path in directory.iterdir()} != names:
        return None
    return {name: syscall.obj_get(str(directory / name)) for name in sorted(names)}


def opened_one(pins: Path, directories: str, name: str) -> int | None:
    """The fd of a pinned program; ``directories``: a pattern below ``pins``. None when there is none."""
    found = sorted(path / name for path in pins.glob(directories) if (path / name).exists())
    return syscall.obj_get(str(found[-1])) if found else None


def remove(directory: Path) -> None:
    """Unpins all that is in ``directory``, and the directory; nothing if it is not there."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.is_dir():
            remove(path)
        else:
            path.unlink()
    directory.rmdir()
