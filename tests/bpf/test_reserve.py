# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries of others' UDP flows, made in the kernel: as ctnetlink makes them, in a fraction of its time."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Iterator
from statistics import median

import numpy as np
import pytest

from aa_cluster.dataplane import flow_fill, flows
from aa_cluster.dataplane.flow_fill import Hasher
from aa_cluster.dataplane.flows import CLOSED, DATAGRAMS, DEAD, ESTABLISHED, LASTS, STREAM, SYN_SENT
from aa_cluster.dataplane.reserver import Reserved, Reserver
from aa_cluster.netlink import conntrack, ct_bulk
from aa_cluster.netlink.conntrack import ConntrackEntry
from aa_cluster.wire.block import FlowTuple
from tests.bpf.harness import (
    CLIENT,
    OTHER,
    PUBLIC,
    SELF,
    SERVER,
    TABLE_KEY,
    THIRD,
    UDP_PROTOCOL,
    Plane,
    entry,
    tuple_of,
)
from tests.bpf.test_ct_bulk import MAXIMUM, rows

pytestmark = pytest.mark.bpf

LIFETIMES = {SYN_SENT: 60, ESTABLISHED: 432_000, CLOSED: 120, DATAGRAMS: 33, STREAM: 177}
TURNS = 5
MANY, MOST = 100_000, 600_000
EVERY = {"none": (SERVER, CLIENT), "source": (SERVER, PUBLIC), "both": ("10.77.2.7", PUBLIC)}
EVERY6 = {"none": ("fd77:2::100", "fd77:1::100"), "both": ("fd77:2::7", "fd77:2::1")}


@pytest.fixture
def reserver(plane: Plane) -> Iterator[Reserver]:
    reserver = Reserver(os.dup(plane.fds["reserve"]), plane.maps["reserving"], plane.maps["watermark"])
    yield reserver
    reserver.close()


def flow(
    plane: Plane,
    number: int = 1,
    owner: int = OTHER,
    state: int = ESTABLISHED,
    protocol: int = UDP_PROTOCOL,
    ends: tuple[str, str] = (SERVER, PUBLIC),
    ended: int = 0,
) -> tuple[FlowTuple, FlowTuple]:
    """``ends``: where answers come from and where they go, as on the wire."""
    six = ":" in ends[0]
    client, server = ("fd77:1::100", "fd77:2::100") if six else (CLIENT, SERVER)
    original = tuple_of(client, 40000 + number, server, 53, protocol)
    reply = tuple_of(ends[0], 8053 if ends[0].endswith("7") else 53, ends[1], 50000 + number, protocol)
    record = plane.maps["records"].view()[plane.add_flow(original, reply, owner, state)]
    record["mark"], record["ended"] = 0x1100 + number, ended
    return original, reply


def entries() -> list[ConntrackEntry]:
    """Without what passes: the seconds."""
    return sorted((dataclasses.replace(one, timeout=0) for one in conntrack.dump()), key=lambda one: one.original)


def flush() -> None:
    subprocess.run(["conntrack", "-F"], capture_output=True, check=True)


def table(plane: Plane) -> np.ndarray:
    return flows.rows(plane.maps["records"], plane.maps["watermark"], None)


@pytest.mark.parametrize("state", [SYN_SENT, ESTABLISHED])
@pytest.mark.parametrize("ended", [0, LASTS])
@pytest.mark.parametrize("ends", [*EVERY.values(), *EVERY6.values()], ids=[*EVERY, *(f"{one}, IPv6" for one in EVERY6)])
def test_as_ctnetlink_makes_them(
    plane: Plane, reserver: Reserver, state: int, ended: int, ends: tuple[str, str]
) -> None:
    flow(plane, state=state, ended=ended, ends=ends)
    assert reserver.reserve([OTHER], LIFETIMES) == Reserved(1, 0, 0)
    ours, left = entries(), conntrack.dump()[0].timeout
    flush()
    assert ct_bulk.create(table(plane), LIFETIMES).errors == {}
    assert ours == entries()
    assert abs(left - conntrack.dump()[0].timeout) <= 1


