# SPDX-License-Identifier: GPL-2.0-or-later
"""Replication as the agents see it: each role has its side as ``sync``."""

from __future__ import annotations

from aa_cluster.agent.sync_mirror import SyncMirror
from aa_cluster.agent.sync_source import SyncSource

__all__ = ["SyncMirror", "SyncSource"]
