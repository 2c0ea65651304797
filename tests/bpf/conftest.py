# SPDX-License-Identifier: GPL-2.0-or-later
"""The loaded programs, once for all tests of this folder, reset before each; or what a dataplane of one's own needs."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import netns

from aa_cluster.dataplane import programs as loader
from aa_cluster.dataplane.bpffs import mount_bpffs
from aa_cluster.dataplane.flows import HASH_KEY_BYTES
from aa_cluster.dataplane.settings import Port, Settings
from tests.bpf.harness import Plane, loaded, namespace

PHYSICAL, VIRTUAL = b"\2\0\0\0\0\1", b"\2\xaa\0\7\0\0"


@pytest.fixture(scope="session")
def object_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def loaded_plane(root: None, object_cache: Path) -> Iterator[Plane]:
    with namespace(f"bpf{os.getpid()}"), loaded(object_cache) as plane:
        yield plane


@pytest.fixture
def plane(loaded_plane: Plane) -> Plane:
    loaded_plane.reset()
    return loaded_plane


@pytest.fixture
def settings(root: None, object_cache: Path, tmp_path: Path) -> Iterator[Settings]:
    """One data interface and an HA link in a namespace that is this process's for the test."""
    name = f"ld{os.getpid()}"
    mount_bpffs()
    pins = Path("/sys/fs/bpf/aa-cluster") / name
    netns.create(name)
    netns.pushns(name)
    try:
        for pair in ("d", "h"):
            subprocess.run(["ip", "link", "add", f"{pair}0", "type", "veth", "peer", "name", f"{pair}1"], check=True)
            subprocess.run(["ip", "link", "set", f"{pair}0", "up"], check=True)
        port = Port(0, "d0", socket.if_nametoindex("d0"), PHYSICAL, VIRTUAL, 1500)
        yield Settings(
            role="primary",
            cluster_id=7,
            node_id=1,
            primary_id=1,
            generation=1,
            epoch=1,
            block_key=bytes(16),
            table_key=bytes(range(HASH_KEY_BYTES)),
            ports=(port,),
            ha_ifindex=socket.if_nametoindex("h0"),
            ha_mac=PHYSICAL,
            primary_ha_mac=PHYSICAL,
            xdp="auto",
            flow_entries=1024,
            pins=pins,
            cache=object_cache,
        )
    finally:
        netns.popns()
        netns.remove(name)
        loader.remove(pins)
