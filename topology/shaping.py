# SPDX-License-Identifier: GPL-2.0-or-later
"""Switch ports that lose, double and hold back a share of the frames, or carry none while their carrier stays up.

There is no netem here, so a small program at TC does it: it draws a number for each frame the switch is about to send
out of the port. Holding back is more than a program can do: those frames go down a veth pair of the port's own to a
thread, which sends them out of the port 1 to 20 ms later, past frames that came after them. What was decided on
carries ``DECIDED`` as its mark, and is let through.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aa_cluster.dataplane import syscall
from aa_cluster.topology.capture import ETH_P_ALL, PACKET_IGNORE_OUTGOING, SOL_PACKET
from aa_cluster.topology.namespaces import batch, checked, enter, inside
from aa_cluster.topology.plan import HA, Network, Plan

DECIDED = 0x5AFE
SHARES = 1 << 16
DROP_ALL = bytes.fromhex("b7000000020000009500000000000000")
"""``r0 = TC_ACT_SHOT; exit``"""
SKB_MARK = 8
"""Offset of ``mark`` in ``struct __sk_buff`` (linux/bpf.h)."""
PRANDOM, CLONE_REDIRECT, REDIRECT = 7, 13, 23
SHORTEST = 0.001


@dataclass(frozen=True, slots=True)
class Shape:
    """Shares of the frames, 0 to 1, one after the other; ``longest``: s that one is held back at most."""

    lose: float = 0.0
    double: float = 0.0
    hold: float = 0.0
    longest: float = 0.020


def program(shape: Shape, port: int, aside: int) -> bytes:
    """For TC egress of the interface with index ``port``; ``aside`` is where frames go that are held back."""
    thresholds = [round(SHARES * share) for share in (shape.lose, shape.lose + shape.double)]
    thresholds.append(round(SHARES * (shape.lose + shape.double + shape.hold)))
    steps = [
        (0xBF, 6, 1, 0, 0),  # r6 = skb
        (0x61, 7, 6, SKB_MARK, 0),  # r7 = skb->mark
        (0x15, 7, 0, 5, DECIDED),  # decided already: pass
        (0x85, 0, 0, 0, PRANDOM),
        (0x57, 0, 0, 0, SHARES - 1),  # r0 &= 65535
        (0xA5, 0, 0, 4, thresholds[0]),  # below: lose
        (0xA5, 0, 0, 5, thresholds[1]),  # double
        (0xA5, 0, 0, 12, thresholds[2]),  # hold back
        (0xB7, 0, 0, 0, 0),  # pass
        (0x95, 0, 0, 0, 0),
        (0xB7, 0, 0, 0, 2),  # lose: TC_ACT_SHOT
        (0x95, 0, 0, 0, 0),
        (0xB7, 1, 0, 0, DECIDED),  # double: mark it, send a clone out of the same port, pass
        (0x63, 6, 1, SKB_MARK, 0),
        (0xBF, 1, 6, 0, 0),
        (0xB7, 2, 0, 0, port),
        (0xB7, 3, 0, 0, 0),
        (0x85, 0, 0, 0, CLONE_REDIRECT),
        (0xB7, 0, 0, 0, 0),
        (0x95, 0, 0, 0, 0),
        (0xB7, 1, 0, 0, aside),  # hold back: out of the veth
        (0xB7, 2, 0, 0, 0),
        (0x85, 0, 0, 0, REDIRECT),
        (0x95, 0, 0, 0, 0),
    ]
    return b"".join(struct.pack("<BBhi", code, src << 4 | dst, off, imm) for code, dst, src, off, imm in steps)


class Shaped:
    """The ports of ``nodes`` on ``net`` are shaped while the block runs. ``held``: frames that were held back."""

    def __init__(self, plan: Plan, shape: Shape, nodes: Sequence[int], net: Network = HA, seed: int = 1) -> None:
        self._switch, self._namespace = plan.path("switch"), plan.namespace("switch")
        self._ports = [plan.port(f"node{node}", net) for node in nodes]
        self._pins = plan.pins
        self._shape = shape
        self._dice = random.Random(seed)
        self._stop, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._relay, name="held back", daemon=True)
        self.held = 0

    def __enter__(self) -> Self:
        for number, port in enumerate(self._ports):
            self._lay(port, f"aside{number}", f"held{number}")
        self._sockets = inside(self._switch, self._open)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()
        self._thread.join()
        self._stop.close()
        for number, port in enumerate(self._ports):
            if self._exists(port):
                checked(["tc", "-n", self._namespace, "qdisc", "del", "dev", port, "clsact"])
            batch([f"link del aside{number}"], self._namespace)
        for taken, out in self._sockets.items():
            taken.close()
            out.close()

    def _open(self) -> dict[socket.socket, socket.socket]:
        """Where held frames of a port come out → where they go."""
        return {_packets(f"held{number}"): _packets(port) for number, port in enumerate(self._ports)}

    def _exists(self, port: str) -> bool:
        """A node that was killed took its port with it."""
        return port in inside(self._switch, lambda: [name for _, name in socket.if_nameindex()])

    def _lay(self, port: str, aside: str, held: str) -> None:
        """The veth pair, which finishes checksums since what comes out is sent as it is; the program; its hook."""
        batch(
            [f"link add {aside} type veth peer name {held}", f"link set {held} up", f"link set {aside} up"],
            self._namespace,
        )
        checked([*enter(self._switch), "ethtool", "-K", aside, "tx", "off"])
        numbers = inside(self._switch, lambda: {name: index for index, name in socket.if_nameindex()})
        attach(self._switch, port, program(self._shape, numbers[port], numbers[aside]), self._pins, ("egress",))

    def _relay(self) -> None:
        waiting: list[tuple[float, int, socket.socket, bytes]] = []
        while True:
            wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select([*self._sockets, self._stop], [], [], wait)
            if self._stop in ready:
                return
            for taken in ready:
                self.held += 1
                due = time.monotonic() + self._dice.uniform(SHORTEST, self._shape.longest)
                heapq.heappush(waiting, (due, self.held, self._sockets[taken], taken.recv(65535)))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, out, frame = heapq.heappop(waiting)
                try:
                    out.send(frame)
                except OSError:
                    continue  # the port is down, or gone: so is the frame


def _packets(interface: str) -> socket.socket:
    """Takes what comes in at the interface; what it sends is marked as decided."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, DECIDED)
    opened.bind((interface, ETH_P_ALL))
    return opened


