# SPDX-License-Identifier: GPL-2.0-or-later
"""A conntrack entry made by ctnetlink: with a helper, which entries made by BPF cannot have.

The message is put together here (linux/netfilter/nfnetlink_conntrack.h): pyroute2 knows no CTA_HELP with a name and no
CTA_NAT_*, and opening one of its sockets takes longer than all the rest.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from aa_cluster.errors import NetlinkError
from aa_cluster.netlink.conntrack import Tuple
from aa_cluster.netlink.rtnl import refused

NETLINK_NETFILTER = 12
ANSWER_SECONDS = 2.0

_NEW = 1 << 8 | 0  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
_REQUEST, _ACK, _EXCLUSIVE, _CREATE = 0x01, 0x04, 0x200, 0x400
_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_NESTED = 0x8000

_TUPLE_ORIG, _TUPLE_REPLY, _HELP, _NAT_SRC, _TIMEOUT, _MARK, _NAT_DST = 1, 2, 5, 6, 7, 8, 13
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCE_ADDRESS, _DESTINATION_ADDRESS = {4: 1, 6: 3}, {4: 2, 6: 4}
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_HELP_NAME = 1
_LOWEST_ADDRESS, _HIGHEST_ADDRESS, _NAT_PORTS = {4: 1, 6: 4}, {4: 2, 6: 5}, 3
_LOWEST_PORT, _HIGHEST_PORT = 1, 2


@dataclass(frozen=True, slots=True)
class NewEntry:
    """``translated``: the original tuple as it leaves the gateway; equal to it where nothing is translated.

    ``helper``: the kernel's name of it, "" for none. ``timeout`` in s: until the first packet sets conntrack's own.
    """

    original: Tuple
    translated: Tuple
    mark: int
    helper: str
    timeout: int


def create(entry: NewEntry) -> bool:
    """False when an entry with one of its tuples is there already. ``NetlinkError`` where the kernel refuses it;
    a helper that this kernel does not have is one.

    NAT is set up for both directions, so that no rule decides about it later, and so that a helper that changes what is
    said inside the session finds the sequence numbers adjusted.
    """
    what = f"create conntrack entry {entry.original}"
    try:
        code = converse(encode(entry))
    except OSError as error:
        raise refused(what, error.errno or 0) from error
    if code == errno.EEXIST:
        return False
    if code in (errno.EOPNOTSUPP, errno.EAGAIN, errno.ENOENT) and entry.helper:
        raise NetlinkError(
            f"cannot {what}: this kernel has no conntrack helper {entry.helper} ({os.strerror(code)})",
            f"modprobe nf_conntrack_{entry.helper} nf_nat_{entry.helper}",
        )
    if code:
        raise refused(what, code)
    return True


def encode(entry: NewEntry, sequence: int = 1) -> bytes:
    """The whole netlink message."""
    original, after = entry.original, entry.translated
    body = b"".join(
        (
            _tuple(_TUPLE_ORIG, original),
            _tuple(_TUPLE_REPLY, _inverse(original)),  # the kernel turns it into the translated one, by NAT_*
            _attribute(_HELP | _NESTED, _attribute(_HELP_NAME, entry.helper.encode() + b"\0")) if entry.helper else b"",
            _attribute(_TIMEOUT, struct.pack("!I", entry.timeout)),
            _attribute(_MARK, struct.pack("!I", entry.mark)),
            _nat(_NAT_SRC, after.source, after.source_port),
            _nat(_NAT_DST, after.destination, after.destination_port),
        )
    )
    family = socket.AF_INET6 if original.family == 6 else socket.AF_INET
    payload = struct.pack("!BBH", family, 0, 0) + body
    flags = _REQUEST | _ACK | _EXCLUSIVE | _CREATE
    return _HEADER.pack(_HEADER.size + len(payload), _NEW, flags, sequence, 0) + payload


def _inverse(one: Tuple) -> Tuple:
    return Tuple(one.family, one.protocol, one.destination, one.destination_port, one.source, one.source_port)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, *inside: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(inside))


def _tuple(kind: int, one: Tuple) -> bytes:
    return _nested(
        kind,
        _nested(
            _TUPLE_IP,
            _attribute(_SOURCE_ADDRESS[one.family], ip_address(one.source).packed),
            _attribute(_DESTINATION_ADDRESS[one.family], ip_address(one.destination).packed),
        ),
        _nested(
            _TUPLE_PROTO,
            _attribute(_NUMBER, bytes((one.protocol,))),
            _attribute(_SOURCE_PORT, struct.pack("!H", one.source_port)),
            _attribute(_DESTINATION_PORT, struct.pack("!H", one.destination_port)),
        ),
    )


def _nat(kind: int, address: str, port: int) -> bytes:
    """Exactly this address and port."""
    parsed, number = ip_address(address), struct.pack("!H", port)
    return _nested(
        kind,
        _attribute(_LOWEST_ADDRESS[parsed.version], parsed.packed),
        _attribute(_HIGHEST_ADDRESS[parsed.version], parsed.packed),
        _nested(_NAT_PORTS, _attribute(_LOWEST_PORT, number), _attribute(_HIGHEST_PORT, number)),
    )


def converse(message: bytes) -> int:
    """The errno the kernel answers; 0 when it is done."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as conversation:
        conversation.settimeout(ANSWER_SECONDS)
        conversation.bind((0, 0))
        conversation.send(message)
        answer = conversation.recv(4096)
    kind, code = struct.unpack_from("=4xH", answer)[0], struct.unpack_from("=i", answer, _HEADER.size)[0]
    if kind != _ERROR:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    return -int(code)
