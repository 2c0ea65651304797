# SPDX-License-Identifier: GPL-2.0-or-later
"""Conntrack entries by the thousand, in a namespace of their own: made, changed, removed; what is refused; how fast."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from aa_cluster.dataplane.flows import CLOSED, DATAGRAMS, ESTABLISHED, FLOW_ROW, LASTS, STREAM, SYN_SENT
from aa_cluster.errors import NetlinkError
from aa_cluster.netlink import conntrack, ct_bulk, ct_create
from aa_cluster.netlink.conntrack import NAT, Status, Tuple
from aa_cluster.netlink.ct_bulk import Outcome
from aa_cluster.netlink.ct_create import NewEntry
from aa_cluster.netlink.ct_messages import LIBERAL
from tests.bpf.harness import entry, namespace, tuple_of

pytestmark = [pytest.mark.bpf, pytest.mark.usefixtures("own_namespace")]

LIFETIMES = {SYN_SENT: 60, ESTABLISHED: 432_000, CLOSED: 120, DATAGRAMS: 33, STREAM: 177}
MANY = 100_000
MAXIMUM = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@pytest.fixture
def own_namespace(root: None) -> Iterator[None]:
    with namespace(f"ctb{os.getpid()}"):
        yield


def mapped(address: str) -> np.ndarray:
    parsed = ip_address(address)
    return np.frombuffer(parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed, "u1")


def row(original: Tuple, reply: Tuple, state: int = ESTABLISHED, mark: int = 0x11, ended: int = 0) -> np.ndarray:
    out = np.zeros(1, FLOW_ROW)
    for one, prefix in ((original, ""), (reply, "reply_")):
        out[f"{prefix}saddr"], out[f"{prefix}daddr"] = mapped(one.source), mapped(one.destination)
        out[f"{prefix}sport"], out[f"{prefix}dport"] = one.source_port, one.destination_port
    out["family"], out["protocol"], out["state"], out["mark"] = original.family, original.protocol, state, mark
    out["ended"] = ended
    return out


KINDS = [(4, 6), (6, 6), (4, 17), (6, 17)]
"""(family, protocol)"""


def rows(count: int, family: int = 4, protocol: int = 6) -> np.ndarray:
    """Sessions of 400 clients with one server, behind one address."""
    number = np.arange(count)
    out = np.repeat(row(*((ORIGINAL, MASQUERADED) if family == 4 else (ORIGINAL_6, MASQUERADED_6))), count)
    out["saddr"][:, 14], out["saddr"][:, 15] = number // 65536, number // 256 % 256
    out["sport"] = 2000 + number % 256
    out["reply_dport"] = 1024 + number % 60000
    out["dport"] = out["reply_sport"] = 80 + number // 60000
    out["protocol"] = protocol
    return out


def mixed(count: int) -> np.ndarray:
    """So many, of all four kinds in turn."""
    each = [rows(-(-count // len(KINDS)), *kind) for kind in KINDS]
    return np.stack(each, axis=1).reshape(-1)[:count]


ORIGINAL = Tuple(4, 6, "10.77.1.100", 40000, "10.77.2.100", 80)
PLAIN = Tuple(4, 6, "10.77.2.100", 80, "10.77.1.100", 40000)
MASQUERADED = Tuple(4, 6, "10.77.2.100", 80, "10.77.2.1", 50000)
PUBLISHED = Tuple(4, 6, "10.77.2.7", 8080, "10.77.1.100", 40000)
BOTH = Tuple(4, 6, "10.77.2.7", 8080, "10.77.2.1", 50000)
ORIGINAL_6 = Tuple(6, 6, "fd77:1::100", 40000, "fd77:2::100", 80)
MASQUERADED_6 = Tuple(6, 6, "fd77:2::100", 80, "fd77:2::1", 50000)
DATAGRAM = Tuple(4, 17, "10.77.1.100", 40000, "10.77.2.100", 53)
DATAGRAM_REPLY = Tuple(4, 17, "10.77.2.100", 53, "10.77.2.1", 50000)
DATAGRAM_6 = Tuple(6, 17, "fd77:1::100", 40000, "fd77:2::100", 53)
BOTH_6 = Tuple(6, 17, "fd77:2::7", 8053, "fd77:2::1", 50000)
PREFIX_6 = Tuple(6, 6, "fd77:2::100", 80, "2001:db8:77::100", 40000)
SETTLED = Status.CONFIRMED | Status.SEEN_REPLY | Status.ASSURED


@pytest.mark.parametrize(
    ("original", "reply", "nat"),
    [
        (ORIGINAL, PLAIN, Status(0)),
        (ORIGINAL, MASQUERADED, Status.SRC_NAT),
        (ORIGINAL, PUBLISHED, Status.DST_NAT),
        (ORIGINAL, BOTH, NAT),
        (ORIGINAL_6, MASQUERADED_6, Status.SRC_NAT),
        (ORIGINAL_6, PREFIX_6, Status.SRC_NAT),
        (DATAGRAM, DATAGRAM_REPLY, Status.SRC_NAT),
        (DATAGRAM_6, BOTH_6, NAT),
    ],
    ids=["none", "source", "destination", "both", "IPv6", "IPv6 prefix", "UDP", "UDP IPv6, both"],
)
def test_made_as_the_row_says(original: Tuple, reply: Tuple, nat: Status) -> None:
    assert ct_bulk.create(row(original, reply), LIFETIMES).errors == {}
    found = conntrack.find(original)
    assert found is not None
    assert (found.original, found.reply, found.mark) == (original, reply, 0x11)
    assert found.status & NAT == nat
    assert found.status & SETTLED == SETTLED
    assert found.status & Status.SRC_NAT_DONE, "no rule decides any more"
    assert found.status & Status.DST_NAT_DONE, "no rule decides any more"
    assert found.tcp_state == ("ESTABLISHED" if original.protocol == 6 else None)
    lifetime = 432_000 if original.protocol == 6 else LIFETIMES[DATAGRAMS]
    assert lifetime - 10 < found.timeout <= lifetime


UDP_STATES = [
    (SYN_SENT, 0, Status.CONFIRMED, DATAGRAMS),
    (SYN_SENT, LASTS, Status.CONFIRMED, DATAGRAMS),
    (ESTABLISHED, 0, SETTLED, DATAGRAMS),
    (ESTABLISHED, LASTS, SETTLED, STREAM),
]


@pytest.mark.parametrize(("original", "reply"), [(DATAGRAM, DATAGRAM_REPLY), (DATAGRAM_6, BOTH_6)], ids=["4", "6"])
@pytest.mark.parametrize(("state", "ended", "status", "timeout"), UDP_STATES)
@pytest.mark.parametrize("there", [False, True], ids=["missing", "there"])
def test_a_udp_entry_is_as_old_as_its_flow(
    original: Tuple, reply: Tuple, state: int, ended: int, status: Status, timeout: int, there: bool
) -> None:
    """Made, or brought up to date from what the first datagram left: the same."""
    if there:
        translated = Tuple(
            original.family, 17, reply.destination, reply.destination_port, reply.source, reply.source_port
        )
        assert ct_create.create(NewEntry(original, translated, 0x11, "", 5))
    wanted = row(original, reply, state, ended=ended)
    outcome = ct_bulk.update(wanted, LIFETIMES) if there else ct_bulk.create(wanted, LIFETIMES)
    assert (outcome.done, outcome.errors) == (1, {})
    found = conntrack.find(original)
    assert found is not None
    assert (found.original, found.reply, found.mark, found.tcp_state) == (original, reply, 0x11, None)
    assert found.status & SETTLED == status
    assert LIFETIMES[timeout] - 5 < found.timeout <= LIFETIMES[timeout]


@pytest.mark.parametrize(("original", "reply"), [(DATAGRAM, DATAGRAM_REPLY), (DATAGRAM_6, BOTH_6)], ids=["4", "6"])
def test_what_conntrack_has_seen_of_a_udp_session_is_not_undone(original: Tuple, reply: Tuple) -> None:
    """The flow was told of before its answer: the entry knows better."""
    assert ct_bulk.create(row(original, reply), LIFETIMES).errors == {}
    assert ct_bulk.update(row(original, reply, SYN_SENT), LIFETIMES).errors == {}
    found = conntrack.find(original)
    assert found is not None
    assert found.status & SETTLED == SETTLED


def test_what_is_neither_tcp_nor_udp_is_refused_by_name() -> None:
    """No row is silently left out."""
    odd = np.concatenate([row(ORIGINAL, MASQUERADED), row(DATAGRAM, DATAGRAM_REPLY)])
    odd["protocol"][0] = 132
    odd["family"][1] = 0
    for outcome in (ct_bulk.create(odd, LIFETIMES), ct_bulk.update(odd, LIFETIMES), ct_bulk.delete(odd)):
        assert outcome.errors == {"EPROTONOSUPPORT": 2}


def test_half_open_and_ended() -> None:
    closed = Tuple(4, 6, "10.77.1.100", 40001, "10.77.2.100", 80)
    both = np.concatenate(
        [
            row(ORIGINAL, PLAIN, SYN_SENT),
            row(closed, Tuple(4, 6, "10.77.2.100", 80, "10.77.1.100", 40001), CLOSED),
        ]
    )
    assert ct_bulk.create(both, LIFETIMES).errors == {}
    begun, ended = conntrack.find(ORIGINAL), conntrack.find(closed)
    assert begun is not None
    assert ended is not None
    assert (begun.tcp_state, begun.status & SETTLED) == ("SYN_RECV", Status.CONFIRMED | Status.SEEN_REPLY)
    assert (ended.tcp_state, ended.timeout <= 120) == ("TIME_WAIT", True)


def tcp_flags() -> list[int]:
    """Of both directions of all entries; conntrack(8) does not show them."""
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

    with NFCTSocket() as link:
        infos = [m.get_attr("CTA_PROTOINFO").get_attr("CTA_PROTOINFO_TCP") for m in link.dump()]
    names = ("CTA_PROTOINFO_TCP_FLAGS_ORIGINAL", "CTA_PROTOINFO_TCP_FLAGS_REPLY")
    return [int(info.get_attr(name)[0]) for info in infos for name in names]


def test_what_a_syn_left_is_brought_up_to_date() -> None:
    """Marks and NAT stay; flags say that windows are not judged, in both directions."""
    entry(
        tuple_of(ORIGINAL.source, ORIGINAL.source_port, ORIGINAL.destination, ORIGINAL.destination_port),
        tuple_of(MASQUERADED.source, MASQUERADED.source_port, MASQUERADED.destination, MASQUERADED.destination_port),
    )
    before = conntrack.find(ORIGINAL)
    assert before is not None
    assert ct_bulk.update(row(ORIGINAL, MASQUERADED, mark=7), LIFETIMES).errors == {}
    after = conntrack.find(ORIGINAL)
    assert after is not None
    assert after.decision == before.decision
    assert (after.tcp_state, after.status & SETTLED) == ("ESTABLISHED", SETTLED)
    assert after.timeout > 431_000
    assert len(tcp_flags()) == 2
    assert all(flags & LIBERAL for flags in tcp_flags())


@pytest.mark.parametrize("change", [ct_bulk.update, lambda rows, _: ct_bulk.delete(rows)], ids=["update", "delete"])
def test_a_foreign_entry_is_left_alone(change: Callable[[np.ndarray, dict[int, int]], Outcome]) -> None:
    """One that has only one of the tuples, and one that is not there at all."""
    assert ct_create.create(NewEntry(ORIGINAL, ORIGINAL, 1, "", 60))
    others = Tuple(4, 6, "10.77.1.101", 40000, "10.77.2.100", 80)
    wrong = np.concatenate([row(ORIGINAL, MASQUERADED), row(others, PLAIN), row(others, MASQUERADED)])
    outcome = change(wrong, LIFETIMES)
    assert (outcome.done, outcome.errors) == (0, {"ENOENT": 3})
    found = conntrack.find(ORIGINAL)
    assert found is not None
    assert found.tcp_state == "NONE"


def test_what_is_there_already() -> None:
    """Its own is updated, or left; another's tuple is refused, and is not touched."""
    assert ct_create.create(NewEntry(ORIGINAL, ORIGINAL, 1, "", 60))
    clash = row(Tuple(4, 6, "10.77.1.101", 40000, "10.77.2.100", 80), PLAIN)
    both = np.concatenate([row(ORIGINAL, PLAIN), clash])
    left = ct_bulk.create(both, LIFETIMES, existing="leave")
    assert (left.existing, left.errors) == (1, {"EEXIST": 1})
    found = conntrack.find(ORIGINAL)
    assert found is not None
    assert found.tcp_state == "NONE"
    updated = ct_bulk.create(both, LIFETIMES)
    assert (updated.done, updated.existing, updated.errors) == (1, 1, {"EEXIST": 1})
    found = conntrack.find(ORIGINAL)
    assert found is not None
    assert (found.tcp_state, found.mark) == ("ESTABLISHED", 1)
    assert len(conntrack.dump()) == 1


