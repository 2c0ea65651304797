// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reassign: the flows of one node become another's. Attached nowhere: the agent writes `moving` and runs it with
 * BPF_PROG_TEST_RUN, each run looks at AA_SWEEP_BITE records and goes on where the last one stopped. Packets go on meanwhile:
 * record and entries change by compare-and-swap, one flow at a time.
 * What a node began itself nobody else can go on with, having no socket for it: it stays with a node that lives, and ends
 * with one that is gone. The primary's entry of such a session is let go.
 * Writes records, buckets, tallies, moving; reads config, watermark. Counts nothing: no packet passes here.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "conntrack.h"
#include "flow_state.h"
#include "maps.h"

#ifndef AA_SWEEP_BITE
#define AA_SWEEP_BITE 32
#endif

static __always_inline void let_go(struct __sk_buff *skb, const struct tuple *original)
{
	struct nf_conn *ct = ct_find(skb, original);

	if (ct)
		ct_hold(ct, 0, false);
}

static __always_inline bool change_owner(struct record *record, __u32 index, __u8 from, __u8 to)
{
	union status was, now;
	int i;

	for (i = 0; i < STATUS_TRIES; i++) {
		was.word = *(volatile __u64 *)status_word(record);
		if (!is_in_use(was) || was.owner != from)
			return false;
		now = was;
		now.owner = to;
		now.ended |= FLOW_TAKEN;
		if (change_status(record, index, was, now))
			return true;
	}
	return false;
}

static __always_inline void move(struct __sk_buff *skb, struct move *moving_now, struct record *record, __u32 index)
{
	__u8 to = moving_now->to & (AA_MAX_NODES - 1);

	if (record->ended & FLOW_ONE_SIDED) {
		if (moving_now->keep_own)
			return;
		end_flow(record, index);
		let_go(skb, &record->original);
		moving_now->ended++;
		return;
	}
	if (!change_owner(record, index, moving_now->from, to))
		return;
	change_flow(record, index, ENTRY_OWNER_MASK, (__u64)to << ENTRY_OWNER_SHIFT);
	moving_now->moved++;
}

int reassign(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct record *record;
	struct move *progress;
	int zero = 0, i;
	__u64 *highest;
	__u32 index;

	progress = moving.lookup(&zero);
	highest = watermark.lookup(&zero);
	if (!skb || !conf || !progress || !highest)
		return TC_ACT_OK;
	for (i = 0; i < AA_SWEEP_BITE; i++) {
		index = progress->at + 1;
		if (index > *highest || index > conf->flow_limit)
			return TC_ACT_OK;
		progress->at = index;
		record = records.lookup(&index);
		if (record && record->owner == progress->from && record->state != 0 && record->state != FLOW_DEAD)
			move(skb, progress, record, index);
	}
	return TC_ACT_OK;
}
