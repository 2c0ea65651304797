# SPDX-License-Identifier: GPL-2.0-or-later
"""SYNs from random sources, as many as asked: ``ADDRESS PORT --via MAC --rate N --seconds S``.

Frames are made beforehand, each with its own source, port, sequence number and right checksums, and go out of the
interface as they are, many by one system call. Prints ``ready``, waits for a line on standard input, sends, and prints
one line of JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import sys
import time

import numpy as np

FRAME = 60
"""Bytes: Ethernet, IPv4, TCP and padding."""
BATCH = 64
SOURCES = 0x0B00_0000, 0x7E00_0000
"""11.0.0.0 to 125.255.255.255: nothing that a lab uses."""
PACKET_QDISC_BYPASS, SOL_PACKET = 20, 263


def frames(destination: str, port: int, via: bytes, own: bytes, count: int, seed: int) -> np.ndarray:
    """``count`` frames, one a row."""
    random = np.random.default_rng(seed)
    out = np.zeros((count, FRAME), np.uint8)
    out[:, :14] = np.frombuffer(via + own + b"\x08\x00", np.uint8)
    out[:, 14:24] = np.frombuffer(bytes((0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6)), np.uint8)
    out[:, 26:30] = _octets(random.integers(*SOURCES, count, np.uint32))
    out[:, 30:34] = np.frombuffer(socket.inet_aton(destination), np.uint8)
    out[:, 34:36] = _octets(random.integers(1024, 65536, count, np.uint16))
    out[:, 36:38] = np.frombuffer(port.to_bytes(2, "big"), np.uint8)
    out[:, 38:42] = _octets(random.integers(0, 1 << 32, count, np.uint32))
    out[:, 46:50] = (5 << 4, 0x02, 0xFF, 0xFF)
    words = out.view(">u2")
    pseudo = words[:, 13:17].sum(axis=1, dtype=np.uint32) + 6 + 20
    out[:, 24:26] = _octets(_folded(words[:, 7:17].sum(axis=1, dtype=np.uint32)))
    out[:, 50:52] = _octets(_folded(words[:, 17:27].sum(axis=1, dtype=np.uint32) + pseudo))
    return out


def _octets(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder(">")).view(np.uint8).reshape(len(values), -1)


def _folded(sums: np.ndarray) -> np.ndarray:
    """RFC 1071: the ones' complement of the ones' complement sum."""
    once = (sums & 0xFFFF) + (sums >> 16)
    checksum: np.ndarray = ~((once & 0xFFFF) + (once >> 16)).astype(np.uint16)
    return checksum


class Messages:
    """A ``struct mmsghdr`` for every frame, so that many go by one sendmmsg(2)."""

    SIZE = 64

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        vectors = np.zeros((len(rows), 2), np.uint64)
        vectors[:, 0] = rows.ctypes.data + np.arange(len(rows), dtype=np.uint64) * FRAME
        vectors[:, 1] = FRAME
        headers = np.zeros((len(rows), self.SIZE // 8), np.uint64)
        headers[:, 2] = vectors.ctypes.data + np.arange(len(rows), dtype=np.uint64) * 16
        headers[:, 3] = 1
        self._vectors, self._headers = vectors, headers
        self._libc = ctypes.CDLL(None, use_errno=True)

    def send(self, out: socket.socket, first: int, count: int) -> int:
        """How many went."""
        at = ctypes.c_void_p(self._headers.ctypes.data + first * self.SIZE)
        done = int(self._libc.sendmmsg(out.fileno(), at, min(count, len(self._rows) - first), 0))
        return max(0, done)


def run(messages: Messages, total: int, interface: str, rate: float, seconds: float) -> dict[str, float]:
    """By one core. At most ``total`` different frames, then from the start again; what was really sent."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((interface, 0))
        out.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        start, sent, now = time.monotonic(), 0, time.monotonic()
        while now < start + seconds:
            if sent < rate * (now - start):
                sent += messages.send(out, sent % total, BATCH)
            else:
                time.sleep(min(0.001, BATCH / rate))
            now = time.monotonic()
    return {"sent": sent, "seconds": now - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--via", required=True, help="destination MAC")
    parser.add_argument("--interface", default="eth0")
    parser.add_argument("--rate", type=float, default=100_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as probe:
        probe.bind((given.interface, 0))
        own = probe.getsockname()[4]
    total = int(given.rate * given.seconds)
    via = bytes.fromhex(given.via.replace(":", ""))
    messages = Messages(frames(given.address, given.port, via, own, total, given.seed))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(run(messages, total, given.interface, given.rate, given.seconds)), flush=True)


if __name__ == "__main__":
    main()
