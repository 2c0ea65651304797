# SPDX-License-Identifier: GPL-2.0-or-later
"""``aa-cluster lab …``: a whole cluster in network namespaces, and trouble to make in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from aa_cluster.cli.context import Invocation, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster.topology.lab import Lab, Member

C = TypeVar("C", bound=Callable[..., Any])


class LabRow(msgspec.Struct, frozen=True, kw_only=True):
    """One host or node. ``agent``: running, paused, off; empty for hosts. ``links``: name → up."""

    host: str
    namespace: str
    power: bool
    agent: str
    role: str
    state: str
    sessions: int
    links: dict[str, bool]


class LabStatus(msgspec.Struct, frozen=True, kw_only=True, tag="lab", tag_field="kind"):
    version: int = 1
    name: str
    hosts: tuple[LabRow, ...]


def name_option(command: C) -> C:
    return click.option("--name", default="aa", show_default=True, help="Which lab.")(command)


def _load(name: str) -> Lab:
    from aa_cluster.topology.lab import Lab

    return Lab.load(name)


@click.group()
def lab() -> None:
    """A whole cluster in network namespaces: client, nodes, server, switch. Needs root."""


@lab.command()
@click.option("--nodes", default=3, show_default=True, help="How many gateways.")
@click.option("--networks", default="int,ext", show_default=True, help="Data networks: int, ext, dmz.")
@click.option(
    "--ruleset",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="nftables file every node loads, instead of the lab's own.",
)
@click.option("--bare", is_flag=True, help="Only the wires and the hosts: start no agents.")
@name_option
def up(nodes: int, networks: str, ruleset: Path | None, bare: bool, name: str) -> None:
    """Build the lab, start the agents, join them; comes back when sessions can flow."""
    from aa_cluster.topology.lab import Lab

    text = ruleset.read_text() if ruleset else None
    built = Lab(name, nodes, text, networks.split(","), agents=not bare, election=True)
    built.up()
    plan = built.plan
    click.echo(f"lab {name}: {', '.join(plan.namespace(member) for member in plan.members if member != 'switch')}")
    click.echo(f"try: aa-cluster lab exec{_named(name)} client -- curl -s http://10.77.2.100/")


def _named(name: str) -> str:
    return "" if name == "aa" else f" --name {name}"


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("argv", metavar="[--] CMD…", nargs=-1, required=True, type=click.UNPROCESSED)
@name_option
@click.pass_context
def exec_(ctx: click.Context, host: str, argv: tuple[str, ...], name: str) -> None:
    """Run a command on a host (client, server, node1 …); its exit code is ours."""
    done = _load(name).exec(host, argv, capture_output=False)
    ctx.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


@lab.command()
@json_option
@name_option
@click.pass_obj
def status(invocation: Invocation, name: str) -> None:
    """Hosts and nodes: power, agent, role, sessions, links."""
    members = _load(name).members()
    answer = LabStatus(name=name, hosts=tuple(_row(member) for member in members))
    invocation.show(answer, lambda: _render(answer))


def _row(member: Member) -> LabRow:
    own = [node.sessions for node in member.status.nodes if node.id == member.status.node_id] if member.status else []
    return LabRow(
        host=member.host,
        namespace=member.namespace,
        power=member.power,
        agent=member.agent,
        role=member.status.role if member.status else "",
        state=member.status.state if member.status else "",
        sessions=sum(own),
        links=member.links,
    )


def _render(answer: LabStatus) -> RenderableType:
    from aa_cluster.cli.tables import state, table

    made = table("HOST", "NAMESPACE", "POWER", "AGENT", "ROLE", "STATE", "SESSIONS", "LINKS", right=("SESSIONS",))
    for one in answer.hosts:
        links = "  ".join(f"{link} {'up' if is_up else 'CUT'}" for link, is_up in one.links.items())
        sessions = str(one.sessions) if one.role else ""
        power = "on" if one.power else "off"
        made.add_row(one.host, one.namespace, power, one.agent, one.role, state(one.state), sessions, links)
    return made


@lab.command()
@click.argument("node")
@click.option("--agent", is_flag=True, help="Only its agent: the dataplane goes on. `revive` starts it again.")
@name_option
def kill(node: str, agent: bool, name: str) -> None:
    """Switch a node off, as by its plug."""
    if agent:
        _load(name).kill_agent(node)
    else:
        _load(name).kill(node)


@lab.command()
@click.argument("node")
@name_option
def revive(node: str, name: str) -> None:
    """Switch a node on again; it joins by itself. Or start its agent again, where only that was killed."""
    lab = _load(name)
    back = lab.restart_agent(node) if lab.powered(node) else lab.revive(node)
    click.echo(f"{back.name}: {back.role}, {back.state}")


@lab.command()
@click.argument("node")
@name_option
def pause(node: str, name: str) -> None:
    """Freeze a node's agent; its dataplane goes on. `heal NODE` lets it go on."""
    _load(name).pause(node)


@lab.command()
@click.argument("host")
@click.argument("link")
@click.option("--silent", is_flag=True, help="The switch's port dies, its carrier stays.")
@name_option
def cut(host: str, link: str, silent: bool, name: str) -> None:
    """Unplug a link (int, ext, ha, …) of a host or node."""
    _load(name).cut(host, link, silent)


@lab.command()
@click.argument("host")
@click.argument("link", required=False)
@name_option
def heal(host: str, link: str | None, name: str) -> None:
    """Plug a link in again; without LINK all of them, and let a paused agent go on."""
    _load(name).heal(host, link)


@lab.command()
@name_option
def down(name: str) -> None:
    """Remove the lab, also one that was killed half-way."""
    from aa_cluster.topology.lab import Lab

    gone = Lab(name, 1).down()
    click.echo(f"lab {name}: {'removed' if gone else 'there was none'}")
