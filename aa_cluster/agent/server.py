# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's HTTP server on its Unix socket (mode 0600): see ``aa_cluster.api`` for paths and bodies."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

import msgspec
from aiohttp import web

from aa_cluster import api, log
from aa_cluster.agent import orders, views
from aa_cluster.agent.auxiliary import Auxiliary
from aa_cluster.agent.events import FLOW_KINDS, Filter
from aa_cluster.agent.primary import Primary
from aa_cluster.errors import AaError, JoinRefused, StateError, UsageError

if TYPE_CHECKING:
    from aa_cluster.agent.node import Node

T = TypeVar("T")
SHUTDOWN_SECONDS = 0.5
"""What a request under way gets when the agent ends."""
QUIET_SECONDS = 5.0
"""Nothing happens for so long: see whether the reader of events is still there."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = log.get("api")


class Server:
    """Answers for one node. ``open`` binds the socket, ``close`` removes it."""

    def __init__(self, node: Node, path: Path) -> None:
        self._node = node
        self._path = path
        self._runner: web.AppRunner | None = None
        self._closing = False

    async def open(self) -> None:
        """``StateError`` when another agent serves the socket already."""
        await self._refuse_second_agent()
        application = web.Application(middlewares=[_errors_as_answers])
        application.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/nodes", self._nodes),
                web.get("/v1/flows", self._flows),
                web.get("/v1/stats", self._stats),
                web.get("/v1/arp", self._arp),
                web.get("/v1/doctor", self._doctor),
                web.post("/v1/join", self._join),
                web.post("/v1/leave", self._leave),
                web.post("/v1/weight", self._weight),
                web.get("/v1/events", self._events),
                *(web.get(path, self._order) for path in ("/v1/schedule", "/v1/policy", "/v1/sync")),
                *(web.post(path, self._order) for path in orders.ORDERS),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        before = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(self._path)).start()
        except OSError as error:
            raise StateError(f"cannot serve {self._path}: {error.strerror}", "is paths.run writable?") from None
        finally:
            os.umask(before)

    async def close(self) -> None:
        self._closing = True
        if self._runner is not None:
            await self._runner.cleanup()
            self._path.unlink(missing_ok=True)

    async def _refuse_second_agent(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _, writer = await asyncio.open_unix_connection(str(self._path))
        except (FileNotFoundError, ConnectionRefusedError):
            self._path.unlink(missing_ok=True)
            return
        writer.close()
        raise StateError(f"another agent serves {self._path}", "end it first, or give this one its own [paths] run")

    async def _status(self, request: web.Request) -> web.Response:
        return _answer(await views.status(self._node))

    async def _nodes(self, request: web.Request) -> web.Response:
        return _answer(api.Nodes(nodes=await views.nodes(self._node)))

    async def _flows(self, request: web.Request) -> web.Response:
        from aa_cluster.agent import flows_view

        role = self._node.role
        if role is None:
            raise StateError("this node is in no cluster, so it has no flows", "`aa-cluster join` first")
        table = await role.plane.call(role.plane.plane.flows)
        names = {row.id: row.name for row in await views.nodes(self._node)}
        return _answer(await asyncio.to_thread(flows_view.flows, table, request.query, names))

    async def _stats(self, request: web.Request) -> web.Response:
        return _answer(await views.stats(self._node))

    async def _arp(self, request: web.Request) -> web.Response:
        return _answer(await views.arp(self._node))

    async def _doctor(self, request: web.Request) -> web.Response:
        from aa_cluster import doctor

        role = self._node.role
        digest = (await role.primary_digest() or None) if isinstance(role, Auxiliary) else None
        checks = await asyncio.to_thread(doctor.run, self._node.context.config, digest)
        return _answer(api.Doctor(checks=checks))

    async def _join(self, request: web.Request) -> web.Response:
        return _answer(await self._node.join(await _body(request, api.JoinRequest)))

    async def _leave(self, request: web.Request) -> web.StreamResponse:
        """JSON lines. A refusal before the first line is an ordinary error answer, after it a line."""
        wanted = await _body(request, api.LeaveRequest)
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        async with aclosing(self._node.leave(wanted)) as lines:
            try:
                async for line in lines:
                    await self._line(request, response, line)
            except AaError as error:
                if not response.prepared:
                    raise
                await self._line(request, response, _error(error))
        await response.write_eof()
        return response

    async def _line(self, request: web.Request, response: web.StreamResponse, line: api.Answer) -> None:
        if not response.prepared:
            await response.prepare(request)
        await response.write(msgspec.json.encode(line) + b"\n")

    async def _order(self, request: web.Request) -> web.Response:
        answer = await orders.give(self._node, request.path, await request.read())
        return web.Response(body=answer, content_type="application/json")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """JSON lines without end; a blank line now and then shows that the reader is still there."""
        wanted = _filter(request.query)
        if wanted.flows and not isinstance(self._node.role, Primary):
            raise StateError("only the primary knows when flows begin and end", "ask the agent of the primary")
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        with self._node.context.events.reading(wanted) as reader, contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await response.write(b"\n")
            while not self._closing:
                lines = await reader.take(QUIET_SECONDS)
                await response.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines) or b"\n")
        return response

    async def _weight(self, request: web.Request) -> web.Response:
        wanted = await _body(request, api.WeightRequest)
        if not 0 <= wanted.weight <= 100:
            raise UsageError(f"weight is {wanted.weight}, expected 0 to 100")
        role = self._node.role
        if not isinstance(role, (Primary, Auxiliary)):
            raise StateError("this node is in no cluster, so nobody has a weight", "`aa-cluster join` first")
        await role.set_weight(wanted.node, wanted.weight)
        return _answer(api.WeightSet(nodes=await views.nodes(self._node)))


@web.middleware
async def _errors_as_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except AaError as error:
        return _answer(_error(error), 400 if isinstance(error, UsageError) else 409)
    except web.HTTPException as error:
        return _answer(api.Error(code=UsageError.exit_code, message=f"{request.path}: {error.reason}"), error.status)
    except ConnectionResetError:
        raise
    except Exception as error:  # noqa: BLE001  # one broken request must not end the agent; it is logged
        _log.exception("request failed", path=request.path)
        return _answer(api.Error(code=1, message=f"{type(error).__name__}: {error}", hint="see the agent's log"), 500)


def _filter(query: Mapping[str, str]) -> Filter:
    """``kind``, ``node``, ``address``, ``protocol`` and ``family``: one or several with commas between; ``flows=1``."""
    filters = ("kind", "node", "address", "protocol", "family", "flows")
    unknown = set(query) - set(filters)
    if unknown:
        raise UsageError(f"unknown filter {', '.join(sorted(unknown))}", f"use {', '.join(filters)}")
    kinds = _words(query, "kind")
    strange = kinds - set(get_args(api.EventKind))
    if strange:
        known = ", ".join(get_args(api.EventKind))
        raise UsageError(f"no event is called {', '.join(sorted(strange))}", f"the kinds are: {known}")
    flows = query.get("flows", "0") == "1" or not kinds.isdisjoint(FLOW_KINDS)
    return Filter(
        kinds,
        _words(query, "node"),
        _words(query, "address"),
        flows,
        _words(query, "protocol"),
        _words(query, "family"),
    )


def _words(query: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset(filter(None, query.get(name, "").split(",")))


def _error(error: AaError) -> api.Error:
    findings = error.findings if isinstance(error, JoinRefused) else ()
    return api.Error(code=error.exit_code, message=error.message, hint=error.hint, findings=findings)


def _answer(answer: api.Answer, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{request.path}: {error}", "see aa_cluster/api.py for what it takes") from None
