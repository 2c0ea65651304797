# SPDX-License-Identifier: GPL-2.0-or-later
"""The netns lab: a whole cluster, its switch and its hosts on one machine (DESIGN.md, "The lab").

A ``Lab`` is only a plan and a few paths: whatever built it, any process can pick it up with ``Lab.load`` and go on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from aa_cluster.agent.client import AgentClient
from aa_cluster.api import Joined, JoinRequest, Status
from aa_cluster.errors import AgentUnreachable, LabError
from aa_cluster.topology import leftovers, namespaces, processes, rulesets, services, shaping, wiring
from aa_cluster.topology.deadline import until
from aa_cluster.topology.node import AgentSite, environment
from aa_cluster.topology.plan import Plan
from aa_cluster.topology.wiring import build_beyond, build_host, build_node, build_switch, guarded, set_port

READY = 30.0
"""Seconds an agent may take from start to its first answer, and a join until it is granted (cold compile included)."""
PACKAGES = {"ip": "iproute2", "nsenter": "util-linux", "nft": "nftables", "ethtool": "ethtool", "nginx": "nginx-light"}
ELECTION = """
[election]
kind = "keepalived"
"""
KEY = "6a" * 32
"""The labs' cluster key: theirs is a toy network."""


class Description(msgspec.Struct, frozen=True):
    """What is kept of a lab in its run directory."""

    name: str
    nodes: int
    networks: tuple[str, ...]
    ruleset: str
    far: bool = False
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """One line of ``lab status``. ``agent``: running, paused, off; ``links``: link name → up. Hosts have no agent."""

    host: str
    namespace: str
    power: bool
    agent: str
    links: dict[str, bool]
    status: Status | None


