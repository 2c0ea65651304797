// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * flush: what the agent of the primary makes frames with. Attached nowhere: run with BPF_PROG_TEST_RUN.
 *
 *   flush      sends a copy of its packet to the HA link, where `compose` makes a replica frame of it; of what pends, or
 *              of what its context names (replica.h)
 *   rejournal  journals records again, AA_REJOURNAL_BITE a run, as `walk` says
 *
 * Writes walk, journal, replication, records; reads config, watermark. Counts nothing: `compose` does.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "flow_state.h"
#include "journal.h"
#include "maps.h"
#include "replica.h"

#ifndef AA_REJOURNAL_BITE
#define AA_REJOURNAL_BITE 64
#endif

int flush(struct __sk_buff *skb)
{
	const struct config *conf = configuration();

	if (!conf)
		return TC_ACT_SHOT;
	if (skb->cb[0] != COMPOSE_RANGE)
		skb->cb[0] = COMPOSE_PENDING;
	return bpf_clone_redirect(skb, conf->ha_ifindex, 0) ? TC_ACT_SHOT : TC_ACT_OK;
}

int rejournal(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct record *record;
	union status status;
	int zero = 0, i;
	struct walk *range = walk.lookup(&zero);
	__u64 *highest = watermark.lookup(&zero);
	__u32 index;

	if (!skb || !conf || !range || !highest)
		return TC_ACT_OK;
	for (i = 0; i < AA_REJOURNAL_BITE; i++) {
		index = range->at;
		if (index > range->last || index > *highest || index > conf->flow_limit)
			break;
		range->at = index + 1;
		record = records.lookup(&index);
		if (!record || !index)
			continue;
		status.word = *(volatile __u64 *)status_word(record);
		if (range->free || is_in_use(status))
			journal_append(record, index);
	}
	return TC_ACT_OK;
}
