/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The policy (docs/policy.md): which sessions are shared. Asked once, by the first packet of a session. Rules are compiled
 * to lines in order, two halves of the map, one in force; the first line that matches decides. core/policy.py is the
 * same in Python.
 */
#ifndef AA_POLICY_H
#define AA_POLICY_H

#include "maps.h"
#include "parse.h"
#include "types.h"

/* What a rule looks at, beside the original tuple. */
struct request {
	__u32 connmark;
	__u32 mark; /* of the packet */
	__u16 octets; /* its IP length */
	__u8 slot;    /* it came in on */
};

static __always_inline __u64 differs(const __u8 *address, const __u8 *prefix, const __u8 *mask)
{
	const __u64 *a = (const __u64 *)address, *p = (const __u64 *)prefix, *m = (const __u64 *)mask;

	return ((a[0] ^ p[0]) & m[0]) | ((a[1] ^ p[1]) & m[1]);
}

/* The sign bit when `port` is not in first … last: without a branch, to keep the verifier's paths few. */
static __always_inline __u64 outside(__u64 port, __u64 first, __u64 last)
{
	return ((port - first) | (last - port)) >> 63;
}

/* A value that is not zero: either mark carries it. Zero: neither has any bit of the mask. */
static __always_inline bool marked(const struct request *request, __u32 value, __u32 mask)
{
	if (!value)
		return ((request->connmark | request->mark) & mask) == 0;
	return (request->connmark & mask) == value || (request->mark & mask) == value;
}

static __always_inline bool matches(const struct rule *rule, const struct tuple *session, const struct request *request)
{
	__u64 miss = differs(session->saddr, rule->source, rule->source_mask) |
		     differs(session->daddr, rule->destination, rule->destination_mask) |
		     outside(host16(session->sport), rule->source_first, rule->source_last) |
		     outside(host16(session->dport), rule->first, rule->last) |
		     (~(__u64)rule->slots >> (request->slot & (AA_MAX_PORTS - 1)) & 1);

	if (miss)
		return false;
	if (rule->protocol && rule->protocol != session->protocol)
		return false;
	if (rule->family && rule->family != session->family)
		return false;
	return !rule->mark_mask || marked(request, rule->mark, rule->mark_mask);
}

static __always_inline void hit(__u32 half, __u32 number)
{
	__u32 index = (half & 1) * AA_RULE_COUNTERS + (number & (AA_RULE_COUNTERS - 1));
	__u64 *hits = rule_hits.lookup(&index);

	if (hits)
		__sync_fetch_and_add(hits, 1);
}

/* HANDOFF_SENT: it is to be shared. Else why not. No policy at all shares everything. */
static __always_inline enum reason judge(const struct tuple *session, const struct request *request)
{
	const struct policy *policy;
	const struct rule *rule;
	__u32 *active, half, at;
	int zero = 0, which, i;

	active = policy_bank.lookup(&zero);
	if (!active)
		return HANDOFF_SENT;
	half = which = *active & 1;
	policy = policies.lookup(&which);
	if (!policy)
		return HANDOFF_SENT;
	if (policy->keep_mask && marked(request, policy->keep_mark, policy->keep_mask)) {
		hit(half, AA_HITS_KEEP_MARK);
		return HANDOFF_KEPT_BY_MARK;
	}
#pragma clang loop unroll(disable)
	for (i = 0; i < AA_RULE_LINES; i++) {
		if ((__u32)i >= policy->lines)
			break;
		at = half * AA_RULE_LINES + i;
		rule = rules.lookup(&at);
		if (!rule)
			break;
		if (!matches(rule, session, request))
			continue;
		hit(half, rule->number);
		return rule->share ? HANDOFF_SENT : HANDOFF_KEPT_BY_RULE;
	}
	hit(half, AA_HITS_DEFAULT);
	return policy->keep ? HANDOFF_KEPT_BY_DEFAULT : HANDOFF_SENT;
}

#endif
