# SPDX-License-Identifier: GPL-2.0-or-later
"""Lost frames, out of the kernel's tables."""

from __future__ import annotations

from pathlib import Path

from aa_cluster.netlink.overrun import lost_frames

SOFTNET = """\
0000a1b2 0000000f 00000003 00000000
0000a1b2 00000100 00000003 00000000
"""
DEVICES = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes packets
    lo: 1 2 3 4 0 0 0 0 9 9
  eth0:77 2 3 4 5 6 7 8 9 9
"""


def test_queues_and_drivers(tmp_path: Path) -> None:
    (tmp_path / "softnet_stat").write_text(SOFTNET)
    (tmp_path / "dev").write_text(DEVICES)
    assert lost_frames(tmp_path) == 0x0F + 0x100 + 5


def test_a_kernel_that_does_not_tell(tmp_path: Path) -> None:
    assert lost_frames(tmp_path) == 0
    (tmp_path / "softnet_stat").write_text("\n")
    (tmp_path / "dev").write_text("a\nb\nodd\n")
    assert lost_frames(tmp_path) == 0


def test_this_machine() -> None:
    assert lost_frames() >= 0
