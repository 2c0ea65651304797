# SPDX-License-Identifier: GPL-2.0-or-later
"""What both roles share: configuration, keys, the link, the host, the node's persistent state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aa_cluster import config as configuration
from aa_cluster.agent import survey
from aa_cluster.agent.events import EventHub
from aa_cluster.agent.state import NodeState, StateFile
from aa_cluster.agent.threads import urgently
from aa_cluster.config import Config
from aa_cluster.wire.keys import KeyRing

if TYPE_CHECKING:
    from aa_cluster.agent.host import Host
    from aa_cluster.agent.link import Link
    from aa_cluster.agent.survey import Survey


@dataclass(slots=True)
class Context:
    """``state`` is what is on disk; change it with ``remember`` only. ``config_path``: the configuration's file."""

    config: Config
    keys: KeyRing
    host: Host
    link: Link
    file: StateFile
    clock: Callable[[], float]
    state: NodeState = field(default_factory=NodeState)
    config_path: Path = configuration.DEFAULT_PATH
    events: EventHub = field(default_factory=EventHub)
    _saving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        return self.config.node.name

    @property
    def beat(self) -> float:
        """Seconds between two heartbeats."""
        return self.config.ha.heartbeat_ms / 1000

    @property
    def silence(self) -> float:
        """Seconds after which an agent that is not heard counts as silent."""
        return self.config.ha.silent_ms / 1000

    @property
    def wire_version(self) -> int:
        return self.link.wire_version

    def virtual_macs(self) -> tuple[bytes, ...]:
        """As this node's configuration has them, by slot; what the primary says counts."""
        return tuple(configuration.virtual_mac(self.config, slot) for slot in range(len(self.config.data.interfaces)))

    async def remember(self, **changes: object) -> None:
        """Replace fields of the state, on disk first; the disk may be slow, so it is not waited for on the loop."""
        async with self._saving:
            state = msgspec.structs.replace(self.state, **changes)
            await urgently(self.file.save, state)
            self.state = state

    async def survey(self) -> Survey:
        return await asyncio.to_thread(survey.take, self.host, self.config, self.state.physical_macs)

    async def ruleset(self) -> str:
        return await asyncio.to_thread(self.host.ruleset_digest)


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
