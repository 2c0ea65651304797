# SPDX-License-Identifier: GPL-2.0-or-later
"""What two nodes compare of an entry."""

import dataclasses

from aa_cluster.netlink.conntrack import ConntrackEntry, Status, Tuple

ENTRY = ConntrackEntry(
    original=Tuple(4, 6, "10.77.1.100", 40000, "10.77.2.100", 80),
    reply=Tuple(4, 6, "10.77.2.100", 80, "10.77.2.1", 1024),
    mark=7,
    status=Status.CONFIRMED | Status.SRC_NAT | Status.SRC_NAT_DONE | Status.ASSURED,
    timeout=431999,
    tcp_state="ESTABLISHED",
    zone=0,
)


def test_decision_ignores_what_each_node_sees_for_itself():
    other = dataclasses.replace(
        ENTRY, status=Status.SRC_NAT | Status.SEEN_REPLY, timeout=5, tcp_state="SYN_SENT", zone=ENTRY.zone
    )
    assert other.decision == ENTRY.decision


def test_decision_holds_tuples_mark_and_nat():
    reply = dataclasses.replace(ENTRY.reply, destination_port=1025)
    for change in ({"reply": reply}, {"mark": 8}, {"status": Status.CONFIRMED}):
        assert dataclasses.replace(ENTRY, **change).decision != ENTRY.decision


def test_tuple_reads_well():
    assert str(ENTRY.original) == "6 10.77.1.100:40000 → 10.77.2.100:80"
    assert str(Tuple(6, 6, "fd00::1", 1, "fd00::2", 2)) == "6 [fd00::1]:1 → [fd00::2]:2"
