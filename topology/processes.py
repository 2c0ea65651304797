# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes of a lab: started detached, found again by anybody, ended for sure.

Each carries ``AA_CLUSTER_LAB=NAME`` in its environment, and its children inherit that: so a lab whose ``up`` was killed
half-way leaves nothing behind that cannot be found, whatever happened to files and namespaces.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aa_cluster.errors import LabError

MARK = "AA_CLUSTER_LAB"


def spawn(argv: Sequence[str], env: Mapping[str, str], log: Path) -> int:
    """Start in a session of its own, output to ``log`` (appended); its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        return os.posix_spawnp(argv[0], list(argv), dict(env), file_actions=files, setsid=True)
    except OSError as error:
        raise LabError(f"cannot start {argv[0]}: {error.strerror}", "is it installed? `make setup`") from None


def environment(pid: int) -> dict[str, str]:
    """Of a running process; empty when it is gone, a zombie, or not ours to read."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.split(b"=", 1) for item in raw.split(b"\0") if b"=" in item)
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in pairs}


def all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def of_lab(name: str) -> list[int]:
    """Every process marked as this lab's, but not the caller and those that started it."""
    spared = ancestors()
    return [pid for pid in all_pids() if pid not in spared and environment(pid).get(MARK) == name]


def inhabitants(namespaces: Iterable[Path]) -> list[int]:
    """Every process living in one of the network namespaces, but not the caller and those that started it."""
    inodes = {path.stat().st_ino for path in namespaces if path.exists()}
    spared = ancestors()
    return [pid for pid in all_pids() if pid not in spared and _net_inode(pid) in inodes]


def _net_inode(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return -1


def ancestors() -> set[int]:
    """This process and its parents up to init."""
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 1:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
    return found


def alive(pid: int, lab: str) -> bool:
    """Whether that pid still is a process of this lab (and not a zombie, nor somebody else's by now).

    One without any environment is on its way from one program to the next (execve), which nsenter does.
    """
    values = environment(pid)
    return values.get(MARK) == lab if values else _state(pid) not in ("Z", "X", "")


def stopped(pid: int) -> bool:
    """Whether it was sent SIGSTOP and nothing since."""
    return _state(pid) == "T"


def _state(pid: int) -> str:
    """The letter of proc(5), empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def end(pids: Iterable[int], timeout: float = 10.0, with_signal: int = signal.SIGKILL) -> None:
    """Signal all, and come back when each has ended; ``LabError`` naming those still there after ``timeout`` s."""
    handles = {pid: handle for pid in pids if (handle := _open(pid)) is not None}
    try:
        for pid in handles:
            _send(pid, with_signal)
        left = _wait_all(handles, time.monotonic() + timeout)
    finally:
        for handle in handles.values():
            os.close(handle)
    for pid in handles:
        _reap(pid)
    if left:
        raise LabError(f"processes {', '.join(map(str, left))} do not end", "look at them with ps; uninterruptible?")


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # ended in between, which is what was wanted


def _wait_all(handles: Mapping[int, int], end_time: float) -> list[int]:
    left = {handle: pid for pid, handle in handles.items()}
    poll = select.poll()
    for handle in left:
        poll.register(handle, select.POLLIN)
    while left and (remaining := end_time - time.monotonic()) > 0:
        for handle, _ in poll.poll(1000 * remaining):
            poll.unregister(handle)
            del left[handle]
    return sorted(left.values())


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # not our child: whoever started it, or init, reaps it
