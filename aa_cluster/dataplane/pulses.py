# SPDX-License-Identifier: GPL-2.0-or-later
"""Pulses: runs the ``pulse`` program, and reads what is known of each link to each node (docs/liveness.md)."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from aa_cluster.dataplane import syscall
from aa_cluster.dataplane.maps import LINKS, MAX_NODES, Map

HA_LINK = 16
"""AA_HA_LINK of bpf/include/types.h: behind the slots of the data interfaces."""

_FRAME = bytes(12) + b"\x88\xb6" + bytes(56)  # struct pulse_packet, which the program fills in
_CONTEXT_BYTES, _CB_AT = 192, 48  # struct __sk_buff
_ROW = struct.Struct("=QQQQQQQII")  # struct pulse
_SENT, _ANSWERED = 0, 2
_QUESTION_BITS = np.uint64(16)
"""So many questions between two pulses of the primary: one every 50 ms for an hour."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """One link to one node. ``sent``, ``answered``, ``heard`` are sequence numbers; times in ns of CLOCK_MONOTONIC.

    On an auxiliary ``heard`` moves, in the rows of its primary; and the others, while there is a ``Question``.
    """

    sent: int
    sent_ns: int
    answered: int
    answered_ns: int
    rtt_ns: int
    heard: int
    heard_ns: int


def read(pulses: Map, node_id: int, link: int) -> Pulse:
    """The row as it is now. ``link``: a slot, or ``HA_LINK``."""
    return Pulse(*_ROW.unpack_from(pulses.memory(), _offset(node_id, link))[:7])


def _offset(node_id: int, link: int) -> int:
    return (node_id * LINKS + link) * _ROW.size


class Prober:
    """``fd`` is the loaded program, owned by this object; used by one thread."""

    def __init__(self, fd: int, pulses: Map) -> None:
        self._fd = fd
        self._memory = pulses.memory()
        self._nodes: frozenset[int] = frozenset()
        self._run: Callable[[], int] = lambda: 0

    def send(self, nodes: frozenset[int]) -> int:
        """A pulse to each of them on each link, in one system call, in the order of their ids.

        Gives, as bits, the links on which one of them did not answer the pulse before this one.
        """
        if nodes is not self._nodes:
            self._nodes, self._run = nodes, self._prepare(nodes)
        while True:
            try:
                return self._run()
            except InterruptedError:  # by a signal: some are asked twice
                continue

    def counts(self, node_id: int, link: int) -> tuple[int, int]:
        """(sequence of the newest pulse, sequence of the newest that was answered)."""
        row = _ROW.unpack_from(self._memory, _offset(node_id, link))
        return row[_SENT], row[_ANSWERED]

    def close(self) -> None:
        os.close(self._fd)

    def _prepare(self, nodes: frozenset[int]) -> Callable[[], int]:
        mask = {node for node in nodes if 0 < node < MAX_NODES}
        if not mask:
            return lambda: 0
        return syscall.PreparedRun(self._fd, _FRAME, context_for(mask), repeat=len(mask))


class Question:
    """Is the primary's kernel there? Asked on every link, by an auxiliary that has heard nothing; ``close`` it.

    Each pulse's number must be above all that the primary has had from this node in its generation, also before this
    node rebooted: it goes on from the primary's own numbers, which only rise.
    """

    def __init__(self, prober: Prober, pulses: Map, primary_id: int) -> None:
        self._prober = prober
        self._rows = pulses.view()[primary_id * LINKS : (primary_id + 1) * LINKS]
        self._rows["sent"] = np.maximum(self._rows["sent"], self._rows["heard"].max() << _QUESTION_BITS)
        before = self._rows["sent"].copy()
        prober.send(frozenset({primary_id}))
        self._asked = self._rows["sent"] > before

    def answered(self) -> bool:
        """On some link until now."""
        return bool((self._rows["answered"] >= self._rows["sent"])[self._asked].any())

    def close(self) -> None:
        """Nobody is waited for any more."""
        self._rows["answered"] = self._rows["sent"]
        self._prober.close()


def context_for(nodes: Collection[int]) -> bytes:
    """The context the program is run in to ask these nodes, once for each (struct __sk_buff)."""
    context = bytearray(_CONTEXT_BYTES)
    struct.pack_into("=Q", context, _CB_AT, sum(1 << node for node in nodes))
    return bytes(context)