@pytest.mark.parametrize("same", ["original", "reply"])
def test_who_has_one_of_the_tuples_goes(same: str) -> None:
    """A session that ended on this node may have had the client's port, or the public one, that another has now."""
    stranger = Tuple(4, 6, "10.77.1.101", 40001, "10.77.2.100", 80)
    public = Tuple(4, 6, "10.77.2.1", 50000, "10.77.2.100", 80)
    kept = (ORIGINAL, ORIGINAL) if same == "original" else (stranger, public)
    assert ct_create.create(NewEntry(*kept, 1, "", 60))
    wanted = row(ORIGINAL, MASQUERADED, mark=7)
    assert ct_bulk.create(wanted, LIFETIMES).errors == {"EEXIST": 1}
    assert ct_bulk.create(wanted, LIFETIMES, existing="replace").errors == {}
    (found,) = conntrack.dump()
    assert (found.original, found.mark, found.tcp_state) == (ORIGINAL, 7, "ESTABLISHED")


def test_a_full_table_is_an_error_that_says_so() -> None:
    """Filled for real: the limit is the machine's, and not this namespace's to change."""
    room = int(MAXIMUM.read_text())
    if room > 600_000:
        pytest.skip(f"nf_conntrack_max is {room}: too many entries for a test")
    outcome = ct_bulk.create(rows(room + 3000), LIFETIMES)
    assert outcome.errors == {"ENOMEM": room + 3000 - outcome.done}
    assert abs(outcome.done - room) <= 1
    assert ct_bulk.room() <= 1
    assert not outcome.failed[: outcome.done].any()
    words = rf"conntrack table is full \({outcome.done} of {room} .*; {outcome.done} of"
    with pytest.raises(NetlinkError, match=words):
        outcome.require("create conntrack entries")


