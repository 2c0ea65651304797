# SPDX-License-Identifier: GPL-2.0-or-later
"""Network namespaces: make and remove them, run commands or a Python function inside one.

Commands are started with ``nsenter --net=…``, since ``ip netns exec`` remounts /sys and so hides bpffs.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from aa_cluster.errors import LabError

T = TypeVar("T")
DIRECTORY = Path("/run/netns")
CLONE_NEWNET = 0x40000000


def enter(path: Path) -> list[str]:
    """The start of a command line that runs the rest in the namespace at ``path``."""
    return ["nsenter", f"--net={path}"]


def checked(argv: Sequence[str], text: str | None = None) -> str:
    """Run; its standard output, or ``LabError`` with what it said on standard error."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"`{' '.join(argv)}` failed ({done.returncode}): {said}", "`aa-cluster lab down` cleans up")
    return done.stdout


def batch(lines: Sequence[str], namespace: str | None = None) -> None:
    """Many `ip` commands by one process, in the given namespace; ``LabError`` at the first that fails."""
    where = ["-n", namespace] if namespace else []
    if lines:
        checked(["ip", *where, "-batch", "-"], "\n".join(lines) + "\n")


def existing() -> list[str]:
    return sorted(entry.name for entry in DIRECTORY.iterdir()) if DIRECTORY.is_dir() else []


def delete(names: Sequence[str]) -> None:
    """Remove the names; what lived there must be gone already, or the namespace lives on without one."""
    batch([f"netns del {name}" for name in names])


def inside(path: Path, call: Callable[[], T]) -> T:
    """``call()`` by a thread that has entered the namespace; its answer, or what it raised.

    Sockets it opens stay in the namespace and may be used by any thread afterwards.
    """
    answer: list[T] = []
    trouble: list[BaseException] = []

    def body() -> None:
        try:
            _setns(path)
            answer.append(call())
        except BaseException as error:  # noqa: BLE001 - carried over to the calling thread, whatever it is
            trouble.append(error)

    thread = threading.Thread(target=body, name=f"in {path.name}")
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return answer[0]


def _setns(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LabError(f"no namespace at {path}: {error.strerror}", "`aa-cluster lab status` shows them") from None
    try:
        if libc.setns(handle, CLONE_NEWNET) != 0:
            raise LabError(f"cannot enter {path}: {os.strerror(ctypes.get_errno())}", "run as root")
    finally:
        os.close(handle)


def write_sysctls(path: Path, values: dict[str, str]) -> None:
    """``{"net/ipv4/ip_forward": "1"}`` in that namespace; keys this kernel does not have are left out."""

    def write() -> None:
        for key, value in values.items():
            file = Path("/proc/sys") / key
            if file.exists():
                file.write_text(value)

    inside(path, write)
