/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A SYN or datagram that netfilter has let through: known already, or kept here, or a new flow and its owner. */
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
	struct hash hash; /* of the original tuple */
	__u32 connmark;
	__u32 status;
	__u8 helper; /* HELPER_* */
	bool under_way; /* conntrack has seen more of it than its first packet */
	__u8 pad[6]; /* bcc: whole words */
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
	bool running; /* a SYN inside an established session, which goes on as it was */
	enum reason why;
};

/* A flood of SYNs must not take the room of sessions that are wanted. */
static __always_inline bool too_many_half_open(const struct config *conf)
{
	const struct tally *tally = tally_of_table();

	return !tally || (__s64)tally->half_open >= (__s64)conf->half_open_limit;
}

/*
 * Of a session that another node processed the stack has seen nothing, not its end either: its entry may say that it goes
 * on. What the stack processed itself it knows better than a flag that anybody can send.
 */
static __always_inline bool stack_knows(const struct record *record)
{
	const struct node *owner = node_of(record->owner);

	return !owner || owner->hop == HOP_LOCAL;
}

static __always_inline struct assignment begin(const struct config *conf, const struct decision *decision,
					       const struct request *request, bool over)
{
	bool under_way = decision->under_way && !over;
	struct assignment done = {};
	union status begun = {};
	struct record *record;
	__u32 index;

	done.why = judge(&decision->original, request);
	if (done.why != HANDOFF_SENT)
		return done;
	done.why = HANDOFF_HANDING_OVER; /* a datagram; a SYN was refused before */
	if (conf->heir)
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
	begun.owner = conf->self; /* the stack's, for the moment in which it has entries and no owner */
	begun.mark = decision->connmark;
	begun.slot = request->slot;
	record->original = decision->original;
	record->reply = decision->reply;
	record->created_ns = record->seen_ns = record->held_ns = bpf_ktime_get_coarse_ns();
	*status_word(record) = begun.word;
	open_account(conf, index, request->octets);
	done.why = HANDOFF_UNPLACED;
	if (place_flow(conf, record, index))
		return done;
	/* From here on nothing fails: no turn is spent in vain. What this node processes already it goes on with, and from now
	 * on others know of it. */
	done.owner = under_way ? conf->self : choose(conf, &decision->original);
	begin_flow(record, index, done.owner, FLOW_SYN_SENT);
	done.why = under_way ? HANDOFF_UNDER_WAY : HANDOFF_SENT;
	return done;
}

/*
 * The flow of a SYN's tuple has not ended. It keeps its NAT, since the stack holds an entry as long as there is the flow: a
 * SYN that was given another translation begins another session, and the first is over, whatever the record says.
 */
static __always_inline bool goes_on(const struct record *record, const struct decision *decision)
{
	return record->state < FLOW_CLOSING && same_tuple(&record->reply, &decision->reply);
}

static __always_inline struct assignment assign(const struct config *conf, const struct decision *decision,
						const struct request *request)
{
	struct assignment known = {.why = HANDOFF_AGAIN};
	struct record *record;
	struct found found = {};
	bool over = false;

	if (find(conf, decision->hash, &found)) {
		record = record_of(found.word);
		if (record && !(found.word & ENTRY_REPLY) && is_exactly(found.word, record, &decision->original)) {
			if (goes_on(record, decision)) {
				known.owner = entry_owner(found.word);
				known.running = record->state == FLOW_ESTABLISHED;
				record->seen_ns = bpf_ktime_get_coarse_ns();
				account(conf, found.word, request->octets);
				return known;
			}
			over = !stack_knows(record);
			end_flow(record, entry_record(found.word));
		}
	}
	return begin(conf, decision, request, over);
}

#endif
