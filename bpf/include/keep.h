/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A SYN that is not handed off, and what that means for a flow of its tuple. */
#ifndef AA_KEEP_H
#define AA_KEEP_H

#include "assign.h"
#include "conntrack.h"

static __always_inline void give_to_self(const struct config *conf, struct record *record, __u32 index)
{
	union status was, now;
	int i;

	for (i = 0; i < STATUS_TRIES; i++) {
		was.word = *(volatile __u64 *)status_word(record);
		now = was;
		now.owner = conf->self;
		if (change_status(record, index, was, now))
			return;
	}
}

/* The session stays on this node after all: if it has a record already, that says so from now on. */
static __always_inline int stay(const struct config *conf, const struct decision *decision, enum reason why)
{
	struct record *record;
	struct found found = {};

	if (find(conf, decision->hash, &found)) {
		record = record_of(found.word);
		if (record && is_exactly(found.word, record, &decision->original)) {
			give_to_self(conf, record, entry_record(found.word));
			change_flow(record, entry_record(found.word), ENTRY_OWNER_MASK,
				    (__u64)conf->self << ENTRY_OWNER_SHIFT);
		}
	}
	return verdict(TC_ACT_OK, why);
}

/*
 * A SYN inside an established session of another node: repeated late, or forged. conntrack has given the primary's entry
 * the timeout of a SYN, and no other packet of the session comes by here: it gets back what it had.
 */
static __always_inline void hold_again(struct __sk_buff *skb, const struct config *conf, const struct tuple *original)
{
	struct nf_conn *ct = ct_find(skb, original);

	if (ct)
		ct_hold(ct, conf->timeout_s[original->protocol == IPPROTO_UDP ? FLOW_STREAM : FLOW_ESTABLISHED], false);
}

/*
 * A SYN that cannot be handed off leaves from here. It takes no running session from its owner: anybody can send one. One
 * that begins a session has this node keep it, and what is left of an earlier one of that tuple would lead it away.
 */
static __always_inline int keep(struct __sk_buff *skb, const struct config *conf, const struct decision *decision,
				enum reason why)
{
	struct record *record;
	struct found found = {};

	if (find(conf, decision->hash, &found)) {
		record = record_of(found.word);
		if (record && is_exactly(found.word, record, &decision->original)) {
			if (!goes_on(record, decision))
				end_flow(record, entry_record(found.word));
			else if (record->state == FLOW_ESTABLISHED && node_of(record->owner)->hop != HOP_LOCAL)
				hold_again(skb, conf, &decision->original);
		}
	}
	return verdict(TC_ACT_OK, why);
}

#endif
