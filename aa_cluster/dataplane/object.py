# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled programs: what one BPF source becomes, and the cache that keeps it.

An object holds no fd and no address: it fits every process on this machine with the same kernel, bcc and settings,
which are what its cache key is made of.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from aa_cluster.dataplane import source
from aa_cluster.errors import DataplaneError

COMPILE_DEADLINE_S = 60.0


class Program(msgspec.Struct, frozen=True):
    """``code``: instructions, 8 bytes each. ``maps``: (instruction index, map name) still to be filled with an fd."""

    code: bytes
    maps: list[tuple[int, str]]


class MapDeclaration(msgspec.Struct, frozen=True):
    """As declared in C; ``key``/``value`` are the fields as (name, numpy format, offset), empty for plain
    integers and for what bcc does not describe.
    """

    kind: int
    key_size: int
    value_size: int
    entries: int
    key: list[tuple[str, str, int]]
    value: list[tuple[str, str, int]]

    def key_dtype(self) -> np.dtype:
        return _dtype(self.key, self.key_size)

    def value_dtype(self) -> np.dtype:
        return _dtype(self.value, self.value_size)


class Object(msgspec.Struct, frozen=True):
    name: str
    programs: dict[str, Program]
    maps: dict[str, MapDeclaration]


def _dtype(fields: list[tuple[str, str, int]], size: int) -> np.dtype:
    if not fields:
        return np.dtype(f"<u{size}" if size in (1, 2, 4, 8) else f"V{size}")
    names, formats, offsets = zip(*fields, strict=True)
    return np.dtype(
        {"names": list(names), "formats": list(formats), "offsets": list(offsets), "itemsize": size},
    )


def load(names: tuple[str, ...], defines: Mapping[str, int], cache: Path | None) -> dict[str, Object]:
    """Compiles what the cache does not have, in child processes side by side. ``DataplaneError`` if one fails.

    ``names``: best with the dearest first, since they are dealt out in turn, to and fro.
    """
    flags = [f"-D{macro}={value}" for macro, value in sorted(defines.items())]
    found = {name: _cached(_place(name, flags, cache)) for name in names}
    wanted = [name for name, compiled in found.items() if compiled is None]
    hands = _deal(wanted, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=max(1, len(hands))) as pool:
        for compiled in pool.map(lambda hand: _run_compiler(hand, flags), hands):
            for entry in compiled:
                _keep(entry, _place(entry.name, flags, cache))
                found[entry.name] = entry
    return {name: entry for name, entry in found.items() if entry is not None}


def _deal(names: Sequence[str], hands: int) -> list[list[str]]:
    """Starting a compiler costs as much as a small program: as many as there are CPUs, not as there are programs."""
    out: list[list[str]] = [[] for _ in range(min(hands, len(names)))]
    for number, name in enumerate(names):
        turn, place = divmod(number, len(out))
        out[place if turn % 2 == 0 else len(out) - 1 - place].append(name)
    return out


def digest(name: str, flags: list[str]) -> str:
    """Names a compiled object: the whole text, its macros, the compiler, the kernel and the machine."""
    text = source.join(name)
    compiler = Path(source.directory() / "compat" / "include" / "linux" / "kconfig.h").read_text("utf-8")
    parts = (text, compiler, *flags, platform.release(), platform.machine(), _library_stamp())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _library_stamp() -> str:
    for path in sorted(Path("/usr/lib").glob("*/libbcc.so.0.*")):
        return f"{path.name} {path.stat().st_mtime_ns}"
    return ""


def _place(name: str, flags: list[str], cache: Path | None) -> Path | None:
    return cache / f"{name}-{digest(name, flags)}.msgpack" if cache else None


def _cached(path: Path | None) -> Object | None:
    """None when it is not there, or cut short by a crash: it is made again."""
    if path is None:
        return None
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Object)
    except (OSError, msgspec.DecodeError):
        return None


def _keep(compiled: Object, path: Path | None) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(msgspec.msgpack.encode(compiled))
    temporary.replace(path)


def _run_compiler(names: list[str], flags: list[str]) -> list[Object]:
    command = [sys.executable, "-m", "aa_cluster.dataplane.compile", *names, *flags]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=COMPILE_DEADLINE_S,
            check=False,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # numpy's are not used, but would spin
        )
    except subprocess.TimeoutExpired:
        raise DataplaneError(
            f"compiling {', '.join(names)} took over {COMPILE_DEADLINE_S:.0f} s",
            "see whether the machine is out of memory or CPU",
        ) from None
    if done.returncode == 0:
        return msgspec.msgpack.decode(done.stdout, type=list[Object])
    message = done.stderr.decode("utf-8", "replace").strip()
    if "No module named 'bcc'" in message:
        raise DataplaneError(
            "the BPF compiler library bcc is not installed",
            "apt-get install python3-bpfcc, and make the virtual environment with --system-site-packages",
        )
    tail = message.splitlines()
    head = tail[-1] if tail and tail[-1].endswith("does not compile") else f"compiling {', '.join(names)} failed"
    raise DataplaneError("\n".join([f"{head}:", *tail[-16:-1]]), "run `make check` for the whole message")


def identity(compiled: Object) -> str:
    """Names the code itself: equal for equal programs, wherever they were compiled."""
    return hashlib.sha256(msgspec.msgpack.encode(compiled)).hexdigest()
