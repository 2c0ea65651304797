# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node that was the primary a moment ago does with frames for the virtual MACs."""

from __future__ import annotations

import pytest

from tests.bpf.harness import OTHER, PUBLIC, SERVER, XDP_PASS, XDP_TX, Plane, node_mac, segment, tuple_of

pytestmark = pytest.mark.bpf

SESSION = tuple_of("10.77.1.100", 40000, SERVER, 80)


@pytest.mark.parametrize("flags", ["S", "SEC", "SA", "A", "FA", "R"])
def test_frames_go_on_to_the_new_primary(plane: Plane, flags: str) -> None:
    """Also those that begin a session: whether one may begin is for that one to say."""
    plane.configure(primary=OTHER, heir=OTHER)
    ran = plane.run("relinquish", segment(SESSION, flags))
    assert (ran.verdict, ran.packet.dst, ran.why) == (XDP_TX, node_mac(OTHER), {"RELINQUISH_TX": 1})


def test_what_is_not_for_the_virtual_mac_is_let_in(plane: Plane) -> None:
    frame = segment(tuple_of(PUBLIC, 40000, SERVER, 80), "S")
    frame.dst = "02:00:00:00:00:77"
    ran = plane.run("relinquish", frame)
    assert (ran.verdict, ran.why) == (XDP_PASS, {"RELINQUISH_OTHER": 1})