@pytest.mark.parametrize("make", [rows, mixed])
def test_a_refused_row_does_not_keep_the_others(make: Callable[[int], np.ndarray]) -> None:
    many = make(5000)
    assert ct_bulk.create(many[1::2], LIFETIMES).done == 2500
    outcome = ct_bulk.update(many, LIFETIMES)
    assert (outcome.codes[0::2] == errno.ENOENT).all()
    assert (outcome.codes[1::2] == 0).all()
    assert ct_bulk.create(many, LIFETIMES).existing == 2500
    assert len(conntrack.dump()) == 5000


NAMES = ["saddr", "daddr", "sport", "dport", "reply_saddr", "reply_daddr", "reply_sport", "reply_dport"]
NAMES += ["protocol", "family"]


def sorted_tuples(of: np.ndarray) -> list[bytes]:
    plain = np.zeros(len(of), np.dtype([(name, FLOW_ROW[name]) for name in NAMES]))
    for name in NAMES:
        plain[name] = of[name]
    return sorted(one.tobytes() for one in plain)


def test_all_four_kinds_are_read_and_nothing_else() -> None:
    many = mixed(20_000)
    assert ct_bulk.create(many, LIFETIMES).errors == {}
    assert sorted_tuples(ct_bulk.read()) == sorted_tuples(many)
    assert ct_bulk.check(many).done == len(many)
    some = many[::3]
    assert ct_bulk.delete(some).errors == {}
    left = np.delete(many, np.arange(0, len(many), 3))
    assert sorted_tuples(ct_bulk.read()) == sorted_tuples(left)


