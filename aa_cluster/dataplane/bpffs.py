# SPDX-License-Identifier: GPL-2.0-or-later
"""The file system where programs and maps are pinned."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from aa_cluster.errors import DataplaneError

BPFFS = Path("/sys/fs/bpf")


def mount_bpffs(where: Path = BPFFS) -> None:
    """Mounts the BPF file system if it is not; ``DataplaneError`` when it can't be."""
    if _is_bpffs(where, Path("/proc/mounts").read_text("utf-8").splitlines()):
        return
    done = subprocess.run(["mount", "-t", "bpf", "bpf", str(where)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DataplaneError(
            f"{where} is not a BPF file system and cannot be mounted: {done.stderr.strip()}",
            f"run as root in the initial mount namespace: mount -t bpf bpf {where}",
        )


def _is_bpffs(where: Path, mounts: Iterable[str]) -> bool:
    return any(line.split()[1:3] == [str(where), "bpf"] for line in mounts)
