# SPDX-License-Identifier: GPL-2.0-or-later
"""What is there today: two gateways, active and backup, by keepalived and conntrackd (FTFW), on the wires of a lab.

Set up as their documentation has it, and tuned in their favour: advertisements every 100 ms, rules that drop what is
not tracked, no pre-emption, nothing else on the nodes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aa_cluster.topology import processes, rulesets
from aa_cluster.topology.deadline import until
from aa_cluster.topology.lab import Lab
from aa_cluster.topology.namespaces import batch, enter
from aa_cluster.topology.node import environment
from aa_cluster.topology.plan import CLUSTER_HOST, HA, HOST

OWN = 10
"""Nodes' own addresses on data networks end in this plus their number; .1 moves."""
MASTER_SECONDS = 15.0
DUMP_EXTERNAL = 17
"""Request to conntrackd's socket: the entries the other node has told of (its conntrackd.h)."""

CONNTRACKD = """\
Sync {{
    Mode FTFW {{
    }}
    UDP {{
        IPv4_address {own}
        IPv4_Destination_Address {other}
        Port 3780
        Interface ha
        SndSocketBuffer 1249280
        RcvSocketBuffer 1249280
        Checksum on
    }}
}}
General {{
    HashSize 32768
    HashLimit 524288
    LogFile {run}/conntrackd.log
    LockFile {run}/conntrackd.lock
    UNIX {{
        Path {run}/conntrackd.ctl
    }}
    NetlinkBufferSize 2097152
    NetlinkBufferSizeMaxGrowth 8388608
    Filter From Userspace {{
        Protocol Accept {{
            TCP
        }}
        Address Ignore {{
            IPv4_address 127.0.0.1
            IPv4_address {own}
            IPv4_address {other}
        }}
    }}
}}
"""
KEEPALIVED = """\
global_defs {{
    router_id {name}
    vrrp_version 3
    script_user root
    enable_script_security
}}
vrrp_sync_group gateway {{
    group {{
        int
        ext
    }}
    notify_master "{script} primary"
    notify_backup "{script} backup"
}}
{instances}"""
INSTANCE = """\
vrrp_instance {net} {{
    state BACKUP
    interface {net}
    virtual_router_id {router}
    priority {priority}
    advert_int 0.1
    nopreempt
    virtual_ipaddress {{
        {address}/24
    }}
}}
"""
SCRIPT = """\
#!/bin/sh
cd {run}
case "$1" in
primary) for step in -c -f -R -B; do conntrackd -C conntrackd.conf $step; done ;;
backup) for step in -t -n; do conntrackd -C conntrackd.conf $step; done ;;
esac
echo "$1" >>state
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """``daemons``: node → pid of its conntrackd."""

    lab: Lab
    daemons: dict[str, int]

    @property
    def active(self) -> str:
        """The node keepalived has made master; empty while there is none."""
        return next((node for node in self.daemons if _said(self.lab, node) == "primary"), "")

    def known(self, node: str) -> bytes:
        """conntrackd's table of what the other node told, as text."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self.lab.plan.run / node / "conntrackd.ctl"))
            asked.sendall(struct.pack("=i", DUMP_EXTERNAL))
            told = b""
            while piece := asked.recv(1 << 16):
                told += piece
        return told


@contextmanager
def pair(name: str) -> Iterator[Pair]:
    """Both are up, node1 is active; gone afterwards. ``AaError`` when one does not start."""
    cluster = f"10.77.2.{CLUSTER_HOST}"
    rules = rulesets.text("failover").replace(
        "ip saddr != 10.77.1.101 masquerade random",
        f"ip saddr 10.77.1.0/24 ip saddr != 10.77.1.101 snat ip to {cluster} random",
    )
    with Lab(name, nodes=2, ruleset=rules, agents=False) as lab:
        for node in lab.plan.node_names:
            _own_addresses(lab, node)
            lab.connect(node)
        daemons = {node: _conntrackd(lab, node) for node in lab.plan.node_names}
        made = Pair(lab, daemons)
        for node in daemons:
            until(f"conntrackd on {node}", (lab.plan.run / node / "conntrackd.ctl").exists, MASTER_SECONDS)
        _keepalived(lab, "node1")
        until("keepalived to make node1 active", lambda: made.active == "node1", MASTER_SECONDS)
        _keepalived(lab, "node2")
        until("keepalived to make node2 the backup", lambda: _said(lab, "node2") == "backup", MASTER_SECONDS)
        yield made


def _own_addresses(lab: Lab, node: str) -> None:
    number = lab.plan.node(node)
    lines = []
    for net in lab.plan.data:
        lines += [f"addr flush dev {net.name}", f"addr add {net.address(OWN + number)}/24 dev {net.name}"]
    batch(lines, lab.plan.namespace(node))


def _conntrackd(lab: Lab, node: str) -> int:
    run, number = lab.plan.run / node, lab.plan.node(node)
    run.mkdir(parents=True, exist_ok=True)
    own, other = HA.address(HOST + number), HA.address(HOST + 3 - number)
    (run / "conntrackd.conf").write_text(CONNTRACKD.format(own=own, other=other, run=run))
    script = run / "notify"
    script.write_text(SCRIPT.format(run=run))
    script.chmod(0o700)
    return _spawn(lab, node, ["conntrackd", "-C", str(run / "conntrackd.conf")])


def _keepalived(lab: Lab, node: str) -> int:
    run = lab.plan.run / node
    instances = "".join(
        INSTANCE.format(
            net=net.name, router=10 + net.number, priority=150 - lab.plan.node(node), address=net.address(1)
        )
        for net in lab.plan.data
    )
    file = run / "keepalived.conf"
    file.write_text(KEEPALIVED.format(name=node, script=run / "notify", instances=instances))
    pids = ["-p", str(run / "keepalived.pid"), "-r", str(run / "vrrp.pid")]
    return _spawn(lab, node, ["keepalived", "-n", "-l", "-P", "-f", str(file), *pids])


def _spawn(lab: Lab, node: str, argv: list[str]) -> int:
    return processes.spawn(
        [*enter(lab.plan.path(node)), *argv], environment(lab.plan.name), lab.plan.run / node / "peers.log"
    )


def _said(lab: Lab, node: str) -> str:
    """The last state keepalived's script was called with."""
    file: Path = lab.plan.run / node / "state"
    return file.read_text().split()[-1] if file.exists() and file.read_text() else ""
