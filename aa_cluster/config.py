# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration file: TOML in, one frozen ``Config`` out, or a ``ConfigError`` that names the key.

Everything a node needs to know before it joins. What a running cluster changes (weights given by
``aa-cluster weight``, ids, membership) is state, not configuration, and lives in ``paths.state``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aa_cluster.core import policy
from aa_cluster.core.schedule import Kind
from aa_cluster.errors import ConfigError

DEFAULT_PATH = Path("/etc/aa-cluster/aa-cluster.toml")
KEY_BYTES = 32
DOUBT_MS = 30
"""Between the wait that leaves a pulse unanswered and the verdict: time for more of them, sent more often."""
MAX_PORTS = 16
"""Data interfaces per node; the slot of an interface is its index in ``data.interfaces``."""

Name = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Ifname = Annotated[str, Meta(min_length=1, max_length=15)]
Weight = Annotated[int, Meta(ge=0, le=100)]


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``id`` keeps clusters apart that share a segment; ``key_file`` holds 32 bytes as 64 hex digits."""

    id: Annotated[int, Meta(ge=1, le=65535)]
    key_file: Path = Path("/etc/aa-cluster/cluster.key")


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``weight`` is this node's share until ``aa-cluster weight`` says otherwise."""

    name: Name
    weight: Weight = 1


class HaLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dedicated link, and how nodes are watched (docs/liveness.md).

    A node whose agent is not heard for ``silent_ms`` gets no new sessions. One of which some link answers no pulse for
    ``dead_ms`` loses those it has; dead for ``forget_s``, it is no member any more.
    """

    interface: Ifname
    port: Annotated[int, Meta(ge=1, le=65535)] = 4201
    heartbeat_ms: Annotated[int, Meta(ge=20, le=10_000)] = 500
    silent_ms: Annotated[int, Meta(ge=60, le=60_000)] = 1500
    pulse_ms: Annotated[int, Meta(ge=10, le=10_000)] = 60
    dead_ms: Annotated[int, Meta(ge=30, le=60_000)] = 150
    forget_s: Annotated[int, Meta(ge=1, le=30 * 24 * 3600)] = 3600


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``interfaces`` in the same order on every node; ``virtual_macs`` overrides the derived ones."""

    interfaces: Annotated[tuple[Ifname, ...], Meta(min_length=1, max_length=MAX_PORTS)]
    virtual_macs: dict[Ifname, str] = {}
    xdp: Literal["auto", "native", "generic"] = "auto"
    flow_table_size: Annotated[int, Meta(ge=1024, le=4_194_303)] = 262_144


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who gets a new session (docs/scheduling.md). ``round-robin`` ignores weights except 0."""

    kind: Kind = "weighted"


class Persistence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client keeps its node until no session of its has begun for ``idle_s``.

    A client is an address, or all of a prefix. ``size``: clients remembered, the least recently used gives way.
    """

    enabled: bool = False
    idle_s: Annotated[int, Meta(ge=1, le=30 * 24 * 3600)] = 300
    prefix_v4: Annotated[int, Meta(ge=1, le=32)] = 32
    prefix_v6: Annotated[int, Meta(ge=1, le=128)] = 128
    size: Annotated[int, Meta(ge=256, le=4_194_304)] = 65_536


PortList = str | int | tuple[str | int, ...]


class PolicyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key that is left out matches everything (docs/policy.md)."""

    action: Literal["share", "keep"]
    interface: Ifname | None = None
    protocol: Literal["tcp", "udp"] | None = None
    source: str | None = None
    destination: str | None = None
    source_ports: PortList | None = None
    ports: PortList | None = None
    mark: str | None = None


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which sessions are shared: the first rule that matches says; ``keep_mark`` goes before all rules.

    ``keep_short_exchanges``: behind all rules, UDP to ports 53 and 123 is kept on the primary.
    ``share_helpers``: also those with a conntrack helper (docs/helpers.md); the same on every node.
    """

    rules: tuple[PolicyRule, ...] = ()
    default: Literal["share", "keep"] = "share"
    keep_mark: str = "0x0/0x0"
    keep_short_exchanges: bool = True
    share_helpers: bool = False


class Flows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``half_open_share``: of the table, for flows whose handshake is not complete.

    ``accounting``: packets and bytes are counted for each flow (docs/flow-table.md tells the cost).
    """

    half_open_share: Annotated[float, Meta(gt=0, le=1)] = 0.25
    accounting: bool = False


class Election(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who becomes primary when the primary is gone (docs/promotion.md). ``static``: nobody.

    ``interface``: the data interface whose segment is the second path, the first where none is named. ``advert_ms``:
    between two advertisements of the primary; silent for three of them and a little, it is gone on that path.
    ``settle_ms``: so long all paths must agree.
    ``router_id``: of VRRP, where 0 means one that follows from the cluster's id.
    """

    kind: Literal["static", "keepalived"] = "static"
    interface: Annotated[str, Meta(max_length=15)] = ""
    advert_ms: Annotated[int, Meta(ge=10, le=10_000, multiple_of=10)] = 20
    settle_ms: Annotated[int, Meta(ge=0, le=5_000)] = 20
    router_id: Annotated[int, Meta(ge=0, le=255)] = 0