def attach(namespace: Path, port: str, code: bytes, pins: Path, ways: Sequence[str]) -> None:
    """The program at TC of the port, as long as the port has its clsact."""
    handle = syscall.prog_load(syscall.PROG_SCHED_CLS, code, "shape")
    pin = pins / f"shape-{port}"
    pin.unlink(missing_ok=True)
    try:
        syscall.obj_pin(handle, str(pin))
        checked([*enter(namespace), "tc", "qdisc", "replace", "dev", port, "clsact"])
        for way in ways:
            checked(
                [*enter(namespace), "tc", "filter", "add", "dev", port, way, "bpf", "da", "object-pinned", str(pin)]
            )
    finally:
        os.close(handle)
        pin.unlink(missing_ok=True)


def mute(plan: Plan, member: str, net: Network) -> None:
    """A dead switch port: the carrier stays, nothing passes in either direction. ``unmute`` ends it."""
    attach(plan.path("switch"), plan.port(member, net), DROP_ALL, plan.pins, ("ingress", "egress"))


def unmute(plan: Plan, member: str, net: Network) -> None:
    """Nothing, where the port was not mute."""
    port, switch = plan.port(member, net), plan.namespace("switch")
    if '"clsact"' in checked(["tc", "-n", switch, "-j", "qdisc", "show", "dev", port]):
        checked(["tc", "-n", switch, "qdisc", "del", "dev", port, "clsact"])
