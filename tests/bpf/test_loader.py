# SPDX-License-Identifier: GPL-2.0-or-later
"""The loader: refusals that say why, pins that outlive the process, replacement without a gap, a clean end."""

from __future__ import annotations

import dataclasses
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aa_cluster.core import persistence, schedule
from aa_cluster.core.policy import Mark, Ports, Rule
from aa_cluster.dataplane import kfuncs, syscall
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane import programs as loader
from aa_cluster.dataplane.btf import Btf
from aa_cluster.dataplane.decisions import PolicyHits
from aa_cluster.dataplane.maps import open_all
from aa_cluster.dataplane.object import MapDeclaration, Object, Program
from aa_cluster.dataplane.plane import Dataplane
from aa_cluster.dataplane.settings import Member, Settings
from aa_cluster.errors import DataplaneError, KernelTooOld
from tests.bpf.conftest import PHYSICAL

pytestmark = pytest.mark.bpf

MOV_R0_2 = struct.pack("<BBhi", 0xB7, 0, 0, 2)
EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


def shown(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def hooks() -> str:
    filters = [shown("tc", "filter", "show", "dev", "d0", way) for way in ("ingress", "egress")]
    return shown("ip", "-d", "link", "show", "d0") + "".join(filters) + shown("tc", "qdisc", "show")


@pytest.mark.parametrize("role", ["primary", "auxiliary"])
def test_start_and_stop_leave_no_trace(settings: Settings, role: str) -> None:
    before = hooks()
    plane = Dataplane(dataclasses.replace(settings, role=role))  # type: ignore[arg-type]
    plane.start()
    assert plane.detached_hooks() == []
    assert Dataplane.pinned(settings.pins)
    assert hooks() != before
    plane.stop()
    plane.stop()
    assert hooks() == before
    assert not settings.pins.exists()


def test_a_qdisc_and_a_filter_of_somebody_elses_stay(settings: Settings) -> None:
    subprocess.run(["tc", "qdisc", "add", "dev", "d0", "clsact"], check=True)
    other = ["tc", "filter", "add", "dev", "d0", "ingress", "prio", "7", "protocol", "all", "bpf"]
    subprocess.run([*other, "bytecode", "1,6 0 0 0,"], check=True)
    before = hooks()
    plane = Dataplane(settings)
    plane.start()
    plane.stop()
    assert hooks() == before


def test_a_second_process_picks_up_where_the_first_left(settings: Settings) -> None:
    first = Dataplane(settings)
    first.start()
    first.set_members([Member(1, PHYSICAL, (PHYSICAL,)), Member(2, PHYSICAL, (PHYSICAL,))])
    first.set_sequence([1, 2])
    ids = program_ids()
    first.close()

    second = Dataplane(settings)
    second.start()
    assert program_ids() == ids, "nothing was loaded anew"
    assert second.sessions_by_owner() == {}
    second.stop()


def program_ids() -> list[str]:
    return [word for word in hooks().split() if word.isdigit() and len(word) > 1]


def test_another_version_replaces_hook_by_hook_on_the_same_maps(settings: Settings) -> None:
    first = Dataplane(settings)
    first.start()
    first.set_sequence([1])
    (old,) = settings.pins.glob("programs-*")
    first.close()

    class Newer(Dataplane):
        def _defines(self) -> dict[str, int]:
            return kfuncs.offsets() | {"AA_SWEEP_BITE": 16}

    second = Newer(settings)
    second.start()
    (new,) = settings.pins.glob("programs-*")
    assert new != old
    assert second.detached_hooks() == []
    second.stop()


def test_a_hook_that_lost_its_program_is_named(settings: Settings) -> None:
    plane = Dataplane(settings)
    plane.start()
    subprocess.run(["ip", "link", "set", "d0", "xdp", "off"], check=True)
    assert [(point.hook, point.program) for point in plane.detached_hooks()] == [("xdp", "steer")]
    plane.stop()


PASS = MOV_R0_2 + EXIT


@pytest.fixture
def other_xdp(settings: Settings) -> None:
    """Somebody else's XDP program on the data interface."""
    pin = settings.pins.with_name(f"{settings.pins.name}-other")
    pin.parent.mkdir(parents=True, exist_ok=True)
    fd = syscall.prog_load(syscall.PROG_XDP, PASS, "firewall")
    syscall.obj_pin(fd, str(pin))
    os.close(fd)
    try:
        subprocess.run(["ip", "-force", "link", "set", "d0", "xdp", "pinned", str(pin)], check=True)
    finally:
        pin.unlink()


def test_an_xdp_program_of_somebody_elses_is_left_alone(settings: Settings, other_xdp: None) -> None:
    before = hooks()
    plane = Dataplane(settings)
    with pytest.raises(DataplaneError, match="carries an XDP program already, 'firewall'"):
        plane.start()
    assert hooks() == before
    plane.stop()
    assert hooks() == before


def test_a_program_put_in_the_place_of_ours_is_noticed(settings: Settings, request: pytest.FixtureRequest) -> None:
    plane = Dataplane(settings)
    plane.start()
    request.getfixturevalue("other_xdp")
    assert [(point.hook, point.program) for point in plane.detached_hooks()] == [("xdp", "steer")]
    plane.stop()
    assert "xdp" in shown("ip", "-d", "link", "show", "d0")


def test_pinned_maps_of_another_layout_are_refused(settings: Settings) -> None:
    maps_dir = settings.pins / "maps"
    maps_dir.mkdir(parents=True)
    fd = syscall.map_create(syscall.MAP_ARRAY, 4, 48, 1, 0, "config")
    syscall.obj_pin(fd, str(maps_dir / "config"))
    os.close(fd)
    with pytest.raises(DataplaneError, match=r"pinned map .*config has .* expects") as caught:
        Dataplane(settings).start()
    assert "leave" in caught.value.hint


def test_an_interface_that_is_gone_has_no_hooks(settings: Settings) -> None:
    plane = Dataplane(settings)
    plane.start()
    subprocess.run(["ip", "link", "del", "d0"], check=True)
    ours = settings.ports[0].ifindex
    assert {point.hook for point in plane.detached_hooks() if point.ifindex == ours} == {"xdp", "ingress", "egress"}
    assert plane.xdp_modes() == {"d0": "none"}
    plane.stop()
    assert not settings.pins.exists()


def test_generic_where_native_is_asked_away(settings: Settings) -> None:
    plane = Dataplane(dataclasses.replace(settings, xdp="generic"))
    plane.start()
    assert plane.xdp_modes() == {"d0": "generic"}
    plane.stop()


@pytest.mark.parametrize("role", ["primary", "auxiliary"])
def test_from_cold_to_attached_in_five_seconds(settings: Settings, tmp_path: Path, role: str) -> None:
    plane = Dataplane(dataclasses.replace(settings, role=role, cache=tmp_path / "cold"))  # type: ignore[arg-type]
    start = time.monotonic()
    plane.start()
    took = time.monotonic() - start
    plane.stop()
    print(f"{role}: compiled from cold and attached in {took:.2f} s")
    assert took < 5


def test_the_verifiers_last_lines_are_shown(root: None) -> None:
    read_of_nothing = struct.pack("<BBhi", 0x61, 0x10, 0, 0)  # r0 = *(u32 *)(r1 + 0), then a read beyond the packet
    code = read_of_nothing + struct.pack("<BBhi", 0x79, 0x00, 0, 0) + EXIT
    broken = {"steer": Object("steer", {"steer": Program(code, [])}, {})}
    with pytest.raises(KernelTooOld) as caught:
        loader.load(broken, {})
    assert "verifier refused steer" in caught.value.message
    assert "invalid access to packet" in caught.value.message
    assert "doctor" in caught.value.hint


def test_a_missing_kernel_function_is_named(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kfuncs, "FUNCTIONS", ("bpf_no_such_function",))
    call = struct.pack("<BBhI", 0x85, 0, 0, kfuncs.FIRST)
    broken = {"steer": Object("steer", {"steer": Program(call + MOV_R0_2 + EXIT, [])}, {})}
    with pytest.raises(KernelTooOld, match="no function bpf_no_such_function"):
        loader.load(broken, {})


def test_a_module_function_is_called_through_its_btf_fd() -> None:
    code = bytearray(struct.pack("<BBhI", 0x85, 0, 0, kfuncs.FIRST + 4) + EXIT)
    place = kfuncs.find("bpf_ct_release")
    assert place is not None
    kfuncs.link(code, ("nf_conntrack", "nf_nat"))
    opcode, registers, offset, number = struct.unpack_from("<BBhi", code)
    expected = 0 if place.module is None else 1 + ("nf_conntrack", "nf_nat").index(place.module)
    assert (opcode, registers >> 4, offset, number) == (0x85, 2, expected, place.id)


def test_source_that_does_not_compile_shows_the_compilers_words(root: None) -> None:
    with pytest.raises(DataplaneError, match=r"steer\.bpf\.c.*error"):
        objects.load(("steer",), {"XDP_TX": 5, "opens": "(("}, None)  # type: ignore[dict-item]


def test_btf_offsets_are_those_of_the_headers() -> None:
    """struct iphdr is the same everywhere: what RFC 791 says is what BTF must say."""
    btf = Btf.kernel()
    assert [btf.offset("iphdr", name) for name in ("ttl", "protocol", "check", "saddr", "daddr")] == [8, 9, 10, 12, 16]
    assert btf.offset("nf_conn", "tuplehash[1].tuple") - btf.offset("nf_conn", "tuplehash[0].tuple") > 40
    with pytest.raises(KernelTooOld, match="no field_of_dreams"):
        btf.offset("iphdr", "field_of_dreams")
    with pytest.raises(KernelTooOld, match="no struct"):
        btf.offset("no_such_struct", "x")


def test_a_cut_short_cache_entry_is_made_again(tmp_path: Path) -> None:
    whole = objects.load(("steer",), kfuncs.offsets(), tmp_path)
    (entry,) = tmp_path.glob("steer-*.msgpack")
    entry.write_bytes(entry.read_bytes()[:100])
    assert objects.load(("steer",), kfuncs.offsets(), tmp_path) == whole


def test_map_that_cannot_be_made_says_so(root: None) -> None:
    declaration = MapDeclaration(syscall.MAP_HASH, 0, 8, 1, [], [])
    with pytest.raises(KernelTooOld, match="map odd"):
        open_all({"odd": declaration}, None, 1024)


class TestDecisions:
    """What decides about new sessions, by the plane's own calls."""

    @pytest.fixture
    def plane(self, settings: Settings) -> Iterator[Dataplane]:
        plane = Dataplane(dataclasses.replace(settings, persistence=persistence.Settings(60, 24), bindings=300))
        plane.start()
        yield plane
        plane.stop()

    @pytest.mark.parametrize("kind", schedule.KINDS)
    def test_schedules(self, plane: Dataplane, kind: schedule.Kind) -> None:
        weights = {1: 1, 2: 3}
        plane.set_schedule(kind, schedule.sequence(weights, kind), weights)
        plane.set_draining({2})
        plane.set_draining(())

    def test_impossible_schedules(self, plane: Dataplane) -> None:
        for kind, sequence, weights in (
            ("fair", [1], {}),
            ("weighted", [], {}),
            ("weighted", [1] * 8193, {}),
            ("weighted", [64], {}),
            ("weighted", [1], {0: 1}),
            ("weighted", [1], {1: 256}),
            ("least-connections", [1, 2, 1], {}),
        ):
            with pytest.raises(DataplaneError):
                plane.set_schedule(kind, sequence, weights)
        with pytest.raises(DataplaneError):
            plane.set_draining({0})

    def test_a_policy_and_its_counters(self, plane: Dataplane) -> None:
        rules = [Rule("keep", interface="d0", ports=(Ports(1, 2), Ports(5, 6))), Rule("share")]
        assert plane.set_policy(rules, "keep", Mark(1, 1))
        assert not plane.set_policy(rules, "keep", Mark(1, 1))
        assert plane.rule_hits() == [0, 0]
        assert plane.policy_hits() == PolicyHits((0, 0), 0, 0)
        with pytest.raises(DataplaneError, match="d9"):
            plane.set_policy([Rule("keep", interface="d9")])
        with pytest.raises(DataplaneError, match="65 rules"):
            plane.set_policy([Rule("keep")] * 65)
        assert plane.rule_hits() == [0, 0], "what was refused changed nothing"

    def test_an_agent_that_restarts_finds_it_all(self, settings: Settings, plane: Dataplane) -> None:
        plane.set_policy([Rule("keep")])
        plane.persist_set("10.1.2.3", 2)
        second = Dataplane(dataclasses.replace(settings, persistence=persistence.Settings(60, 24), bindings=300))
        second.start()
        assert not second.set_policy([Rule("keep")])
        assert [(row.address, row.node) for row in second.persist_entries()] == [("10.1.2.0", 2)]
        second.close()

    def test_persistence(self, plane: Dataplane) -> None:
        plane.persist_set("10.1.2.3", 2)
        plane.persist_set("2001:db8::1", 3)
        assert {(row.address, row.node) for row in plane.persist_entries()} == {("10.1.2.0", 2), ("2001:db8::1", 3)}
        assert plane.persist_delete("10.1.2.200")
        assert plane.persist_flush() == 1
        assert plane.persist_entries() == []
        assert plane.persist_counts() == (0, 0)
        assert (plane.live_sessions(), plane.half_open()) == ({}, 0)

    def test_without_persistence(self, settings: Settings) -> None:
        plane = Dataplane(settings)
        plane.start()
        try:
            assert plane.persist_entries() == []
            with pytest.raises(DataplaneError, match="not enabled"):
                plane.persist_set("10.0.0.1", 1)
        finally:
            plane.stop()


class TestAccounting:
    """Switched on and off over restarts of the agent, the flow table pinned and the programs running."""

    @staticmethod
    def started(settings: Settings, accounting: bool, **changes: int) -> Dataplane:
        plane = Dataplane(dataclasses.replace(settings, accounting=accounting, **changes))  # type: ignore[arg-type]
        plane.start()
        assert plane.detached_hooks() == []
        return plane

    @staticmethod
    def pinned(settings: Settings) -> syscall.MapInfo:
        fd = syscall.obj_get(str(settings.pins / "maps" / "accounts"))
        try:
            return syscall.map_info(fd)
        finally:
            os.close(fd)

    def test_on_over_a_restart_takes_room_and_new_programs(self, settings: Settings) -> None:
        off = self.started(settings, False)
        assert self.pinned(settings).entries == 1
        assert off.account_look() is None
        assert "packets" not in (off.flows().dtype.names or ())
        ids = program_ids()
        off.close()
        on = self.started(settings, True)
        assert self.pinned(settings).entries == settings.flow_entries + 1
        assert program_ids() != ids, "programs that hold the new map"
        assert "packets" in (on.flows().dtype.names or ())
        before = on.account_look()
        assert before is not None
        assert on.carried_since(before) == {}
        on.stop()

    def test_it_and_shared_helpers_are_features_of_their_own(self, settings: Settings) -> None:
        for accounting, share, wanted in ((True, False, 1), (False, True, 2), (True, True, 3), (False, False, 0)):
            plane = Dataplane(dataclasses.replace(settings, accounting=accounting, share_helpers=share))
            plane.start()
            assert int(plane._maps["config"].view()["features"][0]) == wanted
            plane.close()
        plane.start()
        plane.stop()

    def test_on_stays_on_with_what_it_counted(self, settings: Settings) -> None:
        self.started(settings, True).close()
        ids, first = program_ids(), self.pinned(settings)
        on = self.started(settings, True)
        assert (program_ids(), self.pinned(settings)) == (ids, first)
        on.stop()

    def test_off_again_gives_the_room_back(self, settings: Settings) -> None:
        self.started(settings, True).close()
        off = self.started(settings, False)
        assert self.pinned(settings).entries == 1
        assert len(list(settings.pins.glob("programs-*"))) == 1, "nothing holds the old map"
        off.stop()

    def test_as_large_as_the_table_that_is_there(self, settings: Settings) -> None:
        self.started(settings, False).close()
        on = self.started(settings, True, flow_entries=4096)
        assert self.pinned(settings).entries == settings.flow_entries + 1, "a pinned table keeps its size"
        on.stop()

    def test_an_agent_killed_between_the_map_and_the_programs(self, settings: Settings) -> None:
        self.started(settings, True).close()
        first = self.pinned(settings)
        for accounting in (False, True):  # what start does first, twice
            compiled = objects.load(("steer",), kfuncs.offsets(), settings.cache)["steer"]
            maps = open_all(compiled.maps, settings.pins / "maps", settings.flow_entries, accounting=accounting)
            for one in maps.values():
                one.close()
        ids = program_ids()
        on = self.started(settings, True)
        assert self.pinned(settings).id != first.id
        assert program_ids() != ids, "those of the same size, but on another map, are not taken"
        on.stop()
