# SPDX-License-Identifier: GPL-2.0-or-later
"""Conntrack entries by the thousand: made, changed and removed by ctnetlink, thousands of messages a system call.

The kernel works on all messages of a call before it comes back, and answers each that it refuses; only the last of a
call asks for an answer anyhow. Rows are those of ``dataplane.flows.FLOW_ROW``. Blocking calls, any thread, in the
network namespace of the thread; a conversation that cannot be had at all is a ``NetlinkError``.

Order of what ctnetlink does, and why the messages look as they do: net/netfilter/nf_conntrack_netlink.c,
ctnetlink_new_conntrack() and what it calls.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from aa_cluster.errors import NetlinkError
from aa_cluster.netlink.conntrack import Status
from aa_cluster.netlink.ct_create import ANSWER_SECONDS, NETLINK_NETFILTER
from aa_cluster.netlink.ct_messages import ACK, ERROR, FAMILIES, PROTOCOLS, Kind, build, parse, question
from aa_cluster.netlink.rtnl import refused

CALL = 1024
"""Messages a system call: a few hundred KiB, and at most so many answers wait for us."""

BUFFER = 8 << 20
"""Bytes each way. An answer that waits counts as less than a KiB."""

_SOL_NETLINK, _CAP_ACK = 270, 10  # linux/netlink.h: the answer need not repeat the message
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33  # asm-generic/socket.h
_ANSWER = struct.Struct("=IHHIIi")

_AGAIN = tuple(
    seen | more
    for seen in (Status(0), Status.SEEN_REPLY)
    for more in (Status(0), Status.ASSURED, Status.EXPECTED, Status.ASSURED | Status.EXPECTED)
    if seen | more
)
"""Bits that an entry may have and that a change must then name, or the kernel says EBUSY."""


Existing = Literal["update", "leave", "replace"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``codes``: an errno a row, 0 where it is as was asked for.

    ENOENT: there is no such entry, or one that has only one of the two tuples (it is left as it is). EEXIST
    (``create``): a tuple of the row is another entry's. ENOMEM (``create``): the table is full. EPROTONOSUPPORT:
    neither TCP nor UDP over IPv4 or IPv6.
    ``existing``: rows of ``create`` whose entry was there.
    """

    codes: np.ndarray
    existing: int = 0

    @property
    def done(self) -> int:
        return int(np.count_nonzero(self.codes == 0))

    @property
    def failed(self) -> np.ndarray:
        """True for each row that is not as was asked for."""
        out: np.ndarray = self.codes != 0
        return out

    @property
    def errors(self) -> dict[str, int]:
        """Rows by the name of their errno."""
        counts = Counter(int(code) for code in self.codes[self.failed])
        return {errno.errorcode.get(code, str(code)): number for code, number in sorted(counts.items())}

    def require(self, what: str) -> None:
        """``NetlinkError`` unless all went well; ``what`` names the deed."""
        if not self.failed.any():
            return
        told = ", ".join(f"{number} × {name}" for name, number in self.errors.items())
        hint = ""
        if (self.codes == errno.ENOMEM).any():
            told = f"the conntrack table is full ({_sysctl('count')} of {_sysctl('max')} entries)"
            hint = "raise net.netfilter.nf_conntrack_max on every node"
        raise NetlinkError(f"cannot {what}: {told}; {self.done} of {len(self.codes)} done", hint)


def update(rows: np.ndarray, lifetimes: Mapping[int, int]) -> Outcome:
    """Entries that are there go on mid-stream from now on: state by that of the row (``ct_messages.TCP_STATES``;
    ``UDP_STATUSES``), segments outside of a window this node has not seen are taken, early drop passes by.
    ``lifetimes``: s, as ``flows.Timeouts`` has them.

    Only an entry that has both tuples of its row is touched.
    """
    return _on_known("change", rows, _by_state(lifetimes))


def create(rows: np.ndarray, lifetimes: Mapping[int, int], existing: Existing = "update") -> Outcome:
    """Makes entries with both tuples, the NAT between them, mark, and state as ``update``. No helper, no labels.

    One that is there already is left, or else updated; with ``replace`` others that have one of a row's tuples go. The
    first row for which there is no room ends it: all behind it, IPv4 before IPv6 and TCP before UDP, are ENOMEM too.
    """
    by_state = _by_state(lifetimes)
    codes = _converse("create", rows, by_state)
    there = np.flatnonzero(codes == errno.EEXIST)
    if not len(there):
        return Outcome(codes)
    kind: Kind = "by_original" if existing == "leave" else "change"
    known = _on_known(kind, rows[there], by_state).codes
    codes[there] = np.where(known == errno.ENOENT, errno.EEXIST, known)
    clash = there[known == errno.ENOENT]
    if existing == "replace" and len(clash):
        for by in ("delete_by_reply", "delete"):
            _converse(by, rows[clash], by_state)
        codes[clash] = _converse("create", rows[clash], by_state)
    return Outcome(codes, int(np.count_nonzero(known == 0)))


