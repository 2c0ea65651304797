# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node remembers across restarts: ``state.json`` in ``paths.state``, replaced atomically."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from aa_cluster.errors import StateError

FILE = "state.json"


class MemberState(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the primary knows it. MACs as text; ``macs`` by slot."""

    id: int
    name: str
    weight: int
    ha_mac: str
    ha_address: str
    macs: tuple[str, ...]
    kernel: str
    ready: bool
    draining: bool
    silent: bool
    dead: bool = False


class PrimaryState(msgspec.Struct, frozen=True, kw_only=True):
    """An auxiliary's primary: where to find it, and the MACs to accept frames from."""

    id: int
    name: str
    ha_mac: str
    ha_address: str
    virtual_macs: tuple[str, ...]


class NodeState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``ids`` and ``weights`` by name. ``physical_macs`` by interface: what to restore at ``leave``.

    ``applied`` (id → weight) and ``applied_kind`` are what the dataplane's schedule was made of last: a primary that
    resumes with the same leaves the running schedule alone. ``drained`` names, and the ``schedule`` the operator chose
    ("" for the configuration's), are the operator's last word.
    """

    version: Literal[1] = 1
    role: Literal["none", "primary", "auxiliary"] = "none"
    node_id: int = 0
    generation: int = 0
    epoch: int = 0
    ids: dict[str, int] = {}
    weights: dict[str, int] = {}
    physical_macs: dict[str, str] = {}
    members: tuple[MemberState, ...] = ()
    applied: dict[int, int] = {}
    applied_kind: str = ""
    drained: tuple[str, ...] = ()
    schedule: str = ""
    primary: PrimaryState | None = None


class StateFile:
    """Blocking, but small: one file of a few KiB."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE

    def load(self) -> NodeState:
        """What was saved last; a fresh state when nothing was. ``StateError`` when it cannot be read."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=NodeState)
        except FileNotFoundError:
            return NodeState()
        except (OSError, msgspec.MsgspecError) as error:
            raise StateError(
                f"cannot read {self.path}: {error}",
                "restore it from a backup, or remove it and join again (the node may get another id)",
            ) from None

    def save(self, state: NodeState) -> None:
        """On disk, whole, or not at all; ``StateError`` when it cannot be written."""
        temporary = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with temporary.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(state), indent=1))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise StateError(f"cannot write {self.path}: {error.strerror}", "free or mount the file system") from None


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
