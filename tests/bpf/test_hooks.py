# SPDX-License-Identifier: GPL-2.0-or-later
"""What leaves a data interface while a node's role changes."""

from __future__ import annotations

import dataclasses
import errno
import socket
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from aa_cluster.dataplane.hooks import Hooks
from aa_cluster.dataplane.plane import Dataplane
from aa_cluster.dataplane.settings import Settings

pytestmark = pytest.mark.bpf

FRAME = bytes.fromhex("020000000002 020000000001 0800") + bytes(46)
ETH_P_IP = 0x0800
WAIT = 0.2
"""Seconds within which a frame that was let out has come."""


@pytest.fixture
def primary(settings: Settings) -> Iterator[Dataplane]:
    plane = Dataplane(settings)
    plane.start()
    plane.prepare_standby()
    yield plane
    plane.stop()


def gets_out() -> bool:
    """One frame of the node itself, sent on its data interface, comes out of the cable's other end."""
    subprocess.run(["ip", "link", "set", "d1", "up"], check=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as end:
        end.bind(("d1", ETH_P_IP))
        end.settimeout(WAIT)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as node:
            node.bind(("d0", 0))
            try:
                node.send(FRAME)
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # as the kernel calls it when a program dropped the frame
                    raise
                return False
        return end.recv(2048) == FRAME


def auxiliary(settings: Settings) -> Settings:
    return dataclasses.replace(settings, role="auxiliary", primary_id=2, generation=2)


def test_a_silent_primary(primary: Dataplane, settings: Settings) -> None:
    assert gets_out()
    primary.be_silent()
    assert not gets_out()
    primary.speak_again()
    assert gets_out()
    primary.be_silent()
    second = Dataplane(settings)  # as an agent that begins anew
    second.start()
    assert gets_out()
    second.stop()


@pytest.mark.parametrize("silent_before", [False, True])
def test_without_heir_nothing_leaves_until_the_macs_are_physical(
    primary: Dataplane, settings: Settings, silent_before: bool
) -> None:
    """Somebody else has the virtual MACs already, and this node's interfaces have them still."""
    if silent_before:
        primary.be_silent()
    primary.change_role(auxiliary(settings))
    assert not gets_out()
    primary.speak_again()
    assert gets_out()
    primary.change_role(auxiliary(settings))
    primary.change_role(dataclasses.replace(settings, generation=3))
    assert gets_out()


def test_with_an_heir_sessions_go_on(primary: Dataplane, settings: Settings) -> None:
    primary.change_role(auxiliary(settings), heir=True)
    assert gets_out()


def test_no_session_begins_until_every_hook_has_changed(
    primary: Dataplane, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SYN let through meanwhile would be the former primary's secret."""
    seen: list[int] = []
    change = Hooks.change

    def watched(hooks: Hooks, fds: Mapping[str, int], before: Settings, heir: bool) -> None:
        seen.append(heir_of(primary))
        change(hooks, fds, before, heir)
        seen.append(heir_of(primary))

    monkeypatch.setattr(Hooks, "change", watched)
    primary.set_heir(2)
    primary.update(dataclasses.replace(settings, epoch=settings.epoch + 1))
    assert heir_of(primary) == 2
    primary.change_role(auxiliary(settings), heir=True)
    assert (seen, heir_of(primary)) == ([2, 2], 0)


def heir_of(plane: Dataplane) -> int:
    """As the programs see it."""
    return int(plane._maps["config"].view()["heir"][0])
