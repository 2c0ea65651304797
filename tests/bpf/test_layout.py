# SPDX-License-Identifier: GPL-2.0-or-later
"""Every struct that C and Python share: the compiler itself checks the offsets Python believes in."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from aa_cluster.dataplane import events, kfuncs, source
from aa_cluster.dataplane import object as objects
from aa_cluster.dataplane.object import MapDeclaration
from aa_cluster.wire import block

STRUCT_OF_MAP = {
    "config": "config",
    "ports": "port",
    "slots": "port",
    "nodes": "node",
    "buckets": "bucket",
    "records": "record",
    "accounts": "account",
    "swept": "sweep",
    "moving": "move",
    "reserving": "reservation",
    "pulses": "pulse",
    "tallies": "tally",
    "sequences": "sequence",
    "policies": "policy",
    "rules": "rule",
    "bindings": "binding",
    "questions": "question",
    "fragments": "fragment",
    "expected": "expectation",
    "replication": "replication",
    "walk": "walk",
    "mirrored": "mirrored",
}
KEY_OF_MAP = {
    "questions": "question_key",
    "fragments": "fragment_key",
    "bindings": "client",
    "expected": "expectation_key",
    "expecting": "expectation_key",
    "controls": "tuple",
    "announced": "tuple",
}

BLOCK_FIELDS = [
    "cluster_id",
    "owner",
    "slot",
    "family",
    "protocol",
    "helper",
    "reserved",
    "generation",
    "epoch",
    "connmark",
    "mark",
    "status",
    "source_port",
    "destination_port",
    "source",
    "destination",
    "magic",
    "version",
    "kind",
    "length",
]
EVENT_FIELDS = ("time_ns", "address", "mac", "kind", "slot")


def by_struct(form: str, names: list[str] | tuple[str, ...]) -> dict[str, int]:
    """Field → offset as ``struct`` lays ``form`` out ('<' or '!': no padding)."""
    prefix, rest = form[0], form[1:]
    out, at = {}, 0
    codes: list[str] = []
    digits = ""
    for letter in rest:
        if letter.isdigit():
            digits += letter
        else:
            codes += [digits + letter] if letter == "s" else [letter] * int(digits or 1)
            digits = ""
    for name, code in zip(names, codes, strict=True):
        out[name] = at
        at += struct.calcsize(prefix + code)
    return out


def asserts(name: str, size: int, fields: dict[str, int]) -> list[str]:
    lines = [f'_Static_assert(sizeof(struct {name}) == {size}, "{name}");']
    for field, offset in fields.items():
        lines.append(f'_Static_assert(__builtin_offsetof(struct {name}, {field}) == {offset}, "{name}.{field}");')
    return lines


def of_dtype(dtype: np.dtype) -> dict[str, int]:
    """Field offsets; the fields of a nested struct are ``reply_saddr`` here, ``reply.saddr`` in C."""
    fields = dtype.fields or {}
    return {re.sub(r"^(original|reply)_", r"\1.", label): offset for label, (_, offset, *_) in fields.items()}


def compiles(lines: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "layout.c"
    file.write_text('#include "block.h"\n#include "types.h"\n#include "reasons.h"\n' + "\n".join(lines) + "\n")
    root = source.directory()
    multiarch = sysconfig.get_config_var("MULTIARCH")
    command = ["clang", "-target", "bpf", "-fsyntax-only", "-include", str(root / "compat/check/bcc.h")]
    command += [f"-I{root / 'include'}", "-I/usr/include", f"-I/usr/include/{multiarch}", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def declarations(object_cache: Path) -> dict[str, MapDeclaration]:
    compiled = objects.load(("handoff",), kfuncs.offsets(), object_cache)
    return compiled["handoff"].maps


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed (tools/setup.sh does)")
def test_python_and_c_agree(declarations: dict[str, MapDeclaration], tmp_path: Path) -> None:
    lines = asserts("handoff_block", block.LENGTH, by_struct("!HBBBBBBIIIIIHH16s16sIBBH", BLOCK_FIELDS))
    lines += asserts("event", events.EVENT.size, by_struct(events.EVENT.format, EVENT_FIELDS))
    for name, label in STRUCT_OF_MAP.items():
        dtype = declarations[name].value_dtype()
        lines += asserts(label, dtype.itemsize, of_dtype(dtype))
    for name, label in KEY_OF_MAP.items():
        dtype = declarations[name].key_dtype()
        lines += asserts(label, dtype.itemsize, of_dtype(dtype))
    done = compiles(lines, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(lines) > 80


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed (tools/setup.sh does)")
def test_a_wrong_offset_is_found(tmp_path: Path) -> None:
    done = compiles(asserts("handoff_block", 80, {"magic": 60}), tmp_path)
    assert done.returncode != 0
    assert "handoff_block.magic" in done.stderr


def test_every_struct_map_is_named_here(declarations: dict[str, MapDeclaration]) -> None:
    assert {name for name, item in declarations.items() if item.value} == set(STRUCT_OF_MAP)
