# SPDX-License-Identifier: GPL-2.0-or-later
"""SYNs that wait for the agent, and the way they go back to the interface they came in on."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.events import ByteRing
from aa_cluster.errors import DataplaneError

_HEAD = struct.Struct("=II")  # struct punt of bpf/include/types.h
_CONTEXT_BYTES, _IFINDEX_AT = 192, 40  # struct __sk_buff
_TC_ACT_OK = 0


@dataclass(frozen=True, slots=True)
class Punt:
    """``frame``: the whole Ethernet frame as it came in on ``ifindex``; its handoff block was verified."""

    ifindex: int
    frame: bytes


class PuntRing(ByteRing):
    def read(self) -> list[Punt]:
        return [_decode(one) for one in self.records()]


def _decode(raw: bytes) -> Punt:
    ifindex, length = _HEAD.unpack_from(raw)
    return Punt(ifindex, raw[_HEAD.size : _HEAD.size + length])


class Courier:
    """``fd`` is the loaded ``deliver`` program, owned by this object."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def deliver(self, punt: Punt) -> None:
        """The frame comes in once more on its interface; ``DataplaneError`` when that is gone or down."""
        context = bytearray(_CONTEXT_BYTES)
        struct.pack_into("=I", context, _IFINDEX_AT, punt.ifindex)
        ran = syscall.run_program(self._fd, punt.frame, context=bytes(context))
        if ran.verdict != _TC_ACT_OK:
            raise DataplaneError(f"interface {punt.ifindex} does not take a frame back", "see whether it is up")

    def close(self) -> None:
        os.close(self._fd)
