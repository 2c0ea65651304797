/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The journal of the flow table (docs/replication.md): a ring of record numbers, one for each change that the other nodes
 * are to know of. It says which record changed, not how: what is sent is what the record holds at that moment, so an entry
 * that has not been sent yet stands for all changes since. Nothing here happens per packet.
 */
#ifndef AA_JOURNAL_H
#define AA_JOURNAL_H

#include "maps.h"
#include "types.h"

static __always_inline bool is_replicated(const struct config *conf)
{
	return conf->features & AA_FEATURE_REPLICATE;
}

static __always_inline struct replication *replication_state(void)
{
	int zero = 0;

	return replication.lookup(&zero);
}

/* Entries that have not been sent. */
static __always_inline __u64 journal_pending(const struct replication *state)
{
	__u64 cursor = *(volatile __u64 *)&state->cursor, head = *(volatile __u64 *)&state->head;

	return head > cursor ? head - cursor : 0;
}

static __always_inline void wake(__u64 *armed, __u8 kind)
{
	struct event event = {.kind = kind};

	if (!*(volatile __u64 *)armed || __sync_val_compare_and_swap(armed, 1, 0) != 1)
		return;
	event.time_ns = bpf_ktime_get_ns();
	events.ringbuf_output(&event, sizeof(event), BPF_RB_FORCE_WAKEUP); /* also behind events that woke nobody */
}

/*
 * To be called after the change: who sends moves the cursor before it reads the record, so either the sender sees the
 * change, or this sees the cursor moved. (Both are atomic operations with a full barrier.)
 */
static __always_inline void journal_append(struct record *record, __u32 index)
{
	struct replication *state = replication_state();
	__u64 position, *slot;
	__u32 at;

	if (!state || record->position > *(volatile __u64 *)&state->cursor)
		return;
	position = __sync_fetch_and_add(&state->head, 1);
	at = position & (AA_JOURNAL - 1);
	slot = journal.lookup(&at);
	if (slot)
		*(volatile __u64 *)slot = (position + 1) << 32 | index;
	record->position = position + 1;
	wake(&state->armed, EVENT_JOURNAL);
}

#endif
