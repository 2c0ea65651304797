# SPDX-License-Identifier: GPL-2.0-or-later
"""``policy`` and ``persist``: what the operator sees and changes of who gets a new session. On the primary."""

from __future__ import annotations

import asyncio
import difflib
import ipaddress
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from aa_cluster import api, log
from aa_cluster import config as configuration
from aa_cluster.config import Config
from aa_cluster.core import persistence, policy
from aa_cluster.core.policy import Policy, Rule, Session
from aa_cluster.doctor import ct_helpers
from aa_cluster.errors import UsageError
from aa_cluster.wire import block

if TYPE_CHECKING:
    from aa_cluster.agent.primary import Primary

NOT_SHARED = "only TCP and UDP are shared (over IPv4 and IPv6): {protocol} stays on the primary, complete and counted"
HELPER_RULE = "a session with a conntrack helper, and those it expects, stay on the primary whatever the policy says"
HELPERS_SHARED = (
    "a session with the conntrack helper {shared} is shared as any other, and those it expects follow it to its node; "
    "with another helper, it and those it expects stay on the primary whatever the policy says"
)

_log = log.get("policy")


def of_config(config: Config) -> Policy:
    return policy.parse(config.policy, config.data.interfaces)


async def show(role: Primary) -> api.Policy:
    hits = await role.plane.call(role.plane.plane.policy_hits)
    live = role.policy
    return api.Policy(
        rules=_rows(live.rules, hits.rules),
        built_in=_rows(live.built_in, hits.built_in),
        default=live.default,
        default_hits=hits.default,
        keep_mark=str(live.keep_mark),
        keep_mark_in_use=bool(live.keep_mark.mask),
        keep_mark_hits=hits.keep_mark,
    )


def _rows(rules: Sequence[Rule], hits: Sequence[int]) -> tuple[api.PolicyRow, ...]:
    """``hits`` may be of a policy that is in force no more, and shorter."""
    return tuple(
        api.PolicyRow(number=number, action=rule.action, text=str(rule), hits=count)
        for number, (rule, count) in enumerate(zip(rules, [*hits, *[0] * len(rules)], strict=False), 1)
    )


# Check.


async def check(role: Primary, asked: api.PolicyCheckRequest) -> api.PolicyChecked:
    """What would happen to the first packet of such a session, and why."""
    session = _session(role, asked)
    live = role.policy
    decision = policy.decide(live.rules, live.default, live.keep_mark, session, live.built_in)
    if session.protocol not in policy.PROTOCOLS.values():
        said = NOT_SHARED.format(protocol=policy.protocol_name(session.protocol))
        return api.PolicyChecked(action="keep", interface=session.interface, rule=None, why=said)
    notes = await _helpers(role, asked)
    if decision.action == "share":
        notes += await _owner(role, asked)
    return api.PolicyChecked(
        action=decision.action,
        interface=session.interface,
        rule=None if decision.rule is None else decision.rule + 1,
        built_in=None if decision.built_in is None else decision.built_in + 1,
        why=decision.why,
        mismatches=decision.mismatches,
        notes=tuple(notes),
    )


async def _helpers(role: Primary, asked: api.PolicyCheckRequest) -> list[str]:
    """What a conntrack helper means for it, and whether the rules may give it one."""
    shared = tuple(block.HELPERS.values()) if role.settings.share_helpers else ()
    notes = [HELPERS_SHARED.format(shared=" or ".join(shared)) if shared else HELPER_RULE]
    text = await asyncio.to_thread(role.context.host.ruleset_text)
    for found in ct_helpers.assignments(text, _protocol_name(asked), asked.destination_port):
        then = (
            "it is shared with its helper" if found.helper in shared else "then it stays on the primary because of it"
        )
        notes.append(f"the ruleset may give it one: {found}; {then}")
    return notes


def _protocol(asked: api.PolicyCheckRequest) -> int:
    number = policy.protocol_number(asked.protocol)
    if number is None:
        known = ", ".join((*policy.PROTOCOLS, *policy.KEPT_PROTOCOLS))
        raise UsageError(f"no protocol is called {asked.protocol!r}", f"give a number, or one of {known}")
    return number


def _protocol_name(asked: api.PolicyCheckRequest) -> str:
    return policy.protocol_name(_protocol(asked))


def _session(role: Primary, asked: api.PolicyCheckRequest) -> Session:
    try:
        source, destination = ipaddress.ip_address(asked.source), ipaddress.ip_address(asked.destination)
    except ValueError as error:
        raise UsageError(str(error), "give addresses like 10.1.2.3") from None
    if source.version != destination.version:
        raise UsageError(f"{source} and {destination} are of two address families")
    for port in (asked.source_port, asked.destination_port):
        if not 0 <= port <= policy.HIGHEST_PORT:
            raise UsageError(f"port {port}, expected 0 to {policy.HIGHEST_PORT}")
    return Session(
        interface=_interface(role, asked.interface, source),
        source=source,
        destination=destination,
        source_port=asked.source_port,
        port=asked.destination_port,
        protocol=_protocol(asked),
        connmark=asked.connmark,
        mark=asked.mark,
    )


