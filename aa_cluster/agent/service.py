# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent as a process: open the link and the socket, resume, tell systemd, wait for the signal to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from aa_cluster import log
from aa_cluster.agent import threads
from aa_cluster.agent.context import Context
from aa_cluster.agent.host import Host, this_machine
from aa_cluster.agent.link import Link
from aa_cluster.agent.node import Node
from aa_cluster.agent.notify import Notifier
from aa_cluster.agent.server import Server
from aa_cluster.agent.state import StateFile
from aa_cluster.agent.udp import UdpTransport
from aa_cluster.config import Config, load_key
from aa_cluster.errors import AaError
from aa_cluster.wire import envelope
from aa_cluster.wire.keys import KeyRing

_log = log.get("agent")


def run(config: Config, config_path: Path) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. The dataplane stays attached."""
    log.configure(config.log, sys.stderr)
    try:
        return asyncio.run(serve(config, config_path, this_machine(), os.environ))
    except AaError as error:
        print(f"aa-cluster agent: {error}", file=sys.stderr)
        return error.exit_code


async def serve(
    config: Config,
    config_path: Path,
    host: Host,
    environment: Mapping[str, str],
    wire_version: int = envelope.VERSION,
) -> int:
    """``wire_version``: what this agent says it speaks (tests let two differ)."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(threads.pool())
    threads.raise_priority()
    keys = KeyRing.derive(load_key(config.cluster.key_file))
    link = Link(keys, config.cluster.id, time.monotonic, wire_version)
    file = StateFile(config.paths.state)
    context = Context(config, keys, host, link, file, time.monotonic, file.load(), config_path)
    transport = UdpTransport(config.ha.interface, config.ha.port, link.receive)
    transport.open()
    link.attach(transport)
    node = Node(context)
    server = Server(node, config.paths.socket)
    notifier = Notifier(environment, os.getpid())
    try:
        await server.open()
        _log.info("agent", config=str(config_path), node=context.name, socket=str(config.paths.socket))
        await _until_signal(node, notifier)
    finally:
        notifier.stopping()
        await node.close()
        await server.close()
        link.close()
    _log.info("agent ends", dataplane="stays attached" if context.state.role != "none" else "none")
    return 0


async def _until_signal(node: Node, notifier: Notifier) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks = [loop.create_task(node.resume(), name="resume"), loop.create_task(_watchdog(notifier), name="watchdog")]
    notifier.ready(_summary(node))
    node.on_change = lambda: notifier.status(_summary(node))
    try:
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _summary(node: Node) -> str:
    state = node.context.state
    if state.role == "none":
        return f"{node.context.name}: in no cluster"
    return f"{node.context.name}: {state.role}, id {state.node_id}, generation {state.generation}"


async def _watchdog(notifier: Notifier) -> None:
    interval = notifier.watchdog_interval
    while interval is not None:
        notifier.alive()
        await asyncio.sleep(interval)
