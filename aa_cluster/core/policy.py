# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sessions are shared (docs/policy.md): rules out of the configuration, and the decision for one session.

``decide`` says the same as ``judge`` in bpf/include/policy.h, which the tests hold against it, and says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, Literal

from aa_cluster.errors import ConfigError

if TYPE_CHECKING:
    from aa_cluster.config import Policy as PolicySection
    from aa_cluster.config import PolicyRule

Action = Literal["share", "keep"]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_RULES = 64
MAX_LINES = 128
"""AA_RULE_LINES of bpf/include/types.h: a rule takes one for each pair of a source port range and a port range. The
built-in ones are among them."""

PROTOCOLS = {"tcp": 6, "udp": 17}
"""What can be shared, over IPv4 and IPv6, by IP protocol number."""
KEPT_PROTOCOLS = {"icmp": 1, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "sctp": 132}
"""Some that cannot: the primary keeps whatever is not in ``PROTOCOLS``."""
HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True, order=True)
class Ports:
    """``first`` to ``last``, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


ANY_PORT = Ports(0, HIGHEST_PORT)


@dataclass(frozen=True, slots=True)
class Mark:
    """Bits of the connmark or the packet mark. ``mask`` 0: never asked for."""

    value: int = 0
    mask: int = 0

    def on(self, connmark: int, packet_mark: int) -> bool:
        """A value that is not 0: one of the two carries it. 0: neither has any bit of the mask."""
        if not self.value:
            return (connmark | packet_mark) & self.mask == 0
        return self.value in (connmark & self.mask, packet_mark & self.mask)

    def __str__(self) -> str:
        return f"{self.value:#x}/{self.mask:#x}"


NO_MARK = Mark()


@dataclass(frozen=True, slots=True)
class Rule:
    """What is None or empty matches everything. Prefixes and ports: of the first packet as it arrived, before NAT."""

    action: Action
    interface: str | None = None
    protocol: int | None = None
    source: Network | None = None
    destination: Network | None = None
    source_ports: tuple[Ports, ...] = ()
    ports: tuple[Ports, ...] = ()
    mark: Mark = NO_MARK

    @property
    def lines(self) -> int:
        """How many lines of the dataplane's table it takes."""
        return max(1, len(self.source_ports)) * max(1, len(self.ports))

    def __str__(self) -> str:
        said = {
            "interface": self.interface,
            "protocol": None if self.protocol is None else protocol_name(self.protocol),
            "source": self.source,
            "destination": self.destination,
            "source_ports": ",".join(map(str, self.source_ports)),
            "ports": ",".join(map(str, self.ports)),
            "mark": self.mark if self.mark.mask else None,
        }
        terms = [f"{name} {value}" for name, value in said.items() if value not in (None, "")]
        return f"{self.action} {', '.join(terms) or 'everything'}"


BUILT_IN = (
    Rule("keep", protocol=PROTOCOLS["udp"], ports=(Ports(53, 53),)),  # DNS
    Rule("keep", protocol=PROTOCOLS["udp"], ports=(Ports(123, 123),)),  # NTP
)
"""Short exchanges: a question and its answer cost less on the primary, which sees the question anyway."""


@dataclass(frozen=True, slots=True)
class Policy:
    """``default`` is for what no rule matches; a session with ``keep_mark`` is kept before any rule is asked.

    ``built_in`` rules come behind the operator's and before the default.
    """

    rules: tuple[Rule, ...] = ()
    default: Action = "share"
    keep_mark: Mark = NO_MARK
    built_in: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """A new session as its first packet arrived, with the marks that the ruleset gave it."""

    interface: str
    source: Address
    destination: Address
    source_port: int
    port: int
    protocol: int = PROTOCOLS["tcp"]
    connmark: int = 0
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """``rule``: index of the operator's one that decided, ``built_in``: of the built-in one; None for the default and
    the keep mark. ``why``: a sentence."""

    action: Action
    rule: int | None
    why: str
    mismatches: tuple[str, ...] = field(default=(), compare=False)
    """Why each of the operator's rules before the deciding one does not match, in order."""
    built_in: int | None = None


