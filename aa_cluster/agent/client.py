# SPDX-License-Identifier: GPL-2.0-or-later
"""Talk to an agent: HTTP over its Unix socket, answers as the structs of ``aa_cluster.api``. Blocking, light."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from aa_cluster import api
from aa_cluster.errors import BY_EXIT_CODE, AaError, AgentUnreachable, JoinRefused

AnyAnswer = (
    api.Status
    | api.Nodes
    | api.Flows
    | api.Stats
    | api.Arp
    | api.Doctor
    | api.Joined
    | api.Leaving
    | api.WeightSet
    | api.Drained
    | api.Promoted
    | api.Schedule
    | api.Event
    | api.Top
    | api.Policy
    | api.PolicyChecked
    | api.PolicyReloaded
    | api.Persist
    | api.Sync
    | api.Resynced
    | api.Error
)
DEFAULT_TIMEOUT = 30.0
GRACE = 15.0
"""s a request that names its own ``timeout`` may take beyond it: compiling the dataplane, detaching."""

_decoder: msgspec.json.Decoder[AnyAnswer] = msgspec.json.Decoder(AnyAnswer)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class AgentClient:
    """One agent. ``timeout`` s is how long a line of an answer may take.

    Every method raises the error the agent answers with, or ``AgentUnreachable``.
    """

    def __init__(self, path: Path, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout

    def get(self, path: str, params: Mapping[str, str] | None = None) -> api.Answer:
        query = f"?{urlencode(params)}" if params else ""
        return self._last("GET", path + query, None)

    def post(self, path: str, body: msgspec.Struct) -> api.Answer:
        """The answer; of a streamed one (``/v1/leave``) the last line."""
        return self._last("POST", path, body)

    def stream(self, path: str, body: msgspec.Struct) -> Iterator[api.Answer]:
        """``POST path`` whose answer comes as JSON lines, each as soon as the agent sends it."""
        return self._lines("POST", path, body)

    def events(self, params: Mapping[str, str]) -> Iterator[api.Event]:
        """``GET /v1/events``, for ever, of all that happens after this has returned.

        The agent sends a blank line at the start and now and then, so silence means that it is gone.
        """
        query = f"?{urlencode(params)}" if params else ""
        answers = self._said("GET", f"/v1/events{query}", None)
        next(answers)
        return (answer for answer in answers if isinstance(answer, api.Event))

    def _last(self, method: str, path: str, body: msgspec.Struct | None) -> api.Answer:
        answer: api.Answer | None = None
        for answer in self._lines(method, path, body):  # noqa: B007  # the last one counts
            pass
        if answer is None:
            raise AgentUnreachable(f"the agent at {self._path} gave no answer", "see its log: it may have ended")
        return answer

    def _lines(self, method: str, path: str, body: msgspec.Struct | None) -> Iterator[api.Answer]:
        return (answer for answer in self._said(method, path, body) if answer is not None)

    def _said(self, method: str, path: str, body: msgspec.Struct | None) -> Iterator[api.Answer | None]:
        """None for a blank line."""
        connection = _UnixConnection(self._path, self._patience(body))
        content = None if body is None else msgspec.json.encode(body)
        try:
            connection.request(method, path, content, {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                while line := response.readline():
                    yield _decode(line) if line.strip() else None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _patience(self, body: msgspec.Struct | None) -> float:
        asked = getattr(body, "timeout", getattr(body, "interval", None))
        return max(self._timeout, asked + GRACE) if isinstance(asked, (int, float)) else self._timeout

    def _unreachable(self, error: Exception) -> AgentUnreachable:
        if isinstance(error, TimeoutError):
            return AgentUnreachable(f"the agent at {self._path} does not answer in time", "see its log; is it stopped?")
        return AgentUnreachable(
            f"no agent answers at {self._path} ({error})",
            "start it with `aa-cluster agent --config FILE`, or name the right configuration with --config",
        )


def _decode(line: bytes) -> api.Answer:
    try:
        answer = _decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise AgentUnreachable(f"the agent's answer cannot be read: {error}", "is it of this release?") from None
    if isinstance(answer, api.Error):
        raise error_of(answer)
    return answer


def error_of(answer: api.Error) -> AaError:
    kind = BY_EXIT_CODE.get(answer.code, AaError)
    if kind is JoinRefused:
        return JoinRefused(answer.message, answer.hint, answer.findings)
    return kind(answer.message, answer.hint)