def _interface(role: Primary, given: str, source: policy.Address) -> str:
    """As asked, else the data interface on whose network the source is; "" when it is on none and no rule asks."""
    names = role.context.config.data.interfaces
    if given:
        if given not in names:
            raise UsageError(f"{given} is not a data interface", f"they are: {', '.join(names)}")
        return given
    for link in role.survey.data:
        if any(source in ipaddress.ip_interface(address).network for address in link.addresses):
            return link.name
    if any(rule.interface is not None for rule in role.policy.rules):
        raise UsageError(f"{source} is on no data network, and some rule asks for the interface", "give --interface")
    return ""


async def _owner(role: Primary, asked: api.PolicyCheckRequest) -> list[str]:
    """Who gets it, as far as that is known before."""
    working = {node for node, weight in role.members.working().items() if weight}
    names = role.names()
    section = role.context.config.persistence
    if section.enabled:
        kept = persistence.Settings(section.idle_s, section.prefix_v4, section.prefix_v6)
        client = str(persistence.client(asked.source, kept))
        for binding in await role.plane.call(role.plane.plane.persist_entries):
            if binding.address == client and binding.node not in role.members.withdrawn():
                return [f"persistence: {client} is bound to {names.get(binding.node, binding.node)}"]
    if not working:
        return ["no node takes new sessions: the primary serves it itself"]
    said = ", ".join(names.get(node, str(node)) for node in sorted(working))
    return [f"schedule {role.members.kind} chooses among: {said}"]


# Reload.


async def reload(role: Primary) -> api.PolicyReloaded:
    """[policy] of the primary's configuration file, in force from now on; a ``ConfigError`` changes nothing."""
    context = role.context
    read = await asyncio.to_thread(configuration.load, context.config_path)
    wanted = policy.parse(read.policy, context.config.data.interfaces, f"{context.config_path}: policy")
    changes = tuple(differences(role.policy, wanted))
    await role.set_policy(wanted)
    others = tuple(other_sections(context.config, read))
    running = context.config.policy.share_helpers
    if read.policy.share_helpers != running:
        others = (*others, "policy.share_helpers")
    kept = msgspec.structs.replace(read.policy, share_helpers=running)
    context.config = msgspec.structs.replace(context.config, policy=kept)
    if changes:
        _log.info("policy reloaded", changes=list(changes))
        rules = "1 rule" if len(wanted.rules) == 1 else f"{len(wanted.rules)} rules"
        context.events.say("policy", f"another policy: {rules}, default {wanted.default}", changes="; ".join(changes))
    return api.PolicyReloaded(path=str(context.config_path), changes=changes, not_taken=others)


def differences(before: Policy, after: Policy) -> Iterator[str]:
    """``- rule 2: …`` for what is gone, ``+ rule 1: …`` for what is new, in order; a rule that moved is both."""
    yield from _lines(tuple(map(str, before.rules)), tuple(map(str, after.rules)))
    for rule in before.built_in:
        if rule not in after.built_in:
            yield f"- built-in: {rule}"
    for rule in after.built_in:
        if rule not in before.built_in:
            yield f"+ built-in: {rule}"
    if before.default != after.default:
        yield f"default: {before.default} → {after.default}"
    if before.keep_mark != after.keep_mark:
        yield f"keep_mark: {before.keep_mark} → {after.keep_mark}"


def _lines(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    for word, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if word != "equal":
            yield from (f"- rule {number + 1}: {before[number]}" for number in range(a, b))
            yield from (f"+ rule {number + 1}: {after[number]}" for number in range(c, d))


def other_sections(before: Config, after: Config) -> Iterator[str]:
    """Sections that differ too, but are not taken while the agent runs."""
    for section in before.__struct_fields__:
        if section != "policy" and getattr(before, section) != getattr(after, section):
            yield section


# Persistence.


async def persist(role: Primary, asked: api.PersistRequest) -> api.Persist:
    """Do what is asked, then show."""
    context, plane = role.context, role.plane
    section, removed = context.config.persistence, 0
    if asked.action == "set":
        node = role.members.called(asked.node)
        await plane.call(plane.plane.persist_set, _client(asked.address), node.id)
        context.events.say("persistence", f"{asked.address} is bound to {node.facts.name}", node=node.facts.name)
    elif asked.action == "delete":
        removed = int(await plane.call(plane.plane.persist_delete, _client(asked.address)))
        context.events.say("persistence", f"the binding of {asked.address} is removed", address=asked.address)
    elif asked.action == "flush":
        removed = await plane.call(plane.plane.persist_flush)
        context.events.say("persistence", f"all {removed} bindings are removed", count=removed)
    hits, misses = await plane.call(plane.plane.persist_counts)
    entries = await plane.call(plane.plane.persist_entries)
    names = role.names()
    return api.Persist(
        enabled=section.enabled,
        idle=section.idle_s,
        size=section.size,
        hits=hits,
        misses=misses,
        removed=removed,
        total=len(entries),
        entries=tuple(
            api.PersistRow(address=one.address, node=one.node, node_name=names.get(one.node, ""), idle=one.idle_s)
            for one in entries[: max(0, asked.limit)]
        ),
    )


def _client(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise UsageError(f"{text!r} is not an IP address") from None
