# SPDX-License-Identifier: GPL-2.0-or-later
"""What auxiliaries ask of the primary: each request is worked on once; a repetition gets the same answer."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from aa_cluster import log
from aa_cluster.agent.tasks import TaskSet
from aa_cluster.core import admission, membership
from aa_cluster.errors import AaError
from aa_cluster.wire import control
from aa_cluster.wire.control import AnyMessage

if TYPE_CHECKING:
    from aa_cluster.agent.link import Peer
    from aa_cluster.agent.primary import Primary

ANSWERS_KEPT = 64
COUNT_SECONDS = 1.0
"""What a node that leaves is told of its sessions is no older."""

_log = log.get("primary")


class Requests:
    """Of one primary; ``tasks`` are its own, and end with it."""

    def __init__(self, role: Primary, tasks: TaskSet) -> None:
        self._role = role
        self._context = role.context
        self._tasks = tasks
        self._answers: OrderedDict[bytes, AnyMessage | None] = OrderedDict()

    def take(self, request: control.Request, peer: Peer) -> None:
        if request.nonce in self._answers:
            answer = self._answers[request.nonce]
            if answer is not None:
                self._context.link.send(answer, peer.address)
            return
        self._answers[request.nonce] = None
        if len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)
        self._tasks.start(self._answer(request, peer), type(request).__name__)

    async def _answer(self, request: control.Request, peer: Peer) -> None:
        try:
            answer = await self._work(request, peer)
        except AaError as error:
            answer = control.Refused(request.nonce, error.exit_code, error.message[:1024], error.hint[:1024])
        self._answers[request.nonce] = answer
        self._context.link.send(answer, peer.address)

    async def _work(self, request: control.Request, peer: Peer) -> AnyMessage:
        now = self._context.clock()
        match request:
            case control.JoinAsk():
                return await self._admit(request, peer)
            case control.Ready():
                self._role.feed(membership.Ready(request.node_id, now))
                await self._role.settled()
                return control.ReadyAck(request.nonce, self._role.members.epoch)
            case control.LeaveAsk():
                self._role.feed(membership.Drain(request.node_id))
                await self._role.settled()
                if request.now:
                    await self._role.take_flows_of(request.node_id)
                left = await self._role.upkeep.count_sessions(COUNT_SECONDS)
                return control.LeaveStatus(request.nonce, left.get(request.node_id, 0))
            case control.LeaveDone():
                self._role.feed(membership.Leave(request.node_id))
                await self._role.settled()
                return control.LeaveAck(request.nonce)
            case control.WeightAsk():
                await self._role.set_weight(request.node, request.weight)
                return control.WeightAck(request.nonce, self._role.table())
            case control.OrderAsk() if self._role.on_order is not None:
                return await self._role.on_order(request)
            case control.RulesetAsk():
                await self._role.read_ruleset()
                return control.RulesetAnswer(request.nonce, self._role.ruleset)
            case control.PromoteGo() | control.PromoteTake() if self._role.on_promotion is not None:
                return await self._role.on_promotion(request)
            case _:
                answer = await self._role.sync.answer(request)
                if answer is not None:
                    return answer
                return control.Refused(request.nonce, 13, f"{type(request).__name__} is not for a primary", "")

    async def _admit(self, ask: control.JoinAsk, peer: Peer) -> AnyMessage:
        self._role.survey = await self._context.survey()
        await self._role.read_ruleset()
        virtual_macs = tuple(port.virtual_mac for port in self._role.settings.ports)
        own = admission.Own(
            self._context.wire_version,
            self._role.ruleset,
            self._role.survey.interfaces(),
            virtual_macs,
            self._role.settings.share_helpers,
            self._context.config.data.flow_table_size,
        )
        findings = admission.examine(ask, own, self._role.members)
        if findings:
            _log.warning("join refused", node=ask.name, address=peer.address, findings=[str(one) for one in findings])
            return control.JoinRefusal(ask.nonce, findings)
        facts = membership.Facts(
            ask.name, ask.ha_mac, peer.address, tuple(one.mac for one in ask.interfaces), ask.kernel
        )
        self._role.feed(membership.Join(facts, ask.weight, self._context.clock()))
        await self._role.settled()
        return control.JoinGranted(
            nonce=ask.nonce,
            node_id=self._role.members.ids[ask.name],
            generation=self._role.members.generation,
            epoch=self._role.members.epoch,
            primary_id=self._role.members.self_id,
            primary_name=self._context.name,
            primary_ha_mac=self._role.survey.ha.mac,
            virtual_macs=virtual_macs,
            primary_macs=self._role.survey.physical,
            ids=dict(self._role.members.ids),
            nodes=self._role.table(),
        )