def test_only_open_flows_of_these_nodes(plane: Plane, reserver: Reserver) -> None:
    wanted = [flow(plane, 1), flow(plane, 2, THIRD, SYN_SENT)]
    flow(plane, 3, SELF)
    flow(plane, 4, protocol=6)
    for number, state in ((5, CLOSED), (6, DEAD)):
        flow(plane, number, state=state)
    assert reserver.reserve([OTHER], LIFETIMES) == Reserved(1, 0, 0)
    assert reserver.reserve([OTHER, THIRD, 63], LIFETIMES) == Reserved(1, 1, 0)
    assert [one.original.source_port for one in entries()] == [one[0].source_port for one in wanted]


def test_one_that_is_there_is_renewed(plane: Plane, reserver: Reserver) -> None:
    original, reply = flow(plane, ended=LASTS)
    entry(original, reply, 0x1101)
    before = conntrack.dump()[0]
    assert reserver.reserve([OTHER], LIFETIMES) == Reserved(0, 1, 0)
    (after,) = conntrack.dump()
    assert before.timeout <= 120 < after.timeout <= LIFETIMES[STREAM]
    assert (after.original, after.reply, after.mark) == (before.original, before.reply, before.mark)


@pytest.mark.parametrize("which", ["original", "reply"])
def test_a_tuple_that_is_anothers_is_left(plane: Plane, reserver: Reserver, which: str) -> None:
    original, reply = flow(plane)
    other = tuple_of(CLIENT, 39999, SERVER, 53, UDP_PROTOCOL)
    answers = tuple_of(SERVER, 53, PUBLIC, 49999, UDP_PROTOCOL)
    entry(*((original, answers) if which == "original" else (other, reply)))
    before = entries()
    assert reserver.reserve([OTHER], LIFETIMES) == Reserved(0, 0, 1, (1,))
    assert entries() == before


def test_the_first_refused_are_named(plane: Plane, reserver: Reserver) -> None:
    for number in range(1, 71):
        original, _ = flow(plane, number)
        if number > 2:
            entry(original, tuple_of(SERVER, 53, PUBLIC, 30000 + number, UDP_PROTOCOL))
    done = reserver.reserve([OTHER], LIFETIMES)
    assert done == Reserved(2, 0, 68, tuple(range(3, 67)))


def test_no_room(plane: Plane, reserver: Reserver) -> None:
    room = int(MAXIMUM.read_text("ascii"))
    if room > MOST:
        pytest.skip(f"nf_conntrack_max is {room}: too many entries for a test")
    assert ct_bulk.create(rows(room - 8), LIFETIMES).errors == {}
    for number in range(40):
        flow(plane, number)
    done = reserver.reserve([OTHER], LIFETIMES)
    flush()
    assert (done.made + done.refused, done.present) == (40, 0)
    assert 7 <= done.made <= 9
    assert len(set(done.which)) == done.refused


def test_faster_than_ctnetlink(plane: Plane, reserver: Reserver) -> None:
    """Of a whole table, the same in turns; medians, since a turn of few entries is over in a millisecond."""
    room = min(MANY, int(plane.maps["records"].info.entries) // 2)
    many = rows(room, protocol=UDP_PROTOCOL)
    many["owner"], many["state"] = OTHER, ESTABLISHED
    placed = int(flow_fill.insert(plane.maps, Hasher(TABLE_KEY), many).sum())
    took: dict[str, list[float]] = {"reserve": [], "ctnetlink": []}
    for _ in range(TURNS):
        for name, turns in took.items():
            flush()
            start = time.perf_counter()
            if name == "reserve":
                assert reserver.reserve([OTHER], LIFETIMES) == Reserved(placed, 0, 0)
            else:
                assert ct_bulk.create(table(plane), LIFETIMES).done == placed
            turns.append(1e6 * (time.perf_counter() - start) / placed)
    flush()
    for name, turns in took.items():
        print(f"{name}: {median(turns):.2f} µs an entry ({min(turns):.2f} to {max(turns):.2f}, {placed} entries)")
    assert median(took["reserve"]) < median(took["ctnetlink"])
