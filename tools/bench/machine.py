# SPDX-License-Identifier: GPL-2.0-or-later
"""What the figures were measured on. No host names, no paths, no addresses."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path

import msgspec

VULNERABILITIES = Path("/sys/devices/system/cpu/vulnerabilities")
CPUINFO = Path("/proc/cpuinfo")
CACHE = Path("/sys/devices/system/cpu/cpu0/cache")


class Machine(msgspec.Struct, frozen=True):
    """``mitigations``: those that are in force or missing, by name; the ones that do not concern this CPU are left out.

    ``caches``: as the kernel tells them, such as ``L2 2048K``.
    """

    cpu: str
    cores: int
    caches: list[str]
    virtual: bool
    kernel: str
    jit: str
    mitigations: dict[str, str]
    bcc: str
    clang: str
    python: str


def describe() -> Machine:
    info = CPUINFO.read_text("utf-8")
    return Machine(
        cpu=cpu_model(info),
        cores=os.cpu_count() or 1,
        caches=_caches(),
        virtual="hypervisor" in info,
        kernel=platform.release().split("-")[0],
        jit=_read(Path("/proc/sys/net/core/bpf_jit_enable")),
        mitigations=_mitigations(),
        bcc=_version(["dpkg-query", "-W", "-f", "${Version}", "python3-bpfcc"]),
        clang=_version(["dpkg-query", "-W", "-f", "${Version}", "libclang1-14"]),
        python=platform.python_version(),
    )


def cpu_model(info: str) -> str:
    """From the text of /proc/cpuinfo; family and model stand in where a hypervisor gives a bare name."""
    fields: dict[str, str] = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", info, re.MULTILINE))
    name = fields.get("model name", platform.machine()).strip()
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields['model']}, stepping {fields.get('stepping', '?')})"
    return name


def _caches() -> list[str]:
    found = []
    for index in sorted(CACHE.glob("index*")):
        kind = _read(index / "type")
        if kind != "Instruction":
            found.append(f"L{_read(index / 'level')} {_read(index / 'size')}")
    return found


def _mitigations() -> dict[str, str]:
    found = {path.name: _read(path) for path in sorted(VULNERABILITIES.glob("*"))}
    return {name: text for name, text in found.items() if text != "Not affected"}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return "unknown"


def _version(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


IDLE_ENOUGH = 0.1


def unrest(seconds: float = 1.0) -> list[str]:
    """A note when others use the machine, looked at for ``seconds``; nothing when it is idle."""
    before = _jiffies()
    time.sleep(seconds)  # the window
    after = _jiffies()
    whole = sum(after) - sum(before)
    busy = 1 - (after[3] + after[4] - before[3] - before[4]) / whole if whole else 0.0
    if busy < IDLE_ENOUGH:
        return []
    return [f"others used {busy:.0%} of the machine when the run began: the figures are indicative only"]


def _jiffies() -> list[int]:
    """user, nice, system, idle, iowait, … of all cores (proc(5))."""
    return [int(part) for part in Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:9]]