def room() -> int:
    """How many more entries this namespace's table takes; a great many where the kernel does not say."""
    count, most = _sysctl("count"), _sysctl("max")
    return int(most) - int(count) if count.isdigit() and most.isdigit() else 1 << 31


def check(rows: np.ndarray) -> Outcome:
    """Is there an entry with the reply tuple of each?"""
    return Outcome(_converse("by_reply", rows, np.zeros(8, "u4")))


def read() -> np.ndarray:
    """The TCP and UDP entries of this namespace, over IPv4 and IPv6, as rows with both tuples and nothing else.

    A snapshot made while packets flow: an entry that comes or goes meanwhile may be in it or not.
    """
    try:
        with _conversation() as link:
            parts = []
            for family in FAMILIES:
                link.send(question(family))
                more = True
                while more:
                    rows, more = parse(link.recv(1 << 20), family)
                    parts.append(rows)
            return np.concatenate(parts)
    except OSError as error:
        raise refused("read the conntrack table", error.errno or 0) from error


def delete(rows: np.ndarray) -> Outcome:
    """Removes entries that have both tuples of their row."""
    return _on_known("delete", rows, np.zeros(8, "u4"))


def _on_known(kind: Kind, rows: np.ndarray, lifetimes: np.ndarray) -> Outcome:
    """An entry is found by one tuple at a time, so that both are its own is asked for first."""
    codes = _converse("by_reply", rows, lifetimes)
    known = np.flatnonzero(codes == 0)
    codes[known] = _converse(kind, rows if len(known) == len(rows) else rows[known], lifetimes)
    for extra in _AGAIN if kind == "change" else ():
        busy = np.flatnonzero(codes == errno.EBUSY)
        if len(busy):
            codes[busy] = _converse(kind, rows[busy], lifetimes, int(extra))
    return Outcome(codes)


def _by_state(lifetimes: Mapping[int, int]) -> np.ndarray:
    out = np.zeros(8, "u4")
    for state, seconds in lifetimes.items():
        out[state] = seconds
    return out


def _converse(kind: Kind, rows: np.ndarray, lifetimes: np.ndarray, extra: int = 0) -> np.ndarray:
    """The errno of each row."""
    codes = np.full(len(rows), errno.EPROTONOSUPPORT, "i4")
    if not len(rows):
        return codes
    full = False
    try:
        with _conversation() as link:
            for family, protocol in product(FAMILIES, PROTOCOLS):
                chosen = np.flatnonzero((rows["family"] == family) & (rows["protocol"] == protocol))
                for start in range(0, len(chosen), CALL):
                    if full:
                        codes[chosen[start:]] = errno.ENOMEM
                        break
                    some = chosen[start : start + CALL]
                    part = rows[some[0] : some[-1] + 1] if some[-1] - some[0] + 1 == len(some) else rows[some]
                    codes[some] = _call(link, build(kind, family, protocol, part, lifetimes, extra))
                    full = kind == "create" and bool((codes[some] == errno.ENOMEM).any())
    except OSError as error:
        raise refused(f"{kind} {len(rows)} conntrack entries", error.errno or 0) from error
    return codes


def _conversation() -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        link.settimeout(ANSWER_SECONDS)
        link.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        for option in (_SNDBUFFORCE, _RCVBUFFORCE):
            link.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        link.bind((0, 0))
    except OSError:
        link.close()
        raise
    return link


def _call(link: socket.socket, messages: np.ndarray) -> np.ndarray:
    codes = np.zeros(len(messages), "i4")
    messages["flags"][-1] |= ACK
    link.send(messages.data)
    last = 0
    while last != len(messages):
        answer = link.recv(256)
        _, kind, _, last, _, code = _ANSWER.unpack_from(answer)
        if kind != ERROR or not 0 < last <= len(messages):
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        codes[last - 1] = -code
    return codes


def _sysctl(name: str) -> str:
    try:
        return Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").read_text("ascii").strip()
    except OSError:
        return "?"
