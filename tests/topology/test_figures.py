# SPDX-License-Identifier: GPL-2.0-or-later
"""What an agent costs while nothing happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import checked
from tests.topology.conftest import all_active

pytestmark = [pytest.mark.lab, pytest.mark.slow]

WINDOWS, WINDOW = 5, 7.0
"""Seconds each, longer than any period of an agent's work. What else the machine does only adds to what a window shows
(caches, a busy host under a virtual machine), so the least of them is the agent's own."""
MOST_OF_A_CORE = 0.01
MOST_MEMORY_MIB = 150
PROCESS_CLOCK = 2
"""CPUCLOCK_SCHED of linux/posix-timers.h; with the process id it makes a clock id (clock_getcpuclockid(3))."""


def processor_seconds(pid: int) -> float:
    """All threads of the process, user and system."""
    return time.clock_gettime(~pid << 3 | PROCESS_CLOCK)


def children(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def memory_mib(pid: int) -> float:
    """Resident now."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


@pytest.fixture
def apart(make_lab: Callable[..., Lab]) -> Lab:
    """The agents on one core, cables with the room of a network card's rings; what the switch and the auxiliaries'
    kernels do with a frame on another core, as it is where each is a machine of its own. Else their work for a pulse is
    done inside the system call that sends it."""
    lab, every = make_lab(3, rings=4), os.sched_getaffinity(0)
    until("all nodes to be active", lambda: all_active(lab, 3), 5)
    _pin(lab, {min(every)})
    _switch_on(lab, {max(every)})
    return lab


def _pin(lab: Lab, cores: set[int]) -> None:
    for node in lab.plan.node_names:
        for task in Path(f"/proc/{lab.site(node).pid()}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


def _switch_on(lab: Lab, cores: set[int]) -> None:
    """The switch's ports receive in threads of their own (threaded NAPI), which hand frames on to their end."""
    before = receivers()
    names = [f"{node}-{net}" for node in lab.plan.node_names for net in ("int", "ext", "ha")]
    for name in names:
        path = f"/sys/class/net/{name}/threaded"
        checked(["ip", "netns", "exec", lab.plan.namespace("switch"), "sh", "-ec", f"echo 1 >{path}"])
    threads = receivers() - before
    assert len(threads) >= len(names)
    for thread in threads:
        os.sched_setaffinity(thread, cores)


def receivers() -> set[int]:
    """Kernel threads of threaded NAPI."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if path.read_text().startswith("napi/"):
                found.add(int(path.parent.name))
    return found


def window(pids: Mapping[str, int]) -> list[float]:
    """The share of a core that each takes."""
    before, start = [processor_seconds(pid) for pid in pids.values()], time.monotonic()
    time.sleep(WINDOW)  # the window itself is what is measured
    seconds = time.monotonic() - start
    return [(processor_seconds(pid) - was) / seconds for pid, was in zip(pids.values(), before, strict=True)]


def test_an_idle_agent_takes_next_to_nothing(apart: Lab) -> None:
    """Primary and auxiliaries, over the same windows; each node's is one process."""
    lab = apart
    agents = {node: lab.site(node).pid() for node in lab.plan.node_names}
    pids = {node: pid for node, pid in agents.items() if pid is not None}
    assert len(pids) == 3
    windows = [window(pids) for _ in range(WINDOWS)]
    shares = {node: min(share) for node, share in zip(pids, zip(*windows, strict=True), strict=True)}
    memory = {node: memory_mib(pid) for node, pid in pids.items()}
    for node in pids:
        print(f"{node} at rest: {100 * shares[node]:.2f} % of a core, {memory[node]:.0f} MiB")
    assert [child for pid in pids.values() for child in children(pid)] == []
    assert max(shares.values()) < MOST_OF_A_CORE
    assert max(memory.values()) < MOST_MEMORY_MIB
