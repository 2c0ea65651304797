# SPDX-License-Identifier: GPL-2.0-or-later
"""The child process that holds the compiler: ``python -m aa_cluster.dataplane.compile NAME… [-DMACRO=VALUE …]``.

Writes one msgpack list of ``Object`` on standard output, in the order of the names: code with map references by name,
map declarations, layouts. Exit code 1 with the compiler's messages on standard error when a source does not compile. No
kernel headers are needed: bpf/compat stands in for them (docs/loader.md).

To root, bcc reads the whole of /proc/kallsyms for each source, which is half of the time of a small one, to learn
whether the kernel has bpf_probe_read_kernel. Every kernel that we support has it: the child keeps root's capabilities,
but not its name, and what bcc then takes in its place is put back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
import sysconfig

import msgspec
import numpy as np

from aa_cluster.dataplane import source
from aa_cluster.dataplane.object import MapDeclaration, Object, Program

_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_NOBODY = 65534
_AS_WRITTEN = "#undef bpf_probe_read_kernel\n"
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1

FLAGS = (
    "-Werror=implicit-function-declaration",
    "-Wno-unused-function",
    "-g0",  # debug information is not used here
    "-Xclang",
    "-disable-llvm-passes",  # clang would optimize first what bcc optimizes anyway
)
"""For half of the time; the code is as fast."""


def compile_object(name: str, defines: list[str]) -> Object:
    os.environ["BCC_KERNEL_SOURCE"] = str(source.directory() / "compat")
    from bcc import BPF  # imported here alone: a whole compiler comes with it
    from bcc.libbcc import lib

    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    include = ["-I/usr/include", f"-I/usr/include/{multiarch}"]
    module = BPF(text=_AS_WRITTEN + source.join(name), cflags=[*include, *FLAGS, *defines])
    lib.bpf_table_name.restype = ctypes.c_char_p  # bcc's own declaration leaves it an int
    names = [lib.bpf_table_name(module.module, index).decode() for index in range(lib.bpf_num_tables(module.module))]
    maps, by_fd = {}, {}
    for index, label in enumerate(names):
        maps[label] = MapDeclaration(
            kind=lib.bpf_table_type_id(module.module, index),
            key_size=lib.bpf_table_key_size_id(module.module, index),
            value_size=lib.bpf_table_leaf_size_id(module.module, index),
            entries=lib.bpf_table_max_entries_id(module.module, index),
            key=_layout(module[label], "Key", lib.bpf_table_key_size_id(module.module, index)),
            value=_layout(module[label], "Leaf", lib.bpf_table_leaf_size_id(module.module, index)),
        )
        by_fd[lib.bpf_table_fd_id(module.module, index)] = label
    programs = {}
    for index in range(lib.bpf_num_functions(module.module)):
        label = lib.bpf_function_name(module.module, index).decode()
        programs[label] = _program(module.dump_func(label), by_fd)
    return Object(name=name, programs=programs, maps=maps)


def _layout(table: object, which: str, size: int) -> list[tuple[str, str, int]]:
    """(field, numpy format, byte offset) of a key or value, from the ctypes class bcc made of the C struct."""
    kind = getattr(table, which, None)
    if kind is None or not issubclass(kind, ctypes.Structure):
        return []
    dtype = np.dtype(kind)
    if dtype.itemsize != size:
        raise SystemExit(f"layout of {which} is {dtype.itemsize} bytes in Python, {size} in C")
    return list(_flatten(dtype, "", 0))


def _flatten(dtype: np.dtype, prefix: str, base: int) -> list[tuple[str, str, int]]:
    out: list[tuple[str, str, int]] = []
    for label, (kind, offset, *_) in (dtype.fields or {}).items():
        if kind.fields is not None:
            out.extend(_flatten(kind, f"{prefix}{label}_", base + offset))
        elif kind.subdtype is not None:
            inner, shape = kind.subdtype
            out.append((prefix + label, f"{shape}{inner.str}".replace(" ", ""), base + offset))
        else:
            out.append((prefix + label, kind.str, base + offset))
    return out


def _program(code: bytes, by_fd: dict[int, str]) -> Program:
    """Map fds of this process mean nothing elsewhere: they become names."""
    text = bytearray(code)
    references = []
    for at in range(0, len(text), 8):
        if text[at] != _LD_IMM64 or text[at + 1] >> 4 != _PSEUDO_MAP_FD:
            continue
        fd = struct.unpack_from("=i", text, at + 4)[0]
        references.append((at // 8, by_fd[fd]))
        struct.pack_into("=i", text, at + 4, 0)
    return Program(code=bytes(text), maps=references)


def _another_name() -> None:
    """Not root by name any more, with every capability it had. Nothing, where the kernel does not allow that."""
    if ctypes.CDLL(None).prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0:
        with contextlib.suppress(OSError):
            os.seteuid(_NOBODY)


def main() -> None:
    _another_name()
    names = [word for word in sys.argv[1:] if not word.startswith("-")]
    defines = sys.argv[1 + len(names) :]
    compiled = []
    for name in names:
        try:
            compiled.append(compile_object(name, defines))
        except ImportError:
            raise
        except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower, and the compiler has said why already
            raise SystemExit(f"{error}\n{name}.bpf.c does not compile") from None
    sys.stdout.buffer.write(msgspec.msgpack.encode(compiled))


if __name__ == "__main__":
    main()