def decide(
    rules: Sequence[Rule], default: Action, keep_mark: Mark, session: Session, built_in: Sequence[Rule] = ()
) -> Decision:
    """The keep mark first, then the first rule that matches, the operator's before built-in ones, then the default."""
    if keep_mark.mask and keep_mark.on(session.connmark, session.mark):
        return Decision(
            "keep", None, f"connmark {session.connmark:#x} or packet mark {session.mark:#x} has keep_mark {keep_mark}"
        )
    mismatches: list[str] = []
    for index, rule in enumerate(rules):
        reason = mismatch(rule, session)
        if not reason:
            return Decision(rule.action, index, f"rule {index + 1} matches: {rule}", tuple(mismatches))
        mismatches.append(f"rule {index + 1} does not match: {reason}")
    for index, rule in enumerate(built_in):
        if not mismatch(rule, session):
            return Decision(rule.action, None, f"a built-in rule matches: {rule}", tuple(mismatches), index)
    what = "no rule matches" if rules else "there are no rules"
    return Decision(default, None, f"{what}: the default is {default}", tuple(mismatches))


def mismatch(rule: Rule, session: Session) -> str:
    """What of the session the rule does not match, the first such thing; empty when it matches."""
    checks = (
        (rule.interface in (None, session.interface), f"it came in on {session.interface}, not {rule.interface}"),
        (
            rule.protocol in (None, session.protocol),
            f"protocol {protocol_name(session.protocol)} is not {protocol_name(rule.protocol or 0)}",
        ),
        (_within(session.source, rule.source), f"{session.source} is not in source {rule.source}"),
        (
            _within(session.destination, rule.destination),
            f"{session.destination} is not in destination {rule.destination}",
        ),
        (_one_of(session.source_port, rule.source_ports), f"source port {session.source_port} is not in source_ports"),
        (_one_of(session.port, rule.ports), f"port {session.port} is not in ports"),
        (
            not rule.mark.mask or rule.mark.on(session.connmark, session.mark),
            f"connmark {session.connmark:#x} and packet mark {session.mark:#x} do not match mark {rule.mark}",
        ),
    )
    return next((reason for fits, reason in checks if not fits), "")


def protocol_name(number: int) -> str:
    """``tcp``, or the number in digits."""
    names = {value: name for name, value in (PROTOCOLS | KEPT_PROTOCOLS).items()}
    return names.get(number, str(number))


def protocol_number(text: str) -> int | None:
    """The other way round; None when it is neither a name nor a number from 0 to 255."""
    if text.isascii() and text.isdecimal() and int(text) <= 255:
        return int(text)
    return (PROTOCOLS | KEPT_PROTOCOLS).get(text)


def _within(address: Address, network: Network | None) -> bool:
    return network is None or (address.version == network.version and address in network)


def _one_of(port: int, ranges: tuple[Ports, ...]) -> bool:
    return not ranges or any(port in each for each in ranges)


def parse(section: PolicySection, interfaces: Sequence[str], where: str = "policy") -> Policy:
    """Rules out of the configuration. Every complaint is a ``ConfigError`` that names the rule (from 1) and its key."""
    if len(section.rules) > MAX_RULES:
        raise ConfigError(f"{where}.rules has {len(section.rules)} rules, expected {MAX_RULES} at most", "join some")
    rules = tuple(
        _rule(given, interfaces, f"{where}.rules: rule {number}") for number, given in enumerate(section.rules, start=1)
    )
    built_in = BUILT_IN if section.keep_short_exchanges else ()
    lines, most = sum(rule.lines for rule in rules), MAX_LINES - sum(rule.lines for rule in built_in)
    if lines > most:
        raise ConfigError(
            f"{where}.rules has {lines} pairs of source_ports and ports, expected {most} at most",
            "use ranges instead of lists of ports",
        )
    keep = parse_mark(section.keep_mark, f"{where}.keep_mark")
    if keep.mask and not keep.value:
        raise ConfigError(
            f"{where}.keep_mark is {section.keep_mark!r}: with value 0 it would keep every session without a mark",
            'give the bits that keep a session, like "0x80000000/0x80000000"; "0x0/0x0" keeps none',
        )
    return Policy(rules, section.default, keep, built_in)