class Replication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the other nodes are told of the flow table (docs/replication.md); the same on every node.

    ``mode``: ``all`` changes at once; ``takeover``: only sessions whose handshake is complete; ``periodic``: all, every
    ``interval_ms``; ``off``. What no new session takes along is sent after ``interval_ms``; digests are compared every
    ``verify_s``.
    """

    mode: Literal["all", "takeover", "periodic", "off"] = "all"
    interval_ms: Annotated[int, Meta(ge=1, le=10_000)] = 20
    verify_s: Annotated[int, Meta(ge=1, le=3600)] = 10


class Paths(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the agent keeps things; several agents on one machine each need their own."""

    run: Path = Path("/run/aa-cluster")
    state: Path = Path("/var/lib/aa-cluster")
    pins: Path = Path("/sys/fs/bpf/aa-cluster")

    @property
    def socket(self) -> Path:
        return self.run / "agent.sock"


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cluster: Cluster
    node: Node
    ha: HaLink
    data: Data
    schedule: Schedule = Schedule()
    persistence: Persistence = Persistence()
    policy: Policy = Policy()
    flows: Flows = Flows()
    election: Election = Election()
    replication: Replication = Replication()
    paths: Paths = Paths()
    log: Log = Log()


def load(path: Path) -> Config:
    """Read and validate; every complaint is a ``ConfigError`` that names the file and the key."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration file at {path}", "write one (see README) or name it with --config"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return parse(text, path)


def parse(text: bytes, path: Path = Path("<text>")) -> Config:
    try:
        config = msgspec.toml.decode(text, type=Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{path}: {error}", "correct that key; `aa-cluster config show` prints a valid file"
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", "correct the syntax at that place") from None
    _cross_check(config, path)
    return config


def _decode(kind: type, value: object) -> object:
    """Paths, which msgspec does not know; not for a key of another type."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected `str`, got `{type(value).__name__}`" if kind is Path else f"no such type: {kind}")


def _cross_check(config: Config, path: Path) -> None:
    names = config.data.interfaces
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: data.interfaces names an interface twice: {', '.join(names)}", "name each once")
    if config.ha.interface in names:
        raise ConfigError(
            f"{path}: ha.interface {config.ha.interface!r} is also a data interface",
            "the HA link is a dedicated link: take it out of data.interfaces",
        )
    _at_least(path, "silent_ms", config.ha.silent_ms, 3 * config.ha.heartbeat_ms, "three times ha.heartbeat_ms")
    least = 2 * config.ha.pulse_ms + DOUBT_MS
    _at_least(path, "dead_ms", config.ha.dead_ms, least, f"twice ha.pulse_ms and {DOUBT_MS} ms more")
    for name, mac in config.data.virtual_macs.items():
        if name not in names:
            raise ConfigError(f"{path}: data.virtual_macs names {name!r}, which is not in data.interfaces")
        parse_mac(mac, f"{path}: data.virtual_macs.{name}")
    if config.election.interface and config.election.interface not in names:
        raise ConfigError(
            f"{path}: election.interface is {config.election.interface!r}, which is not in data.interfaces",
            f"name one of {', '.join(names)}, or leave it out",
        )
    policy.parse(config.policy, names, f"{path}: policy")


def _at_least(path: Path, name: str, value: int, least: int, which: str) -> None:
    if value < least:
        raise ConfigError(
            f"{path}: ha.{name} is {value}, expected at least {which} ({least})",
            f"raise ha.{name}, or lower the other",
        )


def parse_mac(text: str, what: str = "MAC address") -> bytes:
    """``aa:bb:cc:dd:ee:ff`` → 6 bytes; unicast and not zero, else ``ConfigError``."""
    if not re.fullmatch(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", text):
        raise ConfigError(f"{what} is {text!r}, expected six hex bytes like 02:aa:00:01:00:00")
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1 or not any(mac):
        raise ConfigError(f"{what} {text} is not a unicast address", "clear the lowest bit of the first byte")
    return mac


def virtual_mac(config: Config, slot: int) -> bytes:
    """The cluster's MAC for data interface ``slot``: configured, or 02:aa:<cluster id, 2 bytes>:00:<slot>."""
    given = config.data.virtual_macs.get(config.data.interfaces[slot])
    if given is not None:
        return parse_mac(given)
    return bytes((0x02, 0xAA)) + config.cluster.id.to_bytes(2, "big") + bytes((0, slot))


def load_key(path: Path) -> bytes:
    """The cluster key: 32 bytes, stored as 64 hex digits in a file only root can read."""
    try:
        text = path.read_text("ascii").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the cluster key {path}: {error}", "make one with `aa-cluster keygen`") from None
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * KEY_BYTES}}}", text):
        raise ConfigError(
            f"the cluster key {path} is not {2 * KEY_BYTES} hex digits", "make one with `aa-cluster keygen`"
        )
    if mode & 0o077:
        raise ConfigError(f"the cluster key {path} can be read by others (mode {mode & 0o777:o})", f"chmod 600 {path}")
    return bytes.fromhex(text)
