# SPDX-License-Identifier: GPL-2.0-or-later
"""SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), 64-bit output.

The user-space twin of ``bpf/include/siphash.h``: the oracle of its tests, and what the wire tests sign with.
"""

from __future__ import annotations

KEY_BYTES = 16
TAG_BYTES = 8
_MASK = (1 << 64) - 1
_INITIAL = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
_State = tuple[int, int, int, int]


def _rotate(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & _MASK


def _round(state: _State) -> _State:
    v0, v1, v2, v3 = state
    v0 = (v0 + v1) & _MASK
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 = (v2 + v3) & _MASK
    v3 = _rotate(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotate(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotate(v1, 17) ^ v2
    v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


def _absorb(state: _State, word: int) -> _State:
    v0, v1, v2, v3 = state
    v0, v1, v2, v3 = _round(_round((v0, v1, v2, v3 ^ word)))
    return v0 ^ word, v1, v2, v3


def siphash24(key: bytes, data: bytes) -> bytes:
    """8 bytes, little-endian as in the reference. ``key``: 16 bytes, else ``ValueError``."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"SipHash key has {len(key)} bytes, expected {KEY_BYTES}")
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    i0, i1, i2, i3 = _INITIAL
    state: _State = (i0 ^ k0, i1 ^ k1, i2 ^ k0, i3 ^ k1)
    whole = len(data) & ~7
    for at in range(0, whole, 8):
        state = _absorb(state, int.from_bytes(data[at : at + 8], "little"))
    last = int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56
    v0, v1, v2, v3 = _absorb(state, last)
    state = (v0, v1, v2 ^ 0xFF, v3)
    for _ in range(4):
        state = _round(state)
    v0, v1, v2, v3 = state
    return (v0 ^ v1 ^ v2 ^ v3).to_bytes(8, "little")