def _rule(given: PolicyRule, interfaces: Sequence[str], where: str) -> Rule:
    if given.interface is not None and given.interface not in interfaces:
        raise ConfigError(
            f"{where}: interface is {given.interface!r}, expected a data interface ({', '.join(interfaces)})"
        )
    source = _prefix(given.source, f"{where}: source")
    destination = _prefix(given.destination, f"{where}: destination")
    if source is not None and destination is not None and source.version != destination.version:
        raise ConfigError(f"{where}: source {source} and destination {destination} are of two address families")
    return Rule(
        given.action,
        given.interface,
        None if given.protocol is None else PROTOCOLS[given.protocol],
        source,
        destination,
        parse_ports(given.source_ports, f"{where}: source_ports"),
        parse_ports(given.ports, f"{where}: ports"),
        NO_MARK if given.mark is None else parse_mark(given.mark, f"{where}: mark"),
    )


def _prefix(text: str | None, what: str) -> Network | None:
    if text is None:
        return None
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"{what} is {text!r}, expected an address or a prefix like 10.1.0.0/16") from None
    if "/" in text and ip_network(text, strict=False).network_address != _address_part(text):
        raise ConfigError(f"{what} is {text!r}, which has bits behind the prefix", f"write {network}")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ConfigError(f"{what} is {text!r}, a v4-mapped prefix", "write it as an IPv4 prefix")
    return network


def _address_part(text: str) -> Address:
    return ip_network(text.split("/", 1)[0]).network_address


def parse_ports(given: str | int | Sequence[str | int] | None, what: str = "ports") -> tuple[Ports, ...]:
    """``80``, ``"80"``, ``"80-90"``, ``"80,443"`` or a list of such; sorted, those that touch joined."""
    if given is None:
        return ()
    items = [given] if isinstance(given, str | int) else list(given)
    texts = [part.strip() for item in items for part in str(item).split(",")]
    if not texts:
        raise ConfigError(f"{what} is an empty list, expected ports", "leave the key out to match every port")
    joined: list[Ports] = []
    for each in sorted(_port_range(text, what) for text in texts):
        if joined and each.first <= joined[-1].last + 1:
            joined[-1] = Ports(joined[-1].first, max(joined[-1].last, each.last))
        else:
            joined.append(each)
    return tuple(joined)


def _port_range(text: str, what: str) -> Ports:
    match = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", text, re.ASCII)
    if match is None:
        raise ConfigError(f"{what} has {text!r}, expected a port or a range like 1024-65535")
    first, last = int(match[1]), int(match[2] or match[1])
    if last > HIGHEST_PORT or first > HIGHEST_PORT:
        raise ConfigError(f"{what} has {text!r}, expected ports from 0 to {HIGHEST_PORT}")
    if first > last:
        raise ConfigError(f"{what} has {text!r}, whose first port is above its last", f"write {last}-{first}")
    return Ports(first, last)


def parse_mark(text: str, what: str = "mark") -> Mark:
    """``VALUE/MASK``, or ``VALUE`` for all 32 bits; decimal or 0x…"""
    value_text, slash, mask_text = text.partition("/")
    try:
        value, mask = int(value_text, 0), int(mask_text, 0) if slash else 0xFFFFFFFF
    except ValueError:
        raise ConfigError(f"{what} is {text!r}, expected VALUE/MASK like 0x1/0xff") from None
    if not 0 <= value <= 0xFFFFFFFF or not 0 <= mask <= 0xFFFFFFFF:
        raise ConfigError(f"{what} is {text!r}, expected 32-bit numbers")
    if value & ~mask:
        raise ConfigError(
            f"{what} is {text!r}, whose value has bits outside its mask: nothing would match",
            f"write {value & mask:#x}/{mask:#x}, or a wider mask",
        )
    return Mark(value, mask)
