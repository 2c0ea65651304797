# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel, BPF and bcc."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from aa_cluster.api import Check
from aa_cluster.config import Config
from aa_cluster.doctor.proc import PROC, text_of
from aa_cluster.doctor.verdict import failed, passed, skipped, warned
from aa_cluster.errors import AaError

NEEDED = (6, 1)
WITHOUT_BACKPORT = (6, 6)
BTF = Path("/sys/kernel/btf/vmlinux")
BPFFS_HINT = "mount -t bpf bpf /sys/fs/bpf (the agent does it too)"
BCC_SECONDS = 60


def checks(config: Config) -> Iterator[Check]:
    yield version(platform.release())
    btf = type_information(BTF)
    yield btf
    if btf.result == "pass":
        from aa_cluster.dataplane import kfuncs

        yield kernel_functions(kfuncs.FUNCTIONS, lambda name: kfuncs.find(name) is not None)
    yield bcc()
    yield jit(text_of(PROC / "sys/net/core/bpf_jit_enable"))
    yield bpffs(config.paths.pins, (PROC / "self/mounts").read_text())


def version(release: str) -> Check:
    """6.1 brought bpf_ct_set_nat_info; 837723b, in 6.6, keeps entries made by BPF from expiring at once."""
    found = re.match(r"(\d+)\.(\d+)", release)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if number < NEEDED:
        return failed("kernel", f"Linux {release}, expected 6.1 or later", fix="boot a newer kernel")
    if number < WITHOUT_BACKPORT:
        return warned(
            "kernel",
            f"Linux {release}: before 6.6, adopted sessions expire at once unless commit 837723b was backported",
            fix="use Linux 6.6 or later, or a distribution kernel that has the backport",
        )
    return passed("kernel", f"Linux {release}")


def type_information(path: Path) -> Check:
    if path.exists():
        return passed("btf", f"kernel type information at {path}")
    return failed("btf", f"nothing at {path}", fix="use a kernel built with CONFIG_DEBUG_INFO_BTF=y")


def kernel_functions(names: Iterable[str], known: Callable[[str], bool]) -> Check:
    wanted = tuple(names)
    try:
        absent = [name for name in wanted if not known(name)]
    except AaError as error:
        return failed("kfuncs", error.message, fix=error.hint)
    if absent:
        return failed(
            "kfuncs",
            f"this kernel has no {', '.join(absent)}",
            fix="modprobe nf_conntrack nf_nat; if it stays so, use Linux 6.1 or later with CONFIG_NF_NAT and BTF",
        )
    return passed("kfuncs", f"all {len(wanted)} conntrack functions")


def bcc(python: str = sys.executable) -> Check:
    """In a child process: importing it here would load LLVM into this one."""
    fix = "apt install python3-bpfcc (not PyPI's bcc), and run from a Python that sees the system's packages"
    try:
        done = subprocess.run(
            [python, "-c", "import bcc; print(bcc.__version__, hasattr(bcc, 'BPF'))"],
            capture_output=True,
            text=True,
            timeout=BCC_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return failed("bcc", f"asking {python}: {error}", fix=fix)
    number, _, genuine = done.stdout.strip().rpartition(" ")
    if done.returncode or genuine != "True":
        reason = (done.stderr.strip().splitlines() or ["it has no class BPF: another project of that name"])[-1]
        return failed("bcc", reason, fix=fix)
    return passed("bcc", f"bcc {number}")


def jit(value: str | None) -> Check:
    """Programs that call kernel functions are refused without the compiler."""
    if value is None:
        return skipped("bpf jit", "net.core.bpf_jit_enable is not seen from this namespace")
    if value.strip() == "0":
        return failed("bpf jit", "the BPF compiler is off", fix="sysctl net.core.bpf_jit_enable=1")
    return passed("bpf jit", "the BPF compiler is on")


def bpffs(pins: Path, mounts: str) -> Check:
    """``mounts`` as in /proc/self/mounts; the innermost mount over ``pins`` counts."""
    over = Path("/")
    kind = ""
    for line in mounts.splitlines():
        where, of = Path(line.split()[1]), line.split()[2]
        if pins.is_relative_to(where) and len(where.parts) >= len(over.parts):
            over, kind = where, of
    if kind == "bpf":
        return passed("bpffs", f"{over} for {pins}")
    return warned("bpffs", f"no BPF file system over {pins} ({over} is {kind})", fix=BPFFS_HINT)
