# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults by name: how each is made, and how a round that had it is put right again. The verbs are the lab's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from aa_cluster.topology.lab import Lab


@dataclass(frozen=True, slots=True)
class Fault:
    """``make`` returns when it has happened; ``mend`` when the node has what it needs to come back."""

    name: str
    make: Callable[[Lab], object]
    mend: Callable[[Lab], object]


def killed(node: int | str) -> Fault:
    return Fault("killed", lambda lab: lab.kill(node), lambda lab: lab.revive(node))


def agent_killed(node: int | str) -> Fault:
    return Fault("agent killed", lambda lab: lab.kill_agent(node), lambda lab: lab.restart_agent(node))


def agent_frozen(node: int | str) -> Fault:
    return Fault("agent frozen", lambda lab: lab.pause(node), lambda lab: lab.heal(lab.node_name(node)))


def userland_killed(node: int | str) -> Fault:
    """Its agent and its keepalived: nothing of the cluster runs there but the kernel's programs."""

    def make(lab: Lab) -> None:
        lab.kill_agent(node)  # it would start keepalived again
        run = lab.site(lab.node_name(node)).run
        for name in ("keepalived.pid", "vrrp.pid"):
            os.kill(int((run / name).read_text()), signal.SIGKILL)

    return Fault("agent and keepalived killed", make, lambda lab: lab.restart_agent(node))


def cut(node: int | str, *links: str, silent: bool = False) -> Fault:
    """One or several links, one after the other; ``silent``: their carrier stays."""

    def make(lab: Lab) -> None:
        for link in links:
            lab.cut(lab.node_name(node), link, silent)

    def mend(lab: Lab) -> None:
        for link in links:
            lab.heal(lab.node_name(node), link)

    return Fault(f"{' and '.join(links)} {'mute' if silent else 'cut'}", make, mend)


def split(nodes: tuple[int, ...], *links: str) -> Fault:
    """The segments fall in two, these nodes on one side."""
    return Fault(
        f"{' and '.join(links)} split", lambda lab: lab.split(nodes, links), lambda lab: lab.unite(nodes, links)
    )


def together(name: str, *faults: Fault) -> Fault:
    """One after the other."""

    def make(lab: Lab) -> None:
        for fault in faults:
            fault.make(lab)

    def mend(lab: Lab) -> None:
        for fault in faults:
            fault.mend(lab)

    return Fault(name, make, mend)
