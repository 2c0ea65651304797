/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A SYN that netfilter has let through: known already, or kept here, or a new flow and its owner. */
#ifndef AA_ASSIGN_H
#define AA_ASSIGN_H

#include "account.h"
#include "flow_insert.h"
#include "helper.h"
#include "persist.h"
#include "policy.h"
#include "schedule.h"

/* The decision netfilter took, read out of the entry. */
struct decision {
	struct tuple original;
	struct tuple reply;
	__u32 connmark;
	__u32 status;
	__u8 helper; /* HELPER_* */
	bool under_way; /* conntrack has seen more of it than a SYN */
};

static __always_inline void tell_table_full(const struct tuple *original, __u8 slot)
{
	struct event event = {.time_ns = bpf_ktime_get_ns(), .kind = EVENT_TABLE_FULL, .slot = slot};

	__builtin_memcpy(event.address, original->saddr, 16);
	events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP);
}

/* What became of a SYN: whose it is and why. `owner` 0: nobody's, it stays without a record. */
struct assignment {
	__u8 owner;
	enum reason why;
};

/* A SYN of a flow that is under way has the owner it had. */
static __always_inline void repeat(struct record *record, const struct found *found)
{
	union status was = {.word = *(volatile __u64 *)status_word(record)}, now = was;

	record->seen_ns = bpf_ktime_get_coarse_ns();
	if (was.state != FLOW_ESTABLISHED)
		return;
	/* conntrack gave the primary's entry the timeout of a SYN again: the next ACK must raise it. */
	now.state = FLOW_SYN_RECV;
	if (change_status(record, was, now))
		change_flow(record, entry_record(found->word), ENTRY_SETTLED, 0);
}

/* A flood of SYNs must not take the room of sessions that are wanted. */
static __always_inline bool too_many_half_open(const struct config *conf)
{
	const struct tally *tally = tally_of_table();

	return !tally || (__s64)tally->half_open >= (__s64)conf->half_open_limit;
}

static __always_inline struct assignment begin(const struct config *conf, const struct decision *decision,
					       const struct request *request)
{
	struct assignment done = {0, HANDOFF_UNDER_WAY};
	union status begun = {};
	struct record *record;
	__u32 index;

	if (decision->under_way)
		return done;
	done.why = judge(&decision->original, request);
	if (done.why != HANDOFF_SENT)
		return done;
	done.why = HANDOFF_HALF_OPEN;
	if (too_many_half_open(conf))
		return done;
	done.why = HANDOFF_TABLE_FULL;
	index = take_record(conf);
	record = records.lookup(&index);
	if (!index || !record) {
		tell_table_full(&decision->original, request->slot);
		return done;
	}
	begun.owner = choose(conf, &decision->original);
	begun.mark = decision->connmark;
	begun.slot = request->slot;
	record->original = decision->original;
	record->reply = decision->reply;
	record->created_ns = record->seen_ns = bpf_ktime_get_coarse_ns();
	*status_word(record) = begun.word;
	open_account(conf, index, request->octets);
	done.why = HANDOFF_UNPLACED;
	if (insert_flow(conf, record, index, FLOW_SYN_SENT))
		return done;
	done.owner = begun.owner;
	done.why = HANDOFF_SENT;
	return done;
}

static __always_inline struct assignment assign(const struct config *conf, const struct decision *decision,
						const struct request *request)
{
	struct assignment known = {0, HANDOFF_AGAIN};
	struct record *record;
	struct found found = {};

	if (find(conf, hash_tuple(conf, &decision->original), &found)) {
		record = record_of(found.word);
		if (record && !(found.word & ENTRY_REPLY) && is_exactly(found.word, record, &decision->original)) {
			if (record->state < FLOW_CLOSING) {
				known.owner = entry_owner(found.word);
				repeat(record, &found);
				account(conf, found.word, request->octets);
				return known;
			}
			end_flow(record, entry_record(found.word));
		}
	}
	return begin(conf, decision, request);
}

static __always_inline void give_to_self(const struct config *conf, struct record *record)
{
	union status was, now;
	int i;

	for (i = 0; i < STATUS_TRIES; i++) {
		was.word = *(volatile __u64 *)status_word(record);
		now = was;
		now.owner = conf->self;
		if (change_status(record, was, now))
			return;
	}
}

#endif
