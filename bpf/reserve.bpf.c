// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reserve: a successor's conntrack gets entries for the UDP flows of other nodes. Attached nowhere: the agent writes
 * `reserving` and runs it with BPF_PROG_TEST_RUN, each run looks at AA_SWEEP_BITE records and goes on where the last one
 * stopped. An entry costs here a quarter of what ctnetlink takes; TCP's need a state that only ctnetlink can set.
 * What the kernel does not take (no room, or another entry has one of the tuples) is counted: user space asks for the reason.
 * Writes reserving; reads config, records, watermark. Counts nothing: no packet passes here.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "conntrack.h"
#include "flow_state.h"
#include "maps.h"

#ifndef AA_SWEEP_BITE
#define AA_SWEEP_BITE 32
#endif

static __always_inline bool is_wanted(const struct reservation *progress, const struct record *record)
{
	return record->original.protocol == IPPROTO_UDP && record->state != 0 && record->state < FLOW_CLOSED &&
	       (progress->owners >> (record->owner & (AA_MAX_NODES - 1)) & 1);
}

static __always_inline void refuse(struct reservation *progress)
{
	__u64 place = progress->refused++;

	if (place < AA_REFUSALS)
		progress->which[place & (AA_REFUSALS - 1)] = progress->at;
}

/* True when there was one. It is renewed if it is this flow's. */
static __always_inline bool renew(struct __sk_buff *skb, struct reservation *progress, const struct record *record,
				  __u32 timeout_s, bool answered)
{
	struct nf_conn *ct = ct_find(skb, &record->original);
	struct tuple reply;

	if (!ct)
		return false;
	ct_tuple(ct, AA_CT_REPLY, &record->reply, &reply);
	if (same_tuple(&reply, &record->reply)) {
		ct_hold(ct, timeout_s, answered);
		progress->present++;
	} else {
		ct_release(ct);
		refuse(progress);
	}
	return true;
}

static __always_inline void make(struct __sk_buff *skb, struct reservation *progress, const struct record *record,
				 __u32 timeout_s, bool answered)
{
	struct nf_conn *ct = ct_make(skb, &record->original);

	if (ct) {
		ct_translate(ct, &record->reply);
		ct_field(ct, __u32, AA_CT_MARK) = record->mark;
		ct_set_timeout(ct, timeout_s * 1000);
		ct = ct_insert_entry(ct);
	}
	if (!ct) {
		refuse(progress);
		return;
	}
	ct_hold(ct, timeout_s, answered);
	progress->made++;
}

int reserve(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct reservation *progress;
	const struct record *record;
	int zero = 0, i;
	__u64 *highest;
	__u32 index, timeout_s;
	bool answered;

	progress = reserving.lookup(&zero);
	highest = watermark.lookup(&zero);
	if (!skb || !conf || !progress || !highest)
		return TC_ACT_OK;
	for (i = 0; i < AA_SWEEP_BITE; i++) {
		index = progress->at + 1;
		if (index > *highest || index > conf->flow_limit)
			return TC_ACT_OK;
		progress->at = index;
		record = records.lookup(&index);
		if (!record || !is_wanted(progress, record))
			continue;
		answered = record->state >= FLOW_ESTABLISHED;
		timeout_s = answered && (record->ended & FLOW_LASTS) ? progress->stream_s : progress->datagrams_s;
		if (!renew(skb, progress, record, timeout_s, answered))
			make(skb, progress, record, timeout_s, answered);
	}
	return TC_ACT_OK;
}
