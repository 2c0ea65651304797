# SPDX-License-Identifier: GPL-2.0-or-later
"""The HA link: datagrams in and out, authenticated, never replayed, and requests that ask again until answered.

A datagram is taken only from an instance (one start of one agent) that has proved to be alive: the first one from an
unknown instance is held back and answered with a ``Challenge``. Within an instance sequence numbers must rise.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aa_cluster import log
from aa_cluster.errors import TimeoutReached, WireError
from aa_cluster.wire import control, envelope
from aa_cluster.wire.control import AnyMessage
from aa_cluster.wire.envelope import Header
from aa_cluster.wire.keys import KeyRing

ASK_INTERVAL = 0.2
MAX_INSTANCES = 1024
STRANGER_SECONDS = 3.0

_log = log.get("link")


class Transport(Protocol):
    """Carries datagrams on the HA link's segment. ``address`` None means everybody."""

    def send(self, datagram: bytes, address: str | None) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a message: its IPv4 address on the HA link and its agent's instance."""

    address: str
    instance: bytes


@dataclass(frozen=True, slots=True)
class Stranger:
    """The clear header of a datagram that could not be read, and when it came (s)."""

    header: Header
    address: str
    heard: float


@dataclass(slots=True)
class _Instance:
    """``challenge`` is what it must echo; ``held`` its last message until it has. ``verified`` once it has."""

    challenge: bytes = field(default_factory=lambda: secrets.token_bytes(8))
    sequence: int = 0
    verified: bool = False
    held: AnyMessage | None = None


class Link:
    """One node's end. Not thread-safe: everything happens on the event loop's thread."""

    def __init__(
        self,
        keys: KeyRing,
        cluster_id: int,
        clock: Callable[[], float],
        wire_version: int = envelope.VERSION,
        ask_interval: float = ASK_INTERVAL,
    ) -> None:
        self.instance = os.urandom(envelope.INSTANCE_BYTES)
        self.is_primary = False
        self.on_message: Callable[[AnyMessage, Peer], None] = lambda message, peer: None
        self.strangers: dict[str, Stranger] = {}
        self.wire_version = wire_version
        self.refused = 0
        self._keys = keys
        self._cluster_id = cluster_id
        self._clock = clock
        self._ask_interval = ask_interval
        self._sequence = 0
        self._transport: Transport | None = None
        self._instances: OrderedDict[bytes, _Instance] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[AnyMessage]] = {}

    def attach(self, transport: Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def send(self, message: AnyMessage, address: str | None = None) -> None:
        """To one address or, without, to everybody on the link. Loss is silent, as on any datagram network."""
        if self._transport is None:
            return
        self._sequence += 1
        header = Header(
            version=self.wire_version,
            flags=envelope.FLAG_PRIMARY if self.is_primary else 0,
            cluster_id=self._cluster_id,
            fingerprint=self._keys.fingerprint,
            instance=self.instance,
            sequence=self._sequence,
        )
        self._transport.send(envelope.seal(header, message, self._keys.control), address)

    async def ask(self, request: control.Request, address: str, timeout: float) -> AnyMessage:
        """The answer to ``request``, sent every 200 ms until it comes; ``TimeoutReached`` after ``timeout`` s."""
        answer: asyncio.Future[AnyMessage] = asyncio.get_running_loop().create_future()
        self._asked[request.nonce] = answer
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self.send(request, address)  # type: ignore[arg-type]  # each request is one of AnyMessage
                    done, _ = await asyncio.wait((answer,), timeout=self._ask_interval)
                    if done:
                        return answer.result()
        except TimeoutError:
            raise TimeoutReached(
                f"{address} did not answer {type(request).__name__} within {timeout:g} s", "look at the HA link"
            ) from None
        finally:
            self._asked.pop(request.nonce, None)

    def receive(self, datagram: bytes, address: str) -> None:
        """Called by the transport for each datagram; never raises for what is in it."""
        try:
            header = envelope.peek(datagram)
            if header.instance == self.instance or header.cluster_id != self._cluster_id:
                return
            if header.version != self.wire_version or header.fingerprint != self._keys.fingerprint:
                self._note_stranger(header, address)
                return
            message = envelope.unseal(datagram, self._keys.control)
        except WireError as error:
            self.refused += 1
            _log.debug("datagram refused", sender=address, why=error.message)
            return
        self._admit(header, message, address)

    def heard_strangers(self) -> tuple[Stranger, ...]:
        """Those heard within the last 3 s."""
        limit = self._clock() - STRANGER_SECONDS
        return tuple(one for one in self.strangers.values() if one.heard >= limit)

    def _note_stranger(self, header: Header, address: str) -> None:
        if address not in self.strangers and len(self.strangers) >= MAX_INSTANCES:
            self.strangers.clear()
        self.strangers[address] = Stranger(header, address, self._clock())

    def _admit(self, header: Header, message: AnyMessage, address: str) -> None:
        instance = self._known(header.instance)
        if header.sequence <= instance.sequence:
            self.refused += 1
            return
        if isinstance(message, control.Challenge):
            self.send(control.Response(message.value), address)
        elif isinstance(message, control.Response):
            self._verify(instance, header, message, address)
        elif instance.verified:
            instance.sequence = header.sequence
            self._deliver(message, Peer(address, header.instance))
        else:
            instance.held = message
            self.send(control.Challenge(instance.challenge), address)

    def _known(self, name: bytes) -> _Instance:
        instance = self._instances.get(name)
        if instance is None:
            instance = self._instances[name] = _Instance()
            if len(self._instances) > MAX_INSTANCES:
                self._instances.popitem(last=False)
        elif instance.verified:
            self._instances.move_to_end(name)
        return instance

    def _verify(self, instance: _Instance, header: Header, message: control.Response, address: str) -> None:
        if instance.verified or message.value != instance.challenge:
            return
        instance.verified = True
        instance.sequence = header.sequence
        held, instance.held = instance.held, None
        if held is not None:
            self._deliver(held, Peer(address, header.instance))

    def _deliver(self, message: AnyMessage, peer: Peer) -> None:
        if isinstance(message, control.Reply):
            waiting = self._asked.get(message.nonce)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        self.on_message(message, peer)
