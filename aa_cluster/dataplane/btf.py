# SPDX-License-Identifier: GPL-2.0-or-later
"""Just enough BTF (Documentation/bpf/btf.rst): ids of kernel functions, offsets of structure members.

Parsing the kernel's own takes about 0.1 s and is done once a process.
"""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path

from aa_cluster.errors import KernelTooOld

BTF_DIRECTORY = Path("/sys/kernel/btf")

_MAGIC = 0xEB9F
_INT, _ARRAY, _STRUCT, _UNION, _FUNC = 1, 3, 4, 5, 12
_TRANSPARENT = frozenset((8, 9, 10, 11, 18))  # typedef, volatile, const, restrict, type tag
_TAIL = {1: 4, 3: 12, 13: 8, 14: 4, 15: 12, 17: 4, 19: 12}  # bytes behind the header, where fixed
_PER_MEMBER = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_STEP = re.compile(r"(\w+)|\[(\d+)\]|\.")


class Btf:
    """One BTF blob; a module's continues the kernel's numbering and strings."""

    def __init__(self, blob: bytes, base: Btf | None = None) -> None:
        magic, _, _, header, type_at, type_size, string_at, string_size = struct.unpack_from("=HBBIIIII", blob)
        if magic != _MAGIC:
            raise KernelTooOld(f"BTF starts with {magic:#x}, expected {_MAGIC:#x}", "use a kernel with readable BTF")
        self._base = base
        self._blob = blob
        self._strings = blob[header + string_at : header + string_at + string_size]
        self._string_start: int = base._string_end if base else 0
        self._string_end: int = self._string_start + string_size
        self._first: int = base._next if base else 1
        self._at: list[int] = []
        self._functions: dict[str, int] = {}
        self._structs: dict[str, int] = {}
        self._scan(header + type_at, type_size)
        self._next: int = self._first + len(self._at)

    @classmethod
    @functools.cache
    def kernel(cls) -> Btf:
        """The running kernel's; ``KernelTooOld`` when it has none."""
        return cls(_read(BTF_DIRECTORY / "vmlinux"))

    @classmethod
    @functools.cache
    def module(cls, name: str) -> Btf | None:
        """A loaded module's; None when there is no such module (built in, or not loaded)."""
        path = BTF_DIRECTORY / name
        return cls(_read(path), cls.kernel()) if path.exists() else None

    def _scan(self, at: int, size: int) -> None:
        blob, end = self._blob, at + size
        unpack = struct.Struct("=III").unpack_from
        while at < end:
            name, info, _ = unpack(blob, at)
            kind, members = info >> 24 & 0x1F, info & 0xFFFF
            identifier = self._first + len(self._at)
            self._at.append(at)
            if kind == _FUNC:
                self._functions[self._string(name)] = identifier
            elif kind == _STRUCT and name:
                self._structs.setdefault(self._string(name), identifier)
            at += 12 + (_PER_MEMBER[kind] * members if kind in _PER_MEMBER else _TAIL.get(kind, 0))

    def _string(self, offset: int) -> str:
        if self._base is not None and offset < self._string_start:
            return self._base._string(offset)
        start = offset - self._string_start
        return self._strings[start : self._strings.index(b"\0", start)].decode("ascii", "replace")

    def _type(self, identifier: int) -> tuple[Btf, int]:
        if self._base is not None and identifier < self._first:
            return self._base._type(identifier)
        return self, self._at[identifier - self._first]

    def function_id(self, name: str) -> int | None:
        """The BTF id of function ``name`` in this blob, or None."""
        return self._functions.get(name)

    def offset(self, name: str, path: str) -> int:
        """Byte offset of ``path`` (``tuplehash[0].tuple.src``) in struct ``name``; ``KernelTooOld`` if not there."""
        identifier = self._structs.get(name)
        if identifier is None:
            raise KernelTooOld(f"this kernel's BTF has no struct {name}", "use a kernel with conntrack (and its BTF)")
        total = 0
        for step in _STEP.finditer(path):
            if step.group(1):
                found = self._member(identifier, step.group(1))
                if found is None:
                    raise KernelTooOld(f"this kernel's struct {name} has no {path}", "see README for kernels that work")
                identifier, offset = found
                total += offset
            elif step.group(2):
                identifier, size = self._element(identifier)
                total += int(step.group(2)) * size
        return total

    def _resolve(self, identifier: int) -> tuple[Btf, int, int]:
        while True:
            owner, at = self._type(identifier)
            _, info, reference = struct.unpack_from("=III", owner._blob, at)
            if info >> 24 & 0x1F not in _TRANSPARENT:
                return owner, at, identifier
            identifier = reference

    def _member(self, identifier: int, wanted: str) -> tuple[int, int] | None:
        owner, at, _ = self._resolve(identifier)
        _, info, _ = struct.unpack_from("=III", owner._blob, at)
        if info >> 24 & 0x1F not in (_STRUCT, _UNION):
            return None
        bitfields = bool(info >> 31)
        for index in range(info & 0xFFFF):
            name, kind, place = struct.unpack_from("=III", owner._blob, at + 12 + 12 * index)
            offset = (place & 0xFFFFFF if bitfields else place) // 8
            if owner._string(name) == wanted:
                return kind, offset
            if name == 0:  # an anonymous struct or union: its members count as ours
                inner = self._member(kind, wanted)
                if inner is not None:
                    return inner[0], offset + inner[1]
        return None

    def _element(self, identifier: int) -> tuple[int, int]:
        owner, at, _ = self._resolve(identifier)
        element = struct.unpack_from("=I", owner._blob, at + 12)[0]
        return element, self._size(element)

    def _size(self, identifier: int) -> int:
        owner, at, _ = self._resolve(identifier)
        _, info, size = struct.unpack_from("=III", owner._blob, at)
        if info >> 24 & 0x1F == _ARRAY:
            element, _, count = struct.unpack_from("=III", owner._blob, at + 12)
            return self._size(element) * int(count)
        return int(size)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KernelTooOld(
            f"no kernel type information at {path}: {error.strerror}", "use a kernel built with CONFIG_DEBUG_INFO_BTF"
        ) from None
