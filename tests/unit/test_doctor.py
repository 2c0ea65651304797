# SPDX-License-Identifier: GPL-2.0-or-later
"""Each check's verdicts, from values given to it."""

import dataclasses
from pathlib import Path

import pytest

from aa_cluster import config as configuration
from aa_cluster.api import Check
from aa_cluster.doctor import drivers, election, guarded, interfaces, kernel, rules
from aa_cluster.errors import KernelTooOld, NetlinkError
from aa_cluster.netlink.links import LinkFacts

CONFIG = configuration.parse(
    b"""
[cluster]
id = 1
[node]
name = "gw1"
[ha]
interface = "ha"
[data]
interfaces = ["int", "ext"]
"""
)
INT = LinkFacts("int", 2, bytes.fromhex("020000000001"), 1500, ("10.77.1.1/24",), "veth", True)
EXT = LinkFacts("ext", 3, bytes.fromhex("020000000002"), 1500, ("10.77.2.1/24",), "veth", True)


@pytest.mark.parametrize(
    ("release", "result"),
    [
        ("5.15.0-101-generic", "fail"),
        ("6.0.12", "fail"),
        ("6.1.0-18-amd64", "warn"),
        ("6.5.13", "warn"),
        ("6.6.0", "pass"),
        ("6.18.44", "pass"),
        ("10.0", "pass"),
        ("odd", "fail"),
    ],
)
def test_kernel_version(release, result):
    check = kernel.version(release)
    assert check.result == result
    assert release in check.found
    assert bool(check.fix) == (result != "pass")


def test_type_information(tmp_path):
    assert kernel.type_information(tmp_path).result == "pass"
    assert kernel.type_information(tmp_path / "vmlinux").result == "fail"


def test_kernel_functions():
    assert kernel.kernel_functions(("a", "b"), lambda name: True).found == "all 2 conntrack functions"
    check = kernel.kernel_functions(("a", "b"), "a".__eq__)
    assert (check.result, check.found) == ("fail", "this kernel has no b")


def test_kernel_functions_when_btf_cannot_be_read():
    def refuse(name):
        raise KernelTooOld("found this", "do that")

    check = kernel.kernel_functions(("a",), refuse)
    assert (check.result, check.found, check.fix) == ("fail", "found this", "do that")


def stand_in(tmp_path, script):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return str(python)


def test_bcc_answers(tmp_path):
    assert kernel.bcc(stand_in(tmp_path, "echo 0.26.0 True")).found == "bcc 0.26.0"


def test_bcc_of_that_name_from_pypi(tmp_path):
    check = kernel.bcc(stand_in(tmp_path, "echo 0.1 False"))
    assert (check.result, check.found) == ("fail", "it has no class BPF: another project of that name")


def test_bcc_missing(tmp_path):
    check = kernel.bcc(stand_in(tmp_path, "echo \"ModuleNotFoundError: No module named 'bcc'\" >&2; exit 1"))
    assert check.found == "ModuleNotFoundError: No module named 'bcc'"
    assert kernel.bcc(str(tmp_path / "nowhere")).result == "fail"


@pytest.mark.parametrize(("value", "result"), [(None, "skip"), ("0\n", "fail"), ("1\n", "pass"), ("2\n", "pass")])
def test_jit(value, result):
    assert kernel.jit(value).result == result


MOUNTS = (
    "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf/over tmpfs rw 0 0\n/dev/vda / ext4 rw 0 0\n"
)


@pytest.mark.parametrize(
    ("pins", "result"),
    [("/sys/fs/bpf/aa-cluster", "pass"), ("/sys/fs/bpf/over/x", "warn"), ("/sys/fs/bpfx", "warn"), ("/run/x", "warn")],
)
def test_bpffs(pins, result):
    assert kernel.bpffs(Path(pins), MOUNTS).result == result


def test_interfaces_present():
    assert interfaces.present([INT, EXT], []).found == "int 10.77.1.1/24, ext 10.77.2.1/24"
    down = dataclasses.replace(EXT, up=False, addresses=("fd00::1/64",))
    check = interfaces.present([INT, down], ["ha"])
    assert (check.result, check.found) == ("fail", "ha does not exist; ext is down; ext has no IPv4 address")


def test_duplicates():
    assert interfaces.distinct(CONFIG, [INT, EXT]).result == "pass"
    twin = dataclasses.replace(EXT, addresses=("10.77.1.2/24",))
    check = interfaces.distinct(CONFIG, [INT, twin])
    assert (check.result, check.found) == ("fail", "network 10.77.1.0/24 is on two interfaces")


def test_one_virtual_mac_for_two_interfaces():
    given = configuration.Data(
        interfaces=("int", "ext"), virtual_macs={"int": "02:00:00:00:00:09", "ext": "02:00:00:00:00:09"}
    )
    twice = configuration.Config(cluster=CONFIG.cluster, node=CONFIG.node, ha=CONFIG.ha, data=given)
    check = interfaces.distinct(twice, [INT, EXT])
    assert (check.result, check.found) == ("fail", "virtual MAC 02:00:00:00:00:09 stands for two interfaces")


@pytest.mark.parametrize(("mtu", "result"), [(199, "fail"), (200, "pass"), (1500, "pass"), (9000, "pass")])
def test_room_on_data_interfaces(mtu, result):
    assert interfaces.data_room(dataclasses.replace(INT, mtu=mtu)).result == result


@pytest.mark.parametrize(("mtu", "result"), [(1280, "warn"), (1500, "pass")])
def test_room_on_the_ha_link(mtu, result):
    assert interfaces.ha_room(dataclasses.replace(INT, mtu=mtu)).result == result


def settings(root, values):
    for name, value in values.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


