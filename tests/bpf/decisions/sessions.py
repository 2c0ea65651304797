# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions ten thousand at a time, through bpf/tests/decide_ops.bpf.c, which does what ``handoff`` and ``steer`` do."""

from __future__ import annotations

import numpy as np

from aa_cluster.core import schedule
from aa_cluster.dataplane import decisions, flows, reasons, syscall
from aa_cluster.dataplane.decisions import mapped
from tests.bpf.harness import Plane

SYN, PACKET = 0, 1
FIN, TCP_SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
ROOM = 20_000
SESSIONS = 10_000
FIVE = {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
UNEQUAL = {1: 5, 2: 3, 3: 7, 4: 1, 5: 10}
SERVER, SERVER_6 = mapped("192.0.2.1"), mapped("2001:db8:ffff::1")
KINDS = [(4, 6), (6, 6), (4, 17), (6, 17)]
"""(family, protocol)"""
WHY = {reason.name: reason.number for reason in reasons.all_reasons()}
SENT, HALF_OPEN = WHY["HANDOFF_SENT"], WHY["HANDOFF_HALF_OPEN"]


def clients(numbers: np.ndarray, family: int = 4) -> np.ndarray:
    """10.0.0.0 + number, v4-mapped; or 2001:db8:: with the number at its end."""
    out = np.zeros((len(numbers), 16), "u1")
    if family == 4:
        out[:, 10:12] = 0xFF
        numbers = 0x0A000000 + numbers
    else:
        out[:, :4] = list(bytes.fromhex("20010db8"))
    out[:, 12:] = numbers.astype(">u4").view("u1").reshape(-1, 4)
    return out


def opening(
    plane: Plane, client: np.ndarray, port: np.ndarray, family: int = 4, protocol: int = 6, prefix: int = 0
) -> np.ndarray:
    """SYNs or first datagrams of those clients, without NAT. ``prefix``: bits 32 to 63 of an IPv6 client's address."""
    ops = np.zeros(len(client), plane.maps["ops"].value)
    who = clients(client, family)
    who[:, 4:8] |= np.frombuffer(prefix.to_bytes(4, "big"), "u1")
    ops["original_saddr"] = ops["reply_daddr"] = who
    ops["original_daddr"] = ops["reply_saddr"] = list(SERVER if family == 4 else SERVER_6)
    ops["original_sport"] = ops["reply_dport"] = port.astype("<u2").byteswap()
    ops["original_dport"] = ops["reply_sport"] = np.uint16(80).byteswap()
    for name in ("original", "reply"):
        ops[f"{name}_protocol"], ops[f"{name}_family"] = protocol, family
    return ops


def run(plane: Plane, ops: np.ndarray) -> np.ndarray:
    """The operations with their results."""
    plane.maps["ops"].view()[: len(ops)] = ops
    plane.maps["next_op"].put(0, np.array(0, "<u8"))
    syscall.run_program(plane.fds["decide_op"], bytes(64), repeat=len(ops))
    return plane.maps["ops"].view()[: len(ops)].copy()


def packets(ops: np.ndarray, flags: int, reply: bool = False) -> np.ndarray:
    out = ops.copy()
    out["kind"], out["flags"], out["reversed"] = PACKET, flags, reply
    return out


def fresh(count: int, clients_: int = 1 << 20, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(client, port) of sessions that differ."""
    numbers = np.arange(first, first + count)
    return numbers % clients_, 1024 + numbers // clients_


def use(plane: Plane, kind: schedule.Kind, weights: dict[int, int]) -> tuple[int, ...]:
    sequence = schedule.sequence(weights, kind)
    decisions.write_schedule(plane.maps, kind, sequence, weights)
    plane.maps["turns"].put(0, np.array(0, "<u8"))
    return sequence


def owners(plane: Plane, count: int = SESSIONS, **how: int) -> list[int]:
    """Of new sessions, each by another client unless told otherwise."""
    done = run(plane, opening(plane, *fresh(count, **how)))
    assert set(done["why"].tolist()) == {SENT}
    out: list[int] = done["owner"].tolist()
    return out


def counted(plane: Plane) -> tuple[dict[int, int], int]:
    """(live by owner, half-open) as the programs count."""
    return decisions.read_live(plane.maps), decisions.read_half_open(plane.maps)


def recounted(plane: Plane) -> tuple[dict[int, int], int]:
    """The same by looking at every record."""
    rows = flows.rows(plane.maps["records"], plane.maps["watermark"])
    live = flows.sessions_by_owner(plane.maps["records"], plane.maps["watermark"])
    return live, int(np.count_nonzero(rows["state"] < flows.ESTABLISHED))
