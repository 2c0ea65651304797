# SPDX-License-Identifier: GPL-2.0-or-later
"""The same cluster in Mininet: Linux bridges as switches (``lxbr``), no controller.

The topology alone, wires without addresses or agents, with Mininet's own command line::

    PYTHONPATH=. .venv/bin/python /usr/bin/mn --custom topology/mininet_cluster.py --topo aacluster,3 \\
        --switch lxbr --controller none

Mininet hosts have a mount namespace of their own, where bpffs is hidden: ``MininetCluster`` starts the agents from
outside, with ``nsenter`` into the network namespace only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import Topo

from aa_cluster.agent.client import AgentClient
from aa_cluster.api import JoinRequest
from aa_cluster.topology import leftovers, processes, rulesets, services
from aa_cluster.topology.namespaces import batch, checked, enter, write_sysctls
from aa_cluster.topology.node import AgentSite, environment
from aa_cluster.topology.plan import CLUSTER_HOST, HA, HOST, Network, Plan
from aa_cluster.topology.wiring import FORWARD, QUIET, UNTOLD, addressed, default_routes, offload, poll

READY = 30.0


class ClusterTopo(Topo):  # type: ignore[misc]
    """``nodes`` gateways between client (switch s1, int) and server (s2, ext), with an HA segment (s3)."""

    def build(self, nodes: int = 3, prefix: str = "s") -> None:
        plan = Plan("mininet", nodes)
        for number, net in enumerate(plan.all_networks, start=1):
            switch = self.addSwitch(f"{prefix}{number}")
            if net.host is not None:
                self.addHost(net.host, ip=None)
                self.addLink(net.host, switch, intfName1="eth0", addr1=net.mac(HOST), addr2=_port_mac(net, HOST))
        for index, node in enumerate(plan.node_names, start=1):
            self.addHost(node, ip=None)
            for number, net in enumerate(plan.all_networks, start=1):
                macs = {"addr1": net.mac(index), "addr2": _port_mac(net, index)}
                self.addLink(node, f"{prefix}{number}", intfName1=net.name, **macs)


def _port_mac(net: Network, last: int) -> str:
    return f"02:00:01:{net.number:02x}:00:{last:02x}"


topos: dict[str, Callable[..., Topo]] = {"aacluster": ClusterTopo}


class MininetCluster:
    """A running cluster of ``nodes`` in Mininet; made by ``mininet_cluster``. Hosts are called as in the netns lab."""

    def __init__(self, net: Mininet, plan: Plan, mark: str) -> None:
        self._net, self.plan, self.mark = net, plan, mark
        self.run = Path("/run/aa-cluster/mininet") / mark
        self.state = Path("/var/lib/aa-cluster/mininet") / mark
        self.pins = Path("/sys/fs/bpf/aa-cluster/mininet") / mark

    def path(self, host: str) -> Path:
        """The host's network namespace."""
        return Path(f"/proc/{self._net[host].pid}/ns/net")

    def site(self, node: str) -> AgentSite:
        run, state, pins = self.run / node, self.state / node, self.pins / node
        return AgentSite(self.mark, node, self.path(node), run, state, pins, self.run / "cluster.key")

    def client(self, node: int) -> AgentClient:
        return self.site(f"node{node}").client()

    def popen(self, host: str, argv: Sequence[str], **options: object) -> subprocess.Popen[str]:
        """Start in the host's network namespace (not in its mount namespace)."""
        settings: dict[str, object] = {"text": True} | options
        command = [*enter(self.path(host)), *argv]
        return subprocess.Popen(command, env=environment(self.mark), **settings)  # type: ignore[call-overload, no-any-return]

    def start(self) -> None:
        """Addresses, offloads, rulesets, services, agents; node1 joins as primary, then the others."""
        self.run.mkdir(parents=True)
        key = self.run / "cluster.key"
        key.touch(mode=0o600)
        key.write_text("6b" * 32 + "\n")
        for host, net in self.plan.host_networks.items():
            self._start_host(host, net)
        for index, node in enumerate(self.plan.node_names, start=1):
            self._start_node(index, node)
        for index, node in enumerate(self.plan.node_names, start=1):
            self.site(node).wait_ready(READY)
            self.client(index).post("/v1/join", JoinRequest(primary=index == 1, timeout=READY))
            self._links(node, "up")

    def _start_host(self, host: str, net: Network) -> None:
        self._configure(host, [*addressed("eth0", net, HOST), *default_routes(net, CLUSTER_HOST)], {})
        offload(self.path(host), ["eth0"], "tx off gro on")
        argv = [*enter(self.path(host)), *services.nginx(self.run / host, host)]
        processes.spawn(argv, environment(self.mark), self.run / host / "nginx.log")

    def _start_node(self, index: int, node: str) -> None:
        lines = [
            line
            for net in self.plan.all_networks
            for line in addressed(net.name, net, HOST + index if net is HA else CLUSTER_HOST)
        ]
        self._configure(node, lines, FORWARD)
        offload(self.path(node), [net.name for net in self.plan.all_networks], "gro on")
        if index > 1:
            self._links(node, "down")
        checked([*enter(self.path(node)), "nft", "-f", "-"], rulesets.text("default"))
        site = self.site(node)
        site.write_config(self.plan.networks, "ha")
        site.start()

    def _configure(self, host: str, lines: list[str], sysctls: dict[str, str]) -> None:
        """Settings by ``ip`` and sysctl in the host, and the offloads of its switch ports (see wiring.py).

        Its interfaces are up already: IPv6 goes off there and comes back, so that it begins with these settings.
        """
        links = [link.name for link in self._net[host].intfList()]
        write_sysctls(self.path(host), QUIET)
        stated = {f"net/ipv6/conf/{link}/{name}": value for link in links for name, value in UNTOLD.items()}
        write_sysctls(self.path(host), sysctls | stated | dict.fromkeys(QUIET, "0"))
        checked([*enter(self.path(host)), "ip", "-batch", "-"], "\n".join(lines) + "\n")
        poll(Path("/proc/self/ns/net"), [_far(link) for link in self._net[host].intfList()], self.pins / "pass")

    def _links(self, node: str, state: str) -> None:
        """Raise or cut the switch ports of the node's data links."""
        names = set(self.plan.networks)
        batch([f"link set {_far(link)} {state}" for link in self._net[node].intfList() if link.name in names])

    def clear(self) -> None:
        """End every process and remove every file and pin; the namespaces are Mininet's."""
        processes.end(processes.of_lab(self.mark))
        for directory in (self.pins, self.run, self.state):
            if directory.exists():
                shutil.rmtree(directory)


def _far(interface: object) -> str:
    """The name of the switch's end of an interface's link."""
    link = interface.link  # type: ignore[attr-defined]
    return str(link.intf2.name if link.intf1 is interface else link.intf1.name)


@contextmanager
def mininet_cluster(nodes: int = 3, prefix: str = "aamn") -> Iterator[MininetCluster]:
    """A whole cluster in Mininet while the block runs. Bridges are ``prefix``1 … in the current network namespace."""
    leftovers.mount_bpffs()
    net = Mininet(topo=ClusterTopo(nodes=nodes, prefix=prefix), switch=LinuxBridge, controller=None)
    cluster = MininetCluster(net, Plan("mininet", nodes), f"mininet-{os.getpid()}")
    with ExitStack() as undo:
        undo.callback(net.stop)
        net.start()
        undo.callback(cluster.clear)
        cluster.start()
        yield cluster
