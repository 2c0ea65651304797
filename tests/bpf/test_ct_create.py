# SPDX-License-Identifier: GPL-2.0-or-later
"""Conntrack entries made by ctnetlink, in a namespace of their own: NAT, mark, helper."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aa_cluster.errors import NetlinkError
from aa_cluster.netlink import conntrack, ct_create
from aa_cluster.netlink.conntrack import NAT, Status, Tuple
from aa_cluster.netlink.ct_create import NewEntry
from tests.bpf.harness import namespace

pytestmark = pytest.mark.bpf

CONTROL = Tuple(4, 6, "10.77.1.100", 40000, "10.77.1.1", 2121)
TRANSLATED = Tuple(4, 6, "10.77.2.1", 50000, "10.77.2.100", 21)


@pytest.fixture
def own_namespace(root: None) -> Iterator[None]:
    with namespace(f"ctc{os.getpid()}"):
        yield


def entry(original: Tuple = CONTROL, translated: Tuple = TRANSLATED, helper: str = "ftp") -> NewEntry:
    return NewEntry(original, translated, mark=0x11, helper=helper, timeout=60)


@pytest.mark.usefixtures("own_namespace")
def test_the_entry_is_as_netfilter_would_have_made_it() -> None:
    assert ct_create.create(entry())
    found = conntrack.find(CONTROL)
    assert found is not None
    assert found.reply == Tuple(4, 6, "10.77.2.100", 21, "10.77.2.1", 50000)
    assert found.status & (NAT | Status.CONFIRMED | Status.HELPER) == NAT | Status.CONFIRMED | Status.HELPER
    assert (found.mark, found.tcp_state) == (0x11, "NONE")
    assert 0 < found.timeout <= 60


KINDS = {
    (family, protocol): (
        Tuple(family, protocol, client, 40000, public, 2121),
        Tuple(family, protocol, out, 50000, to, 21),
    )
    for family, client, public, out, to in (
        (4, "10.77.1.100", "10.77.1.1", "10.77.2.1", "10.77.2.100"),
        (6, "fd77:1::100", "fd77:1::1", "fd77:2::1", "fd77:2::100"),
    )
    for protocol in (6, 17)
}


@pytest.mark.usefixtures("own_namespace")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_both_families_and_protocols(kind: tuple[int, int]) -> None:
    original, translated = KINDS[kind]
    helper = "ftp" if kind[1] == 6 else ""
    assert ct_create.create(entry(original, translated, helper))
    found = conntrack.find(original)
    assert found is not None
    assert found.original == original
    back = (translated.destination, translated.destination_port, translated.source, translated.source_port)
    assert found.reply == Tuple(*kind, *back)
    assert found.status & (NAT | Status.CONFIRMED | Status.SEEN_REPLY) == NAT | Status.CONFIRMED
    assert bool(found.status & Status.HELPER) == bool(helper)
    assert (found.mark, found.tcp_state) == (0x11, "NONE" if kind[1] == 6 else None)
    assert [one.original for one in conntrack.dump(kind[0])] == [original]
    assert conntrack.dump(10 - kind[0]) == []
    assert conntrack.delete(original)
    assert not conntrack.delete(original)


@pytest.mark.usefixtures("own_namespace")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_translation(kind: tuple[int, int]) -> None:
    plain = KINDS[kind][1]
    assert ct_create.create(entry(plain, plain, ""))
    found = conntrack.find(plain)
    assert found is not None
    assert found.status & NAT == 0
    assert found.status & Status.SRC_NAT_DONE
    assert found.status & Status.DST_NAT_DONE, "no rule decides any more"


@pytest.mark.usefixtures("own_namespace")
def test_a_tuple_that_is_taken() -> None:
    assert ct_create.create(entry())
    assert not ct_create.create(entry()), "the original one"
    other = Tuple(4, 6, "10.77.1.101", 40000, "10.77.1.1", 2121)
    assert not ct_create.create(entry(other)), "the translated one"


@pytest.mark.usefixtures("own_namespace")
def test_a_helper_that_the_kernel_does_not_have() -> None:
    with pytest.raises(NetlinkError, match="no conntrack helper nosuch"):
        ct_create.create(entry(helper="nosuch"))
    assert conntrack.find(CONTROL) is None