@pytest.mark.parametrize(
    ("overall", "inner", "outer", "found"),
    [
        (1, 1, 1, "forwarding is on"),
        (0, 0, 0, "forwarding is off"),
        (1, 1, 0, "forwarding is off on ext"),
    ],
)
def test_forwarding(tmp_path, overall, inner, outer, found):
    values = {"ip_forward": overall, "conf/int/forwarding": inner, "conf/ext/forwarding": outer}
    (check,) = interfaces.forwarding([INT, EXT], settings(tmp_path, values))
    assert check.found == found
    assert check.result == ("pass" if found == "forwarding is on" else "fail")


@pytest.mark.parametrize(
    ("everywhere", "own", "result"), [(0, 0, "pass"), (1, 0, "warn"), (0, 1, "warn"), (2, 1, "pass"), (1, 2, "pass")]
)
def test_rp_filter_is_the_larger_of_two(tmp_path, everywhere, own, result):
    root = settings(tmp_path, {"all/rp_filter": everywhere, "int/rp_filter": own})
    assert interfaces.reverse_path("int", root).result == result


def test_rp_filter_unknown(tmp_path):
    assert interfaces.reverse_path("int", tmp_path).result == "skip"


@pytest.mark.parametrize(
    ("driver", "mode", "result"),
    [
        ("ixgbe", "auto", "pass"),
        ("veth", "native", "pass"),
        ("veth", "generic", "warn"),
        ("e1000e", "auto", "warn"),
        ("e1000e", "native", "warn"),
        ("", "auto", "warn"),
    ],
)
def test_xdp_mode(driver, mode, result):
    assert drivers.xdp_mode("eth0", driver, mode, None).result == result


@pytest.mark.parametrize(("attached", "result"), [("native", "pass"), ("offloaded", "pass"), ("generic", "warn")])
def test_how_it_is_attached_has_the_last_word(attached, result):
    assert drivers.xdp_mode("eth0", "unheard-of", "auto", attached).result == result
    assert drivers.xdp_mode("eth0", "ixgbe", "auto", attached).result == result


@pytest.mark.parametrize(
    ("features", "result"),
    [
        ({}, "skip"),
        ({"rx-lro": False}, "pass"),
        ({"rx-lro": True}, "fail"),
        ({"rx-lro": False, "rx-udp-gro-forwarding": True}, "fail"),
        ({"rx-lro": False, "rx-gro-list": True}, "fail"),
    ],
)
def test_offloads(features, result):
    assert drivers.receive_offloads("eth0", features).result == result


def test_veth_peer():
    assert drivers.judge_peer("int", "port1", None, True).result == "pass"
    assert drivers.judge_peer("int", "port1", None, False).fix.endswith(": ip link set port1 xdp pinned PROGRAM")
    elsewhere = drivers.judge_peer("int", "port1", Path("/run/netns/switch"), False)
    assert elsewhere.fix.endswith(": nsenter --net=/run/netns/switch ip link set port1 xdp pinned PROGRAM")


def test_transmit_errors_are_summed_over_queues():
    check = drivers.transmit_errors("int", {"rx_queue_0_xdp_tx_errors": 2, "rx_queue_1_xdp_tx_errors": 3, "other": 9})
    assert (check.result, check.found) == ("warn", "5 steered packets did not get out of int")
    assert drivers.transmit_errors("int", {}).result == "pass"


def test_nat_hooks():
    assert rules.nat_hooks('chain {"family":"ip","name":"post","type":"nat"}\n', []).result == "pass"
    assert rules.nat_hooks("", ["filter", "nat"]).result == "pass"
    assert rules.nat_hooks('chain {"type":"filter"}\n', ["filter"]).result == "fail"


@pytest.mark.parametrize(
    "text",
    [
        'rule {"expr":[{"match":{"left":{"ct":{"key":"state"}}}}]}',
        'rule {"expr":[{"masquerade":null}]}',
        'rule {"expr":[{"xt":{"name":"conntrack","type":"match"}}]}',
        "iptables-legacy filter -A FORWARD -m conntrack --ctstate NEW -j ACCEPT",
        "iptables-legacy nat -A POSTROUTING -o ext -j MASQUERADE",
    ],
)
def test_rules_that_track(text):
    assert rules.conntrack_hooks(text).result == "pass"


@pytest.mark.parametrize("text", ["", 'rule {"expr":[{"accept":null}]}', "iptables-legacy filter -A FORWARD -j ACCEPT"])
def test_rules_that_do_not_track(text):
    assert rules.conntrack_hooks(text).result == "fail"


@pytest.mark.parametrize(("maximum", "result"), [(None, "skip"), (1000, "warn"), (4096, "pass")])
def test_conntrack_size(maximum, result):
    assert rules.conntrack_size(maximum, 4096).result == result


@pytest.mark.parametrize(("primary", "result"), [(None, "skip"), ("aa" * 32, "pass"), ("bb" * 32, "fail")])
def test_same_rules(primary, result):
    assert rules.same_rules("aa" * 32, primary).result == result


def test_an_error_of_ours_becomes_a_failed_check():
    def group():
        yield Check(name="first", result="pass", found="fine")
        raise NetlinkError("nft is not installed", "apt install nftables")

    first, second = guarded("rules", group)
    assert first.name == "first"
    assert (second.name, second.result, second.fix) == ("rules", "fail", "apt install nftables")


def test_keepalived_must_be_there() -> None:
    assert election.installed("/usr/sbin/keepalived").result == "pass"
    missing = election.installed(None)
    assert (missing.result, missing.fix) == ("fail", "apt-get install keepalived")


@pytest.mark.parametrize(("rp_filter", "result"), [(0, "pass"), (1, "fail"), (2, "pass")])
def test_advertisements_must_come_in(rp_filter: int, result: str) -> None:
    assert election.path_filter("int", rp_filter).result == result
