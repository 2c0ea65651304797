# SPDX-License-Identifier: GPL-2.0-or-later
"""The command group: loads verbs lazily, shows ``status`` when bare, turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import IO, Any

import click

from aa_cluster import __version__
from aa_cluster.cli.context import Invocation
from aa_cluster.errors import AaError, JoinRefused

VERBS: dict[str, str] = {
    "status": "This node and its cluster, health first (also without a verb).",
    "nodes": "The nodes: state, weight, share, sessions.",
    "flows": "The flows and their owners.",
    "stats": "Packets by reason.",
    "arp": "Open ARP questions and how questions were answered.",
    "doctor": "Check this machine, with a fix for what fails.",
    "join": "Join the cluster on the HA link.",
    "leave": "Let sessions run out, then leave the cluster.",
    "weight": "Set a node's share of new sessions.",
    "drain": "No new sessions for a node, until undrain.",
    "promote": "Another node becomes primary.",
    "undrain": "New sessions for a drained node again.",
    "schedule": "How new sessions are given out: show or set.",
    "policy": "Which sessions are shared: show, check, reload.",
    "persist": "Which client keeps which node: show, set, delete, flush.",
    "sync": "What the other nodes have of the flow table: status, resync.",
    "monitor": "Events as they happen.",
    "top": "What each node does, live.",
    "agent": "Run the agent in the foreground.",
    "config": "Check or show the configuration.",
    "keygen": "Make a cluster key.",
    "lab": "A whole cluster in network namespaces.",
    "completion": "Completion code for a shell.",
}
"""The verbs in the order of the help. A verb's command has its name in the module of its name."""

EPILOG = """\b
Exit codes:
   0  done
   1  an error not named below
   2  wrong use of the command line
   3  the configuration file or the cluster key
   4  no agent answers
   5  the cluster refuses this node
   6  the node is not in the state for it
   7  BPF programs, maps, attachments
   8  the kernel lacks a capability
   9  links, neighbours, conntrack, ruleset
  10  the lab
  11  a deadline passed
  12  doctor: a check failed
  13  bytes that are not what they claim to be
"""


class Failure(click.ClickException):
    """An ``AaError`` on its way to the terminal: the message, what a refusal found, the hint, on standard error."""

    def __init__(self, error: AaError) -> None:
        super().__init__(error.message)
        self.findings = error.findings if isinstance(error, JoinRefused) else ()
        self.hint = error.hint
        self.code = error.exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click has a class variable here
        return self.code

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {self.message}", file=file, err=file is None)
        for line in (*self.findings, *self.hint.splitlines()):
            click.echo(f"  {line}", file=file, err=file is None)


class LazyGroup(click.Group):
    """Imports a verb's module when the verb is used, so that help and completion start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"aa_cluster.cli.{cmd_name}")
        command = getattr(module, cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"aa_cluster.cli.{cmd_name}.{cmd_name} is {type(command).__name__}, not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AaError as error:
            raise Failure(error) from error


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="AA_CLUSTER_CONFIG",
    show_envvar=True,
    help="Configuration file; /etc/aa-cluster/aa-cluster.toml when not given.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="JSON instead of tables, for verbs that show.")
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def aa_cluster(ctx: click.Context, config_path: Path | None, as_json: bool) -> None:
    """Active-active gateway cluster: N identical Linux gateways, one address, every one of them working."""
    ctx.obj = Invocation(config_path, as_json)
    if ctx.invoked_subcommand is None:
        status = aa_cluster.get_command(ctx, "status")
        if status is not None:
            ctx.invoke(status)
