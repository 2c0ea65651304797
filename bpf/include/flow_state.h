/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The states of a flow, and the counters that follow them. Packets of both directions, the sweep and a new SYN may change
 * one record at the same moment on different CPUs, so its owner, state and flags are one word that changes by
 * compare-and-swap, and who made a change counts it: `tallies` is exact whenever nothing is under way.
 */
#ifndef AA_FLOW_STATE_H
#define AA_FLOW_STATE_H

#include "flow_table.h"
#include "journal.h"

#define STATUS_TRIES 4 /* another CPU changes the same flow once or twice at most meanwhile: it can only go forward */

union status {
	__u64 word;
	struct {
		__u32 mark;
		__u8 owner;
		__u8 state;
		__u8 ended;
		__u8 slot;
	};
};
_Static_assert(__builtin_offsetof(struct record, mark) % 8 == 0, "changed as one word");
_Static_assert(__builtin_offsetof(struct record, slot) == __builtin_offsetof(struct record, mark) + 7, "the same order");

static __always_inline __u64 *status_word(struct record *record)
{
	return (__u64 *)&record->mark;
}

static __always_inline bool is_live(__u8 state)
{
	return state != 0 && state < FLOW_CLOSING;
}

static __always_inline bool is_half_open(__u8 state)
{
	return state != 0 && state < FLOW_ESTABLISHED;
}

static __always_inline struct tally *tally_of_table(void)
{
	int zero = 0;

	return tallies.lookup(&zero);
}

/*
 * `state` 0: the flow is not in the table. Another CPU may count a flow's end before this one has counted its begin: for
 * that moment a counter is one too low, −1 at worst.
 */
static __always_inline void count_change(union status was, union status now)
{
	struct tally *tally = tally_of_table();

	if (!tally)
		return;
	if (is_live(was.state) != is_live(now.state) || was.owner != now.owner) {
		if (is_live(was.state))
			__sync_fetch_and_add(&tally->live[was.owner & (AA_MAX_NODES - 1)], -1ull);
		if (is_live(now.state))
			__sync_fetch_and_add(&tally->live[now.owner & (AA_MAX_NODES - 1)], 1);
	}
	if (is_half_open(was.state) != is_half_open(now.state))
		__sync_fetch_and_add(&tally->half_open, is_half_open(now.state) ? 1ull : -1ull);
}

#define FLOOD_SHARE 16

/* Half-open flows have used so much of their share (a sixteenth): a flood, most of which never becomes a session. */
static __always_inline bool is_flooded(const struct config *conf)
{
	const struct tally *tally = tally_of_table();

	return tally && (__s64)tally->half_open > conf->half_open_limit / FLOOD_SHARE;
}

/*
 * An answered SYN tells nobody anything: the next packet decides. What never was a session is not missed, and in a flood
 * it is not told of either: a flow is told whole when its handshake is complete.
 */
static __always_inline bool is_worth_telling(const struct config *conf, union status was, union status now)
{
	bool settled = now.state >= FLOW_ESTABLISHED && (now.state != FLOW_DEAD || was.state >= FLOW_ESTABLISHED);

	if (settled || conf->features & AA_FEATURE_REPLICATE_SETTLED)
		return settled;
	return (now.state != FLOW_SYN_RECV || was.owner != now.owner) && !is_flooded(conf);
}

/* Whoever changes a record's status does it here: it is counted and, for the other nodes, journalled. False when somebody
 * else changed the record first. */
static __always_inline bool change_status(struct record *record, __u32 index, union status was, union status now)
{
	const struct config *conf = configuration();

	if (__sync_val_compare_and_swap(status_word(record), was.word, now.word) != was.word)
		return false;
	count_change(was, now);
	if (is_replicated(conf) && is_worth_telling(conf, was, now))
		journal_append(record, index);
	return true;
}

/* Nothing changes a record that is free or swept. */
static __always_inline bool is_in_use(union status status)
{
	return status.state != 0 && status.state != FLOW_DEAD;
}

/* Ends a flow, whatever its state; the sweep gives the number back. */
static __always_inline void end_flow(struct record *record, __u32 index)
{
	union status was, now;
	int i;

	for (i = 0; i < STATUS_TRIES; i++) {
		was.word = *(volatile __u64 *)status_word(record);
		if (!is_in_use(was))
			break;
		now = was;
		now.state = FLOW_DEAD;
		if (change_status(record, index, was, now))
			break;
	}
	remove_word(record->place[FLOW_ORIGINAL], index);
	remove_word(record->place[FLOW_REPLY], index);
	record->seen_ns = bpf_ktime_get_coarse_ns(); /* its number rests from now on */
}

#define STREAM_AFTER_NS (2 * AA_NSEC_PER_SEC)

/*
 * Of UDP nothing but that somebody answers, and then, as conntrack has it, that it still goes on two seconds after its
 * begin: a stream. Its entry has the short timeout, which would be over before a quarter of the long one is gone: it is to
 * be renewed at the next look.
 */
static __always_inline void advance_datagrams(struct record *record, bool reply, union status *now)
{
	if (now->state == FLOW_SYN_SENT && reply) {
		now->state = FLOW_ESTABLISHED;
	} else if (now->state == FLOW_ESTABLISHED && !(now->ended & FLOW_LASTS) &&
		   bpf_ktime_get_coarse_ns() >= record->created_ns + STREAM_AFTER_NS) {
		now->ended |= FLOW_LASTS;
		record->held_ns = 0;
	}
}

/* `flags`: TCP_*, of a packet of that direction. */
static __always_inline __u8 next_state(union status now, bool reply, __u8 flags)
{
	if (flags & TCP_RST)
		return FLOW_CLOSED;
	if (flags & TCP_FIN)
		return now.ended & (1 << !reply) ? FLOW_CLOSED : FLOW_CLOSING;
	if (now.state == FLOW_SYN_SENT && reply && (flags & TCP_SYN) && (flags & TCP_ACK))
		return now.ended & FLOW_ONE_SIDED ? FLOW_ESTABLISHED : FLOW_SYN_RECV;
	if (now.state == FLOW_SYN_RECV && !reply && (flags & TCP_ACK) && !(flags & TCP_SYN))
		return FLOW_ESTABLISHED;
	return now.state;
}

static __always_inline void advance_segments(bool reply, __u8 flags, union status *now)
{
	__u8 state = next_state(*now, reply, flags);

	if (state > now->state)
		now->state = state;
	if (flags & (TCP_RST | TCP_FIN))
		now->ended |= 1 << reply;
}

/* What this packet makes of the flow: its new state, or 0 when it changes none. */
static __always_inline __u8 advance(struct record *record, __u32 index, bool reply, __u8 flags)
{
	union status was, now;
	int i;

	for (i = 0; i < STATUS_TRIES; i++) {
		was.word = *(volatile __u64 *)status_word(record);
		if (!is_in_use(was))
			return 0;
		now = was;
		if (record->original.protocol == IPPROTO_UDP)
			advance_datagrams(record, reply, &now);
		else
			advance_segments(reply, flags, &now);
		if (now.word == was.word)
			return 0;
		if (change_status(record, index, was, now))
			return now.state != was.state ? now.state : 0;
	}
	return 0;
}

#endif
