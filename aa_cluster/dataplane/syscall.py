# SPDX-License-Identifier: GPL-2.0-or-later
"""bpf(2) by ctypes: the few commands the loader needs, each with its errno turned into an ``OSError``.

Layouts follow ``union bpf_attr`` of include/uapi/linux/bpf.h. bcc is not used at run time: importing it would cost
every agent the memory of a whole compiler.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import struct
import time
from dataclasses import dataclass
from functools import partial

_NUMBER = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT, PROG_LOAD, OBJ_PIN, OBJ_GET = range(8)
PROG_TEST_RUN, PROG_BY_ID, OBJ_INFO = 10, 13, 15
PROG_NAME = 64  # offset of name in struct bpf_prog_info
MAP_POP = 21
MAP_LOOKUP_BATCH, MAP_UPDATE_BATCH, MAP_DELETE_BATCH = 24, 26, 27

PROG_SCHED_CLS, PROG_XDP = 3, 6
MAP_HASH, MAP_ARRAY, MAP_PERCPU_ARRAY, MAP_LRU_HASH, MAP_QUEUE, MAP_RINGBUF = 1, 2, 6, 9, 22, 27
MMAPABLE = 1 << 10  # BPF_F_MMAPABLE, 5.5

_libc = ctypes.CDLL(None, use_errno=True)
_ATTR_BYTES = 144


def _bpf(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    number = _NUMBER.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) on {platform.machine()} is not known here")
    result = _libc.syscall(number, command, ctypes.byref(attr), ctypes.sizeof(attr))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _attr(layout: str, *values: int | bytes) -> ctypes.Array[ctypes.c_char]:
    packed = struct.pack(layout, *values)
    return ctypes.create_string_buffer(packed.ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)


def _address(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    return 0 if buffer is None else ctypes.addressof(buffer)


_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
_MEMBARRIER_CMD_GLOBAL = 1


_waited = -math.inf


def wait_for_programs(since: float = math.inf) -> None:
    """Returns when every program that runs now has ended: what it read may then be written over. Tens of ms.

    ``since``: those that ran then (CLOCK_MONOTONIC, s); they have, if another wait began later.
    membarrier(2), whose global form is the kernel's synchronize_rcu(); BPF programs run inside RCU read sections. Where
    there is no membarrier nothing is waited for.
    """
    global _waited
    if _waited > since:
        return
    began = time.monotonic()
    number = _MEMBARRIER.get(platform.machine())
    if number is not None:
        _libc.syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0)
    _waited = began


def map_create(kind: int, key_size: int, value_size: int, entries: int, flags: int, name: str) -> int:
    label = name.encode()[:15]
    return _bpf(MAP_CREATE, _attr("=IIIIIII16s", kind, key_size, value_size, entries, flags, 0, 0, label))


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_size)
    try:
        _bpf(MAP_LOOKUP, _attr("=I4xQQQ", fd, _address(key_buffer), _address(value), 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    _bpf(MAP_UPDATE, _attr("=I4xQQQ", fd, _address(key_buffer), _address(value_buffer), flags))


def map_delete(fd: int, key: bytes) -> bool:
    """False when the key was not there."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(MAP_DELETE, _attr("=I4xQ", fd, _address(key_buffer)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def map_pop(fd: int, value_size: int) -> bytes | None:
    """Takes one value off a queue; None when it is empty (BPF_MAP_LOOKUP_AND_DELETE_ELEM)."""
    value = ctypes.create_string_buffer(value_size)
    try:
        _bpf(MAP_POP, _attr("=I4xQQQ", fd, 0, _address(value), 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


class Batch:
    """Reads a whole hash map in large bites (BPF_MAP_LOOKUP_BATCH, 5.6)."""

    def __init__(self, fd: int, key_size: int, value_size: int, bite: int = 16384) -> None:
        self._fd = fd
        self._sizes = key_size, value_size
        self._bite = bite

    def read(self) -> tuple[bytes, bytes]:
        """All keys and all values, in the same order. An entry that moves meanwhile may be missed."""
        key_size, value_size = self._sizes
        bite = self._bite
        keys, values = bytearray(), bytearray()
        token_in: ctypes.Array[ctypes.c_char] | None = None
        token_out = ctypes.create_string_buffer(max(key_size, 8))
        while True:
            key_buffer = ctypes.create_string_buffer(key_size * bite)
            value_buffer = ctypes.create_string_buffer(value_size * bite)
            attr = _attr(
                "=QQQQIIQQ",
                _address(token_in),
                _address(token_out),
                _address(key_buffer),
                _address(value_buffer),
                bite,
                self._fd,
                0,
                0,
            )
            done = False
            try:
                _bpf(MAP_LOOKUP_BATCH, attr)
            except OSError as error:
                if error.errno == errno.ENOSPC:  # one bucket holds more than a bite
                    bite *= 2
                    continue
                if error.errno != errno.ENOENT:
                    raise
                done = True
            count = struct.unpack_from("=I", attr, 32)[0]
            keys += key_buffer.raw[: count * key_size]
            values += value_buffer.raw[: count * value_size]
            if done:
                return bytes(keys), bytes(values)
            token_in = ctypes.create_string_buffer(token_out.raw, len(token_out))


def map_delete_batch(fd: int, keys: bytes, count: int) -> int:
    """Deletes up to ``count`` keys; gives how many were there to delete. Keys already gone are passed over."""
    if count == 0:
        return 0
    size = len(keys) // count
    buffer = ctypes.create_string_buffer(keys, len(keys))
    at = deleted = 0
    while at < count:
        attr = _attr("=QQQQIIQQ", 0, 0, _address(buffer) + at * size, 0, count - at, fd, 0, 0)
        try:
            _bpf(MAP_DELETE_BATCH, attr)
            return deleted + count - at
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            done = struct.unpack_from("=I", attr, 32)[0]
            deleted += done
            at += done + 1
    return deleted


def map_update_batch(fd: int, keys: bytes, values: bytes, count: int) -> None:
    if count == 0:
        return
    key_buffer = ctypes.create_string_buffer(keys, len(keys))
    value_buffer = ctypes.create_string_buffer(values, len(values))
    _bpf(
        MAP_UPDATE_BATCH,
        _attr("=QQQQIIQQ", 0, 0, _address(key_buffer), _address(value_buffer), count, fd, 0, 0),
    )


def prog_load(kind: int, instructions: bytes, name: str, btf_fds: tuple[int, ...] = (), log_level: int = 0) -> int:
    """Loads a GPL program. ``btf_fds``: module BTFs that kfunc calls refer to by index, starting at 1.

    Raises ``VerifierRefused`` with the verifier's log when the kernel refuses it.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    log = ctypes.create_string_buffer(1 << 20) if log_level else None
    fds = ctypes.create_string_buffer(struct.pack(f"={len(btf_fds) + 1}i", 0, *btf_fds)) if btf_fds else None
    attr = _attr(
        "=IIQQIIQII16sIIIIQIIQIIIIQ",
        kind,
        len(instructions) // 8,
        _address(code),
        _address(licence),
        log_level,
        len(log) if log is not None else 0,
        _address(log),
        0,
        0,
        name.encode()[:15],
        *(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        *(0, _address(fds)),
    )
    try:
        return _bpf(PROG_LOAD, attr)
    except OSError as error:
        if log is None and error.errno not in (errno.EPERM, errno.E2BIG):
            return prog_load(kind, instructions, name, btf_fds, log_level=1)
        text = log.value.decode("utf-8", "replace") if log is not None else ""
        raise VerifierRefused(error.errno or 0, name, text) from None


class VerifierRefused(OSError):
    """The kernel did not load ``program``; ``log`` is the verifier's, whole."""

    def __init__(self, code: int, program: str, log: str) -> None:
        super().__init__(code, os.strerror(code))
        self.program = program
        self.log = log

    @property
    def last_lines(self) -> str:
        lines = [line for line in self.log.splitlines() if line and not line.startswith("processed ")]
        return "\n".join(lines[-12:])


def obj_pin(fd: int, path: str) -> None:
    buffer = ctypes.create_string_buffer(path.encode())
    _bpf(OBJ_PIN, _attr("=QII", _address(buffer), fd, 0))


def obj_get(path: str) -> int:
    buffer = ctypes.create_string_buffer(path.encode())
    return _bpf(OBJ_GET, _attr("=QII", _address(buffer), 0, 0))


@dataclass(frozen=True, slots=True)
class MapInfo:
    kind: int
    id: int
    key_size: int
    value_size: int
    entries: int


def map_info(fd: int) -> MapInfo:
    info = ctypes.create_string_buffer(88)
    _bpf(OBJ_INFO, _attr("=IIQ", fd, len(info), _address(info)))
    return MapInfo(*struct.unpack_from("=IIIII", info))


def prog_name(identifier: int) -> str | None:
    """The name of the loaded program of that id (15 bytes at most); None when it is gone."""
    try:
        fd = _bpf(PROG_BY_ID, _attr("=I", identifier))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    try:
        info = ctypes.create_string_buffer(232)
        _bpf(OBJ_INFO, _attr("=IIQ", fd, len(info), _address(info)))
        return info.raw[PROG_NAME : PROG_NAME + 16].split(b"\0")[0].decode("ascii", "replace")
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class TestRun:
    """``duration_ns`` is the kernel's mean for one run."""

    verdict: int
    packet: bytes
    duration_ns: int
    context: bytes


def run_program(fd: int, packet: bytes, repeat: int = 1, context: bytes = b"", room: int = 512) -> TestRun:
    """BPF_PROG_TEST_RUN. ``context``: a struct __sk_buff or xdp_md to start from, and given back."""
    data_in = ctypes.create_string_buffer(packet, len(packet))
    data_out = ctypes.create_string_buffer(len(packet) + room)
    context_in = ctypes.create_string_buffer(context, len(context)) if context else None
    context_out = ctypes.create_string_buffer(len(context)) if context else None
    attr = _attr(
        "=IIIIQQIIIIQQ",
        fd,
        0,
        len(packet),
        len(data_out),
        _address(data_in),
        _address(data_out),
        repeat,
        0,
        len(context),
        len(context),
        _address(context_in),
        _address(context_out),
    )
    _bpf(PROG_TEST_RUN, attr)
    _, verdict, _, size = struct.unpack_from("=IIII", attr)
    duration = struct.unpack_from("=I", attr, 36)[0]
    return TestRun(verdict, data_out.raw[:size], duration, context_out.raw if context_out is not None else b"")


_RETVAL = 1  # of the words of union bpf_attr


class PreparedRun:
    """BPF_PROG_TEST_RUN of one classifier, again and again with the same packet and context, at the least cost.

    The program runs ``repeat`` times in a call, with what the run before left in the context.
    """

    def __init__(self, fd: int, packet: bytes, context: bytes, repeat: int = 1) -> None:
        number = _NUMBER.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, f"bpf(2) on {platform.machine()} is not known here")
        self._buffers = tuple(ctypes.create_string_buffer(raw, len(raw)) for raw in (packet, context))
        data, skb = map(_address, self._buffers)
        attr = _attr("=IIIIQQIIIIQQ", fd, 0, len(packet), 0, data, 0, repeat, 0, len(context), 0, skb, 0)
        self._call = partial(_libc.syscall, number, PROG_TEST_RUN, ctypes.byref(attr), ctypes.sizeof(attr))
        self._result = memoryview(attr).cast("B").cast("I")

    def __call__(self) -> int:
        """What the last run returned; ``OSError`` as bpf(2), ``InterruptedError`` when a signal came."""
        if self._call() < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return self._result[_RETVAL]


def btf_ids() -> list[int]:
    """Ids of all BTF objects the kernel holds (BPF_BTF_GET_NEXT_ID)."""
    out: list[int] = []
    at = 0
    while True:
        attr = _attr("=III", at, 0, 0)
        try:
            _bpf(23, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return out
            raise
        at = struct.unpack_from("=I", attr, 4)[0]
        out.append(at)


def btf_by_id(identifier: int) -> int:
    return _bpf(19, _attr("=I", identifier))


def btf_name(fd: int) -> str:
    """``vmlinux`` or a module's name; empty for a program's."""
    name = ctypes.create_string_buffer(64)
    info = ctypes.create_string_buffer(struct.pack("=QIIQII", 0, 0, 0, ctypes.addressof(name), len(name), 0), 32)
    _bpf(OBJ_INFO, _attr("=IIQ", fd, len(info), _address(info)))
    return name.value.decode()


_LIVE_FRAMES = 1 << 1


def run_live(fd: int, packet: bytes, repeat: int, batch: int = 64) -> int:
    """BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES (5.18): real frames; gives the mean ns a frame, whole.

    Recycled frames keep what was written into them before. The interface comes from the program (a redirect).
    """
    data_in = ctypes.create_string_buffer(packet, len(packet))
    fixed = (fd, 0, len(packet), 0, _address(data_in), 0, repeat, 0, 0, 0, 0, 0, _LIVE_FRAMES, 0, batch)
    attr = _attr("=IIIIQQIIIIQQIII", *fixed)
    _bpf(PROG_TEST_RUN, attr)
    return int(struct.unpack_from("=I", attr, 36)[0])
