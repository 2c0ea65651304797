# SPDX-License-Identifier: GPL-2.0-or-later
"""What every verb gets: where the configuration is, and whether JSON was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from aa_cluster.errors import AgentUnreachable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from aa_cluster.agent.client import AgentClient
    from aa_cluster.config import Config

A = TypeVar("A")
C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Invocation:
    """``given`` is the path from --config or the environment, ``None`` for the default one."""

    given: Path | None
    json: bool

    @property
    def config_path(self) -> Path:
        from aa_cluster.config import DEFAULT_PATH

        return self.given or DEFAULT_PATH

    def config(self) -> Config:
        from aa_cluster.config import load

        return load(self.config_path)

    def client(self) -> AgentClient:
        """The agent of the configured instance; ``AgentUnreachable`` comes with the first question."""
        from aa_cluster.agent.client import AgentClient

        return AgentClient(self.config().paths.socket)

    def ask(self, path: str, kind: type[A], params: Mapping[str, str] | None = None) -> A:
        """The agent's answer to a GET, which has to be of ``kind``."""
        return of_kind(self.client().get(path, params), kind)

    def order(self, path: str, body: msgspec.Struct, kind: type[A]) -> A:
        """The agent's answer to a POST of ``body``, which has to be of ``kind``."""
        return of_kind(self.client().post(path, body), kind)

    def show(self, answer: msgspec.Struct, render: Callable[[], RenderableType]) -> None:
        """Print ``answer`` as one line of JSON, or what ``render`` makes of it."""
        if self.json:
            click.echo(msgspec.json.encode(answer))
        else:
            from aa_cluster.cli.tables import console

            console().print(render())


def of_kind(answer: object, kind: type[A]) -> A:
    if isinstance(answer, kind):
        return answer
    raise AgentUnreachable(
        f"the agent answered with {type(answer).__name__}, expected {kind.__name__}",
        "agent and command line are of different versions: restart the agent",
    )


def json_option(command: C) -> C:
    """``-j`` after the verb too, not only before it."""

    def switch(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.obj = dataclasses.replace(ctx.find_object(Invocation) or Invocation(None, False), json=True)

    return click.option("-j", "--json", is_flag=True, expose_value=False, callback=switch, help="JSON, not a table.")(
        command
    )
