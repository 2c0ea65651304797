# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's orders: given to any node, carried out by the primary. Only ``drain --now`` touches what runs.

An auxiliary passes path and body on over the HA link; the answer comes back the same way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from aa_cluster import api
from aa_cluster.agent import load, policy_desk, views
from aa_cluster.agent.auxiliary import Auxiliary
from aa_cluster.agent.primary import Primary
from aa_cluster.core import membership, schedule
from aa_cluster.errors import StateError, UsageError
from aa_cluster.wire import control

if TYPE_CHECKING:
    from aa_cluster.agent.node import Node

T = TypeVar("T")
Order = Callable[["Node", Primary, bytes], Awaitable[api.Answer]]


async def give(node: Node, path: str, body: bytes) -> bytes:
    """The answer (JSON) to an order given on this node. Errors are those of the primary."""
    role = node.role
    if isinstance(role, Primary):
        return await obey(node, role, path, body)
    if isinstance(role, Auxiliary):
        return await role.pass_on(path, body)
    raise StateError("this node is in no cluster, so there is nobody to give orders to", "`aa-cluster join` first")


async def obey(node: Node, role: Primary, path: str, body: bytes) -> bytes:
    order = ORDERS.get(path)
    if order is None:
        raise UsageError(f"{path} is not an order", f"orders are: {', '.join(ORDERS)}")
    return msgspec.json.encode(await order(node, role, body))


def fits(answer: bytes) -> bytes:
    """For the HA link; ``StateError`` when it is too long."""
    if len(answer) > control.MAX_BODY:
        raise StateError(f"the answer has {len(answer)} bytes, too many for the HA link", "ask on the primary itself")
    return answer


async def _drain(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await _set_drained(node, role, body, True)


async def _undrain(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await _set_drained(node, role, body, False)


async def _set_drained(node: Node, role: Primary, body: bytes, drained: bool) -> api.Answer:
    wanted = _read(body, api.DrainRequest)
    if wanted.now and not drained:
        raise UsageError("sessions are not given back to a node", "`undrain` is for new sessions")
    if wanted.now and role.members.called(wanted.node).id == role.members.self_id:
        raise StateError("the primary's own sessions stay where they are", "name an auxiliary")
    async with role.moving:
        role.feed(membership.SetDrained(wanted.node, drained))
        await role.settled()
        if not wanted.now:
            return api.Drained(nodes=await views.nodes(node))
        taken = await role.take_flows_of(role.members.called(wanted.node).id, forget=True)
        return api.Drained(nodes=await views.nodes(node), taken=views.taken(taken))


async def _promote(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await node.succession.hand_over(role, _read(body, api.PromoteRequest).node)


async def _schedule(node: Node, role: Primary, body: bytes) -> api.Answer:
    """An empty body only asks."""
    if body:
        wanted = _read(body, api.ScheduleRequest).schedule
        kind = next((one for one in schedule.KINDS if one == wanted), None)
        if kind is None:
            raise UsageError(f"no schedule is called {wanted!r}", f"the kinds are: {', '.join(schedule.KINDS)}")
        await role.set_kind(kind)
    return await views.schedule_of(node, role)


async def _policy(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await policy_desk.show(role)


async def _policy_check(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await policy_desk.check(role, _read(body, api.PolicyCheckRequest))


async def _policy_reload(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await policy_desk.reload(role)


async def _persist(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await policy_desk.persist(role, _read(body, api.PersistRequest))


async def _top(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await load.top(role, _read(body, api.TopRequest))


async def _sync(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await role.sync.status()


async def _resync(node: Node, role: Primary, body: bytes) -> api.Answer:
    return await role.sync.resync(_read(body, api.ResyncRequest).node)


ORDERS: dict[str, Order] = {
    "/v1/drain": _drain,
    "/v1/undrain": _undrain,
    "/v1/promote": _promote,
    "/v1/schedule": _schedule,
    "/v1/policy": _policy,
    "/v1/policy/check": _policy_check,
    "/v1/policy/reload": _policy_reload,
    "/v1/persist": _persist,
    "/v1/top": _top,
    "/v1/sync": _sync,
    "/v1/sync/resync": _resync,
}


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise UsageError(f"the order cannot be read: {error}", "see aa_cluster/api.py for what it takes") from None
