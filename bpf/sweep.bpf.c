// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sweep: ages the flow table of the primary. Attached nowhere: the agent runs it with BPF_PROG_TEST_RUN, each run looks at
 * AA_SWEEP_BITE records and goes on where the last one stopped. So ageing needs no lock, no copy of the table and no
 * object per flow in user space, and its changes are as atomic as the other programs'.
 * It also keeps the primary's conntrack entries as long as their flows: renews those of sessions that others own, or owned
 * once, and that still have packets, lets go of those whose flow goes. As often it tells the other nodes of UDP's.
 * Writes records, buckets, tallies, released, swept; reads config, nodes, watermark. Counts nothing: no packet passes here.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "conntrack.h"
#include "flow_insert.h"
#include "maps.h"

#ifndef AA_SWEEP_BITE
#define AA_SWEEP_BITE 32
#endif

/* How stale `seen_ns` of a live flow may be: a tenth of its timeout, ten seconds at most. */
#define STALE_SHARE 10
#define STALE_MOST_NS (10 * AA_NSEC_PER_SEC)

/* A number rests so long before it is given out again: no program holds one for longer than a packet takes. */
#ifndef AA_REST_NS
#define AA_REST_NS AA_NSEC_PER_SEC
#endif

/* Renewed when so much of its timeout is gone. */
#define RENEW_SHARE 4

static __always_inline void set_timeout(struct __sk_buff *skb, struct record *record, __u32 timeout_s)
{
	struct nf_conn *ct = ct_find(skb, &record->original);

	if (ct)
		ct_hold(ct, timeout_s, false);
}

/*
 * The stack keeps the entries of its own sessions itself. But those it took over in the middle it has for sessions whose
 * data nobody acknowledges (300 s): it never saw their windows, and takes none for zero. They get what they should have
 * whenever a packet has come.
 */
static __always_inline bool keeps_time(const struct record *record)
{
	return node_of(record->owner)->hop == HOP_LOCAL && !(record->ended & FLOW_TAKEN);
}

/* No packet is told of, and UDP has no end: so that all nodes know how old a flow is, they are told when one has come. */
static __always_inline void tell_age(const struct config *conf, struct record *record, __u32 index, union status status)
{
	if (is_replicated(conf) && is_worth_telling(conf, status, status))
		journal_append(record, index);
}

static __always_inline void renew(struct __sk_buff *skb, const struct config *conf, struct record *record, __u32 index,
				  union status status, __u64 timeout, __u64 now)
{
	bool is_due = now >= record->held_ns + timeout / RENEW_SHARE;

	if (status.state < FLOW_ESTABLISHED && record->original.protocol == IPPROTO_TCP)
		return;
	if (is_due) {
		record->held_ns = now;
		if (record->original.protocol == IPPROTO_UDP)
			tell_age(conf, record, index, status);
	}
	if (!keeps_time(record) && (is_due || node_of(record->owner)->hop == HOP_LOCAL))
		set_timeout(skb, record, timeout / AA_NSEC_PER_SEC);
}

static __always_inline bool untouch(__u32 place, __u32 index)
{
	__u64 *at = word_at(place);

	if (!at || entry_record(*at) != index || !(*at & ENTRY_TOUCHED))
		return false;
	change_word(at, index, ENTRY_TOUCHED, 0);
	return true;
}

static __always_inline __u64 timeout_of(const struct config *conf, const struct record *record, __u8 state)
{
	if (record->original.protocol == IPPROTO_UDP)
		state = record->ended & FLOW_LASTS ? FLOW_STREAM : FLOW_DATAGRAMS;
	return conf->timeout_s[state & 7] * AA_NSEC_PER_SEC;
}

static __always_inline void age(struct __sk_buff *skb, const struct config *conf, struct record *record, __u32 index,
				struct sweep *progress, __u64 now)
{
	union status was = {.word = *status_word(record)}, gone = was;
	__u64 timeout = timeout_of(conf, record, was.state);
	__u64 stale = timeout / STALE_SHARE < STALE_MOST_NS ? timeout / STALE_SHARE : STALE_MOST_NS;
	__u64 idle = now > record->seen_ns ? now - record->seen_ns : 0;
	bool original, reply;

	if (idle < stale)
		return;
	original = untouch(record->place[FLOW_ORIGINAL], index);
	reply = untouch(record->place[FLOW_REPLY], index);
	if (original || reply) {
		record->seen_ns = now;
		renew(skb, conf, record, index, was, timeout, now);
		return;
	}
	if (idle < timeout)
		return;
	gone.state = FLOW_DEAD;
	if (!is_in_use(was) || !change_status(record, index, was, gone))
		return; /* a packet changed it just now: it lives */
	remove_word(record->place[FLOW_ORIGINAL], index);
	remove_word(record->place[FLOW_REPLY], index);
	record->seen_ns = now;
	if (!keeps_time(record))
		set_timeout(skb, record, 0);
	progress->expired++;
}

int sweep(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct sweep *progress;
	struct record *record;
	int zero = 0, i;
	__u64 *highest;
	__u32 index;

	progress = swept.lookup(&zero);
	highest = watermark.lookup(&zero);
	if (!skb || !conf || !progress || !highest)
		return TC_ACT_OK;
	for (i = 0; i < AA_SWEEP_BITE; i++) {
		index = progress->at + 1;
		if (index > *highest || index > conf->flow_limit) {
			progress->at = 0;
			return TC_ACT_OK;
		}
		progress->at = index;
		record = records.lookup(&index);
		if (!record || record->state == 0)
			continue;
		if (record->state == FLOW_DEAD) {
			if (now < record->seen_ns + AA_REST_NS) /* another CPU's clock may be a tick ahead */
				continue;
			record->state = 0;
			give_back(index);
			progress->released++;
			continue;
		}
		age(skb, conf, record, index, progress, now);
	}
	return TC_ACT_OK;
}
