# SPDX-License-Identifier: GPL-2.0-or-later
"""SYNs from random sources: ``ADDRESS PORT --via MAC --rate N --seconds S``.

A BPF program makes them and sends them out of the interface (``bpf/bench/flood.bpf.c``), whose other end must take XDP
frames: a packet socket costs more than a gateway's work on the SYN. It keeps one core busy. Prints ``ready``, waits for
a line on standard input, sends, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import socket
import sys
import time

import numpy as np

from aa_cluster.dataplane import maps, programs, syscall
from aa_cluster.dataplane import object as objects

FRAME = 60
"""Bytes: Ethernet, IPv4, TCP and padding."""
BATCH = 64
SPURT = 32
"""Frames that go at once."""
ENDLESS = 1 << 31
"""Runs of the program: more than there is time for."""
SOURCES = 0x0B00_0000, 0x7E00_0000
"""11.0.0.0 to 125.255.255.255: nothing that a lab uses."""
NAME = "bench/flood"


def template(destination: str, port: int, via: bytes, own: bytes) -> bytes:
    """A SYN without source and checksums."""
    ip = bytes((0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0)) + socket.inet_aton(destination)
    tcp = bytes(2) + port.to_bytes(2, "big") + bytes((0, 0, 0, 0, 0, 0, 0, 0, 5 << 4, 0x02, 0xFF, 0xFF, 0, 0, 0, 0))
    return (via + own + b"\x08\x00" + ip + tcp).ljust(FRAME, b"\0")


def sum_of(data: bytes) -> int:
    """Of 16-bit words as they lie there."""
    return int(np.frombuffer(data, "<u2").sum(dtype=np.uint32))


def load(frame: bytes, interface: str, rate: float) -> tuple[int, maps.Map]:
    """The program's file descriptor, and its plan."""
    compiled = objects.load((NAME,), {}, None)[NAME]
    opened = maps.open_all(compiled.maps, None, 1)
    plan = opened["flood_plan"].record()
    plan["frame"] = np.frombuffer(frame.ljust(64, b"\0"), "<u8")
    plan["ip_sum"] = sum_of(frame[14:34])
    plan["tcp_sum"] = sum_of(frame[30:54] + bytes((0, 6, 0, 20)))  # destination, header, the pseudo header's rest
    plan["first"], plan["sources"] = SOURCES[0], SOURCES[1] - SOURCES[0]
    plan["out"] = socket.if_nametoindex(interface)
    plan["interval"] = int(1e9 / rate)
    plan["spurt"] = SPURT * int(1e9 / rate)
    opened["flood_plan"].put(0, plan)
    fd = programs.load_one(syscall.PROG_XDP, "flood", compiled.programs["flood"], opened, {})
    return fd, opened["flood_plan"]


def run(program: int, frame: bytes, plan: maps.Map, seconds: float) -> dict[str, float]:
    """By one core, at the plan's pace; what was really sent."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    start = time.monotonic()
    try:
        syscall.run_live(program, frame, ENDLESS, BATCH)
    except OSError as error:
        if error.errno != errno.EINTR:
            raise
    seconds, after = time.monotonic() - start, plan.get(0)
    return {"sent": 0 if after is None else int(after["sent"]), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--via", required=True, help="destination MAC")
    parser.add_argument("--interface", default="eth0")
    parser.add_argument("--rate", type=float, default=100_000)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as probe:
        probe.bind((given.interface, 0))
        own = probe.getsockname()[4]
    frame = template(given.address, given.port, bytes.fromhex(given.via.replace(":", "")), own)
    program, plan = load(frame, given.interface, given.rate)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(run(program, frame, plan, given.seconds)), flush=True)


if __name__ == "__main__":
    main()
