# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls from BPF programs into the kernel's conntrack: the link bcc cannot make.

bpf/include/conntrack.h declares each function as a call to a number; here the number becomes the function's BTF id,
in the kernel's BTF or in that of the module it lives in.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from aa_cluster.dataplane.btf import BTF_DIRECTORY, Btf
from aa_cluster.errors import KernelTooOld

FIRST = 0x7F000001
FUNCTIONS = (
    "bpf_xdp_ct_lookup",
    "bpf_skb_ct_lookup",
    "bpf_skb_ct_alloc",
    "bpf_ct_insert_entry",
    "bpf_ct_release",
    "bpf_ct_set_timeout",
    "bpf_ct_change_timeout",
    "bpf_ct_change_status",
    "bpf_ct_set_nat_info",
)
"""In the order of their numbers, from ``FIRST`` on. bpf_ct_set_nat_info is the youngest: Linux 6.1."""

MODULES = ("nf_conntrack", "nf_nat")

_OFFSETS = {
    "AA_CT_MARK": ("nf_conn", "mark"),
    "AA_CT_STATUS": ("nf_conn", "status"),
    "AA_CT_EXT": ("nf_conn", "ext"),
    "AA_CT_TCP_STATE": ("nf_conn", "proto.tcp.state"),
    "AA_CT_ORIGINAL": ("nf_conn", "tuplehash[0].tuple"),
    "AA_CT_REPLY": ("nf_conn", "tuplehash[1].tuple"),
    "AA_CT_SRC_ADDR": ("nf_conntrack_tuple", "src.u3"),
    "AA_CT_SRC_PORT": ("nf_conntrack_tuple", "src.u"),
    "AA_CT_DST_ADDR": ("nf_conntrack_tuple", "dst.u3"),
    "AA_CT_DST_PORT": ("nf_conntrack_tuple", "dst.u"),
    "AA_CT_EXT_OFFSETS": ("nf_ct_ext", "offset"),
    "AA_CT_HELP_HELPER": ("nf_conn_help", "helper"),
    "AA_CT_HELP_EXPECTATIONS": ("nf_conn_help", "expectations"),
    "AA_CT_DST_PROTOCOL": ("nf_conntrack_tuple", "dst.protonum"),
    "AA_CT_EXPECT_NODE": ("nf_conntrack_expect", "lnode"),
    "AA_CT_EXPECT_TUPLE": ("nf_conntrack_expect", "tuple"),
    "AA_CT_EXPECT_MASK": ("nf_conntrack_expect", "mask.src.u3"),
    "AA_CT_HELPER_NAME": ("nf_conntrack_helper", "name"),
}

_CALL = 0x85
_PSEUDO_KFUNC = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a function lives: its BTF id, and the module (None: the kernel itself)."""

    id: int
    module: str | None


def find(name: str) -> Place | None:
    """Looks in the kernel, then in the conntrack modules."""
    identifier = Btf.kernel().function_id(name)
    if identifier is not None:
        return Place(identifier, None)
    for module in MODULES:
        btf = Btf.module(module)
        identifier = btf.function_id(name) if btf else None
        if identifier is not None:
            return Place(identifier, module)
    return None


def offsets() -> dict[str, int]:
    """The ``AA_CT_*`` macros for this kernel, in bytes."""
    source = Btf.module("nf_conntrack") or Btf.kernel()
    return {macro: source.offset(*where) for macro, where in _OFFSETS.items()}


def calls(code: bytes) -> list[tuple[int, str]]:
    """(instruction index, function name) of every call that waits to be linked."""
    out = []
    for index in range(0, len(code), 8):
        opcode, number = code[index], struct.unpack_from("=I", code, index + 4)[0]
        if opcode == _CALL and FIRST <= number < FIRST + len(FUNCTIONS):
            out.append((index // 8, FUNCTIONS[number - FIRST]))
    return out


def link(code: bytearray, module_fds: tuple[str, ...]) -> None:
    """Puts BTF ids in place. ``module_fds``: modules whose BTF fd stands at index 1, 2, … of the load's fd array."""
    for index, name in calls(bytes(code)):
        place = find(name)
        if place is None:
            raise KernelTooOld(
                f"this kernel has no function {name}",
                "aa-cluster needs Linux 6.1 or later with conntrack and NAT, built in or loaded (modprobe nf_nat)",
            )
        at = index * 8
        code[at + 1] = (code[at + 1] & 0x0F) | _PSEUDO_KFUNC << 4
        offset = 0 if place.module is None else 1 + module_fds.index(place.module)
        struct.pack_into("=hi", code, at + 2, offset, place.id)


def module_btf_fds() -> dict[str, int]:
    """Open BTF fds of the conntrack modules that are modules here; empty on a monolithic kernel."""
    from aa_cluster.dataplane import syscall

    present = [module for module in MODULES if (BTF_DIRECTORY / module).exists()]
    if not present:
        return {}
    found: dict[str, int] = {}
    for identifier in syscall.btf_ids():
        fd = syscall.btf_by_id(identifier)
        name = syscall.btf_name(fd)
        if name in present and name not in found:
            found[name] = fd
        else:
            os.close(fd)
    return found