def test_a_read_of_an_empty_table() -> None:
    assert len(ct_bulk.read()) == 0


@pytest.mark.parametrize(("family", "protocol"), KINDS, ids=["TCP", "TCP IPv6", "UDP", "UDP IPv6"])
def test_a_hundred_thousand(family: int, protocol: int) -> None:
    many, told = rows(MANY, family, protocol), []
    for name, work in (("create", ct_bulk.create), ("update", ct_bulk.update)):
        start = time.perf_counter()
        outcome = work(many, LIFETIMES)
        took = time.perf_counter() - start
        told.append(f"{name} {1e6 * took / MANY:.2f} µs")
        assert (outcome.done, outcome.errors) == (MANY, {})
        assert took < 1.0
    start = time.perf_counter()
    found = ct_bulk.read()
    told.append(f"read {1e6 * (time.perf_counter() - start) / MANY:.2f} µs")
    assert sorted_tuples(found) == sorted_tuples(many)
    start = time.perf_counter()
    assert ct_bulk.check(many).done == MANY
    told.append(f"check {1e6 * (time.perf_counter() - start) / MANY:.2f} µs")
    start = time.perf_counter()
    assert ct_bulk.delete(many).done == MANY
    told.append(f"delete {1e6 * (time.perf_counter() - start) / MANY:.2f} µs")
    print(f"{MANY} entries, each: {', '.join(told)}")
    assert conntrack.dump() == []
