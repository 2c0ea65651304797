# SPDX-License-Identifier: GPL-2.0-or-later
"""What a driver says about its interface: its name, its offloads, its counters (SIOCETHTOOL, linux/ethtool.h).

Not from sysfs: that shows the interfaces of the namespace it was mounted in.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct

from aa_cluster.errors import NetlinkError
from aa_cluster.netlink.rtnl import translated

SIOCETHTOOL = 0x8946
GET_DRIVER = 0x03
GET_STRINGS = 0x1B
GET_STATISTICS = 0x1D
GET_SET_SIZE = 0x37
GET_FEATURES = 0x3A
STATISTICS = 1
FEATURES = 4
NAME_BYTES = 32
DRIVER_INFO = struct.Struct("=I32s32s32s32s32s12sIIIII")
NOTHING = (errno.EOPNOTSUPP, errno.ENODEV)


def driver(name: str) -> str:
    """The driver of interface ``name``; empty when it does not say."""
    answer = _ask(name, bytearray(DRIVER_INFO.pack(GET_DRIVER, *[b""] * 6, *[0] * 5)))
    return _text(DRIVER_INFO.unpack(answer)[1]) if answer else ""


def features(name: str) -> dict[str, bool]:
    """Offload by its kernel name (``rx-gro``, ``tx-checksum-ip-generic``, …): is it on?"""
    names = _strings(name, FEATURES)
    blocks = (len(names) + 31) // 32
    answer = _ask(name, bytearray(struct.pack("=II", GET_FEATURES, blocks) + bytes(16 * blocks)))
    if not answer:
        return {}
    active = [struct.unpack_from("=IIII", answer, 8 + 16 * block)[2] for block in range(blocks)]
    return {one: bool(active[bit // 32] >> bit % 32 & 1) for bit, one in enumerate(names)}


def statistics(name: str) -> dict[str, int]:
    """The driver's own counters; empty when it has none."""
    names = _strings(name, STATISTICS)
    answer = _ask(name, bytearray(struct.pack("=II", GET_STATISTICS, len(names)) + bytes(8 * len(names))))
    return dict(zip(names, struct.unpack_from(f"={len(names)}Q", answer, 8), strict=True)) if answer else {}


def _strings(name: str, which: int) -> list[str]:
    answer = _ask(name, bytearray(struct.pack("=IIQI", GET_SET_SIZE, 0, 1 << which, 0)))
    count = struct.unpack_from("=IIQI", answer)[3] if answer else 0
    answer = _ask(name, bytearray(struct.pack("=III", GET_STRINGS, which, count) + bytes(NAME_BYTES * count)))
    return [_text(answer[12 + NAME_BYTES * i :][:NAME_BYTES]) for i in range(count)]


def _text(padded: bytes | bytearray) -> str:
    return bytes(padded).partition(b"\0")[0].decode("ascii", "replace")


def _ask(name: str, question: bytearray) -> bytearray:
    """The filled-in command; empty when the driver does not know it or the interface is gone."""
    buffer = array.array("B", question)
    request = struct.pack("16sP8x", name.encode(), buffer.buffer_info()[0])

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)

    try:
        translated(f"ask the driver of {name}", ask)
    except NetlinkError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in NOTHING:
            return bytearray()
        raise
    return bytearray(buffer.tobytes())