class Lab:
    """``nodes`` nodes on ``networks``; ``ruleset`` is nft text (the default ruleset otherwise).

    ``joined`` is how many of the nodes join in ``up`` (all, unless told); ``agents=False`` builds only the wires;
    ``far`` puts a router on ext and a host behind a narrow way.
    ``extra`` is more TOML for the end of every node's configuration; ``election``: keepalived says who is primary next;
    As a context manager it is up inside and gone after, whatever happens. All failures are ``AaError``.
    """

    def __init__(
        self,
        name: str = "aa",
        nodes: int = 3,
        ruleset: str | None = None,
        networks: Sequence[str] = ("int", "ext"),
        joined: int | None = None,
        agents: bool = True,
        far: bool = False,
        extra: str = "",
        election: bool = False,
        rings: int = 1,
    ) -> None:
        self.plan = Plan(name, nodes, tuple(networks), far, rings)
        usual = "dmz" if "dmz" in self.plan.networks else "default"
        self.ruleset = rulesets.text(usual) if ruleset is None else ruleset
        self.joined = nodes if joined is None else joined
        self.agents = agents
        self.extra = extra + ELECTION * election

    @classmethod
    def load(cls, name: str) -> Self:
        """The lab of that name as it was built; ``LabError`` when there is none."""
        file = Plan(name, 1).run / "lab.json"
        try:
            kept = msgspec.json.decode(file.read_bytes(), type=Description)
        except FileNotFoundError:
            others = ", ".join(leftovers.known()) or "none"
            raise LabError(f"no lab {name} is up (up: {others})", "`aa-cluster lab up` builds one") from None
        except msgspec.MsgspecError as error:
            raise LabError(f"{file} does not read: {error}", f"`aa-cluster lab down --name {name}` cleans up") from None
        return cls(kept.name, kept.nodes, kept.ruleset, kept.networks, far=kept.far, extra=kept.extra)

    # -- whole lab

    def up(self) -> None:
        """Build everything, start the agents, join them; back when sessions can flow. On failure nothing stays."""
        _check_machine()
        with leftovers.locked(self.plan.name):
            if leftovers.present(self.plan):
                name = self.plan.name
                raise LabError(f"lab {name} is there already", f"`aa-cluster lab down --name {name}` removes it")
            try:
                self._build()
                if self.agents:
                    self._start()
            except BaseException:
                leftovers.remove(self.plan)
                raise

    def down(self) -> bool:
        """Remove all of it, half-built or whole; whether there was anything."""
        with leftovers.locked(self.plan.name):
            return leftovers.remove(self.plan)

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _build(self) -> None:
        plan = self.plan
        leftovers.mount_bpffs()
        plan.run.mkdir(parents=True)
        self._describe()
        key = plan.run / "cluster.key"
        key.touch(mode=0o600)
        key.write_text(KEY + "\n")
        build_switch(plan)
        for host in plan.host_networks:
            build_host(plan, host)
            self._serve(host)
        if plan.far:
            build_beyond(plan)
            self._serve("far")
        for node in plan.node_names:
            self._build_node(node)

    def _describe(self) -> None:
        """For ``load``."""
        plan = self.plan
        kept = Description(plan.name, plan.nodes, plan.networks, self.ruleset, plan.far, self.extra)
        (plan.run / "lab.json").write_bytes(msgspec.json.encode(kept))

    def _serve(self, host: str) -> None:
        run = self.plan.run / host
        argv = [*namespaces.enter(self.plan.path(host)), *services.nginx(run, host)]
        processes.spawn(argv, environment(self.plan.name), run / "nginx.log")

    def _build_node(self, node: str) -> None:
        build_node(self.plan, self.plan.node(node))
        wiring.load_ruleset(self.plan, node, self.ruleset)
        self.site(node).write_config(self.plan.networks, "ha", self.extra)

    def _start(self) -> None:
        nodes = self.plan.node_names
        for node in nodes:
            self.site(node).start()
        for node in nodes:
            self.wait_ready(node)
        if self.joined >= 1:
            self.join(nodes[0], primary=True)
        with ThreadPoolExecutor(max_workers=self.plan.nodes) as pool:
            asked = [self._begin_join(pool, node) for node in nodes[1 : self.joined]]
            for one in asked:
                one.result()

    def _begin_join(self, pool: ThreadPoolExecutor, node: str) -> Future[Joined]:
        """Ask, and be back when the primary has given the node its id: ids follow the numbers, the rest overlaps."""
        asked = pool.submit(self.join, node)
        until(f"{node} to be known to the primary", lambda: asked.done() or self._known(node), READY)
        return asked

    def _known(self, node: str) -> bool:
        return any(row.name == node for row in self.status(1).nodes)

    # -- one host or node

    def site(self, node: str) -> AgentSite:
        plan, short = self.plan, node
        return AgentSite(
            lab=plan.name,
            name=short,
            namespace=plan.path(short),
            run=plan.run / short,
            state=plan.state / short,
            pins=plan.pins / short,
            key=plan.run / "cluster.key",
        )

    def node_name(self, node: int | str) -> str:
        """2, ``node2`` or ``NAME-node2`` → ``node2``; ``LabError`` when there is no such node."""
        return f"node{self.plan.node(f'node{node}' if isinstance(node, int) else node)}"

    def client(self, node: int | str) -> AgentClient:
        return self.site(self.node_name(node)).client()

    def status(self, node: int | str) -> Status:
        """As the node's agent sees it; ``AgentUnreachable`` when it does not answer."""
        return self.site(self.node_name(node)).status()

    def wait_ready(self, node: int | str, timeout: float = READY) -> Status:
        return self.site(self.node_name(node)).wait_ready(timeout)

    def join(self, node: int | str, primary: bool = False) -> Joined:
        """Let the node join, and raise its data ports: the primary's before, an auxiliary's once it is guarded."""
        name = self.node_name(node)
        if primary:
            self.connect(name)
            return self._ask_join(name, primary=True)
        with ThreadPoolExecutor(max_workers=1) as pool:
            asked = pool.submit(self._ask_join, name, False)
            until(f"the guard on {name}", lambda: asked.done() or guarded(self.plan, self.plan.node(name)), READY)
            if not asked.done() or asked.exception() is None:
                self.connect(name)
            return asked.result()

    def _ask_join(self, node: str, primary: bool) -> Joined:
        answer = self.client(node).post("/v1/join", JoinRequest(primary=primary, timeout=READY))
        if not isinstance(answer, Joined):
            raise LabError(f"{node} answered to join with {type(answer).__name__}, expected joined")
        return answer

    def connect(self, node: int | str) -> None:
        """Raise all data ports of the node."""
        for net in self.plan.data:
            set_port(self.plan, self.node_name(node), net, True)

    def exec(self, host: str, argv: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        """Run in the host's namespace; text, captured unless told otherwise (``options`` go to subprocess.run)."""
        settings: dict[str, object] = {"text": True, "capture_output": True, "check": False} | options
        return subprocess.run(self._command(host, argv), env=self._environment(host), **settings)  # type: ignore[call-overload, no-any-return]

    def popen(self, host: str, argv: Sequence[str], **options: object) -> subprocess.Popen[str]:
        """Start in the host's namespace; text mode (``options`` go to subprocess.Popen)."""
        settings: dict[str, object] = {"text": True} | options
        return subprocess.Popen(self._command(host, argv), env=self._environment(host), **settings)  # type: ignore[call-overload, no-any-return]

    def _command(self, host: str, argv: Sequence[str]) -> list[str]:
        path = self.plan.path(self.plan.resolve(host))
        if not path.exists():
            raise LabError(f"{host} is off", "`aa-cluster lab revive` brings it back")
        return [*namespaces.enter(path), *argv]

    def _environment(self, host: str) -> dict[str, str]:
        short = self.plan.resolve(host)
        return environment(self.plan.name, self.site(short).config if short.startswith("node") else None)

    # -- trouble

    def kill(self, node: int | str) -> None:
        """Power off: its links go dark, then the agent and all else on the node end; namespace and pins are gone."""
        name = self.node_name(node)
        with leftovers.locked(self.plan.name):
            self._require_power(name)
            wiring.unplug(self.plan, name)
            self.site(name).kill()
            processes.end(processes.inhabitants([self.plan.path(name)]))
            namespaces.delete([self.plan.namespace(name)])
            shutil.rmtree(self.site(name).pins, ignore_errors=True)

    def revive(self, node: int | str) -> Status:
        """Power on, with the state the node kept: an agent that had joined joins again by itself, and is waited for."""
        name = self.node_name(node)
        with leftovers.locked(self.plan.name):
            if self.plan.path(name).exists():
                raise LabError(f"{name} is not off", "`aa-cluster lab kill` switches a node off")
            self._build_node(name)
            site = self.site(name)
            site.start()
            site.wait_ready(READY)
            until(f"the guard on {name}", lambda: guarded(self.plan, self.plan.node(name)), READY)
            self.connect(name)
            return until(f"{name} to be active again", lambda: self._active(name), READY)

    def _active(self, node: str) -> Status | None:
        status = self.status(node)
        return status if status.state == "active" else None

    def restart_agent(self, node: int | str) -> Status:
        """Start the agent of a node whose agent has ended (not the node); back when it has resumed what it was."""
        site = self.site(self.node_name(node))
        site.start()
        site.wait_ready(READY)
        return until(f"{site.name} to resume", lambda: self._resumed(site.name), READY)

    def _resumed(self, node: str) -> Status | None:
        status = self.status(node)
        return status if status.state != "joining" else None

    def pause(self, node: int | str) -> None:
        """Freeze the agent (SIGSTOP); its dataplane goes on. ``heal`` lets it go on."""
        self.site(self.node_name(node)).send(signal.SIGSTOP)

    def kill_agent(self, node: int | str) -> None:
        """End the agent alone (SIGKILL); its dataplane goes on. ``restart_agent`` brings it back."""
        self.site(self.node_name(node)).kill()

    def cut(self, host: str, link: str, silent: bool = False) -> None:
        """Take the switch's port down; ``silent``: the port dies and its carrier stays."""
        short, net = self.plan.resolve(host), self.plan.network(link)
        if silent:
            shaping.mute(self.plan, short, net)
        else:
            set_port(self.plan, short, net, False)

    def heal(self, host: str, link: str | None = None) -> None:
        """Raise the switch's port; without ``link`` all ports of the host, and let a paused agent go on."""
        short = self.plan.resolve(host)
        nets = [self.plan.network(link)] if link else self.plan.links(short)
        for net in nets:
            shaping.unmute(self.plan, short, net)
            set_port(self.plan, short, net, True)
        if link is None and short in self.plan.node_names and self.site(short).pid() is not None:
            self.site(short).send(signal.SIGCONT)

    def split(self, nodes: Sequence[int | str], links: Sequence[str]) -> None:
        """These segments fall in two, ``nodes`` on one side and all else on the other; ``unite`` puts them
        together."""
        wiring.split(self.plan, [self.node_name(node) for node in nodes], [self.plan.network(link) for link in links])

    def unite(self, nodes: Sequence[int | str], links: Sequence[str]) -> None:
        wiring.unite(self.plan, [self.node_name(node) for node in nodes], [self.plan.network(link) for link in links])

    def load_ruleset(self, text: str) -> None:
        """Replace the ruleset of every node that is on, each in one transaction, while the cluster runs; the others
        will have it, too."""
        self.ruleset = text
        self._describe()
        for node in self.plan.node_names:
            if self.powered(node):
                wiring.load_ruleset(self.plan, node, text)

    def powered(self, node: int | str) -> bool:
        return self.plan.path(self.node_name(node)).exists()

    def _require_power(self, node: str) -> None:
        if not self.plan.path(node).exists():
            raise LabError(f"{node} is off already", "`aa-cluster lab revive` switches it on")

    # -- looking

    def members(self) -> list[Member]:
        """Every host and node as it is now."""
        ports = wiring.ports_up(self.plan)
        return [self._member(name, ports) for name in self.plan.members if name != "switch"]

    def _member(self, name: str, ports: dict[str, bool]) -> Member:
        links = {net.name: ports.get(self.plan.port(name, net), False) for net in self.plan.links(name)}
        power = self.plan.path(name).exists()
        namespace = self.plan.namespace(name)
        if name not in self.plan.node_names:
            return Member(name, namespace, power, "", links, None)
        return Member(name, namespace, power, self.site(name).condition(), links, self._status_if_any(name))

    def _status_if_any(self, node: str) -> Status | None:
        if self.site(node).condition() != "running":
            return None
        try:
            return self.status(node)
        except AgentUnreachable:
            return None


def _check_machine() -> None:
    """Root, and the tools; ``LabError`` with what to install."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root (namespaces, BPF)", "run it with sudo")
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if missing:
        raise LabError(f"the lab needs {', '.join(missing)}", f"apt-get install {' '.join(missing)}, or `make setup`")
