# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps that programs reach without a look-up: their address is put into the code (BPF_PSEUDO_MAP_VALUE, 5.2).

``direct()`` in bpf/include/maps.h writes such an address as a 64-bit number: a tag, the map's number, an offset. The
kernel allows direct addresses only into arrays of one element, so these maps are made as one value that holds all their
elements side by side.
"""

from __future__ import annotations

import struct

MAPS = ("config", "ports", "nodes")
"""In the order of their numbers."""

_TAG = 0x7FCA
_LD_IMM64 = 0x18


def references(code: bytes) -> list[tuple[int, str, int]]:
    """(instruction index, map name, byte offset) of every direct address that waits to be filled in."""
    out = []
    at = 0
    while at < len(code):
        if code[at] != _LD_IMM64:
            at += 8
            continue
        low, high = struct.unpack_from("=I", code, at + 4)[0], struct.unpack_from("=I", code, at + 12)[0]
        if code[at + 1] >> 4 == 0 and high >> 16 == _TAG and high & 0xFFFF < len(MAPS):
            out.append((at // 8, MAPS[high & 0xFFFF], low))
        at += 16
    return out


def fill(code: bytearray, index: int, fd: int, offset: int) -> None:
    """Makes the address that of byte ``offset`` in the value of the map behind ``fd``."""
    at = index * 8
    code[at + 1] = (code[at + 1] & 0x0F) | 2 << 4
    struct.pack_into("=i", code, at + 4, fd)
    struct.pack_into("=I", code, at + 12, offset)
