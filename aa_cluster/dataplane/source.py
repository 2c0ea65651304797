# SPDX-License-Identifier: GPL-2.0-or-later
"""The BPF sources as one text a program: bcc rewrites map methods only in the text it is given, not in headers.

Our headers are put where they are included, once each, between ``#line`` markers, so that a compiler message still
names the file and line it is about.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from aa_cluster.errors import DataplaneError

_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def directory() -> Path:
    """Where the BPF sources are: inside the package, in a checkout and in a wheel alike."""
    return Path(str(files("aa_cluster"))) / "bpf"


def programs() -> tuple[str, ...]:
    """The names of all program files, without ``.bpf.c``."""
    return tuple(sorted(path.name.removesuffix(".bpf.c") for path in directory().glob("*.bpf.c")))


def join(name: str) -> str:
    """The whole text of ``NAME.bpf.c``."""
    seen: set[Path] = set()
    return "".join(_lines(directory() / f"{name}.bpf.c", seen))


def _lines(path: Path, seen: set[Path]) -> list[str]:
    seen.add(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise DataplaneError(f"BPF source {path} cannot be read: {error.strerror}", "reinstall aa-cluster") from None
    out = [f'#line 1 "{path.name}"\n']
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        match = _INCLUDE.match(line)
        if match is None:
            out.append(line)
            continue
        header = directory() / "include" / match.group(1)
        if header not in seen:
            out.extend(_lines(header, seen))
        out.append(f'#line {number + 1} "{path.name}"\n')
    return out
