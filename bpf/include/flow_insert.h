/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A new flow: a record, then an entry under each tuple. Only `handoff` does this; the sweep gives records back. */
#ifndef AA_FLOW_INSERT_H
#define AA_FLOW_INSERT_H

#include "flow_state.h"

/* A record that was given back, or the next one never used; 0 when there is none. */
static __always_inline __u32 take_record(const struct config *conf)
{
	__u32 index = 0;
	__u64 *used, next;
	int zero = 0;

	if (released.pop(&index) == 0)
		return index;
	used = watermark.lookup(&zero);
	if (!used || *used >= conf->flow_limit)
		return 0;
	next = __sync_fetch_and_add(used, 1) + 1;
	return next <= conf->flow_limit ? next : 0;
}

static __always_inline void give_back(__u32 index)
{
	released.push(&index, 0);
}

/* The first free place of a bucket, or −1. */
static __always_inline int claim(__u32 bucket, __u64 word, __u32 *place)
{
	struct bucket *line = buckets.lookup(&bucket);
	int i;

	if (!line)
		return -1;
#pragma nounroll
	for (i = 0; i < BUCKET_ENTRIES; i++) {
		if (line->word[i] == 0 && __sync_val_compare_and_swap(&line->word[i], 0, word) == 0) {
			*place = bucket * BUCKET_ENTRIES + i;
			return 0;
		}
	}
	return -1;
}

/*
 * The tuple is in the table already. netfilter never gives a tuple to two connections at a time, so a record of another
 * session under this very tuple is of one that is over here: it makes room. 0 when it did.
 */
static __always_inline int supersede(const struct found *other, const struct tuple *tuple, __u32 index)
{
	struct record *old = record_of(other->word), *own = records.lookup(&index);

	if (!old || !own || !is_exactly(other->word, old, tuple) || same_tuple(&old->original, &own->original))
		return -1;
	end_flow(old, entry_record(other->word));
	return 0;
}

/* 0, or −1: no room, or the fingerprint is another session's (whose entry is then compared whole from now on). */
static __always_inline int insert_entry(const struct config *conf, const struct tuple *tuple, __u64 flags, __u32 index,
					__u32 *place)
{
	struct hash hash = hash_tuple(conf, tuple);
	__u64 word = (__u64)hash.fingerprint << ENTRY_FINGERPRINT_SHIFT | (__u64)index << ENTRY_RECORD_SHIFT | flags;
	__u32 bucket = hash.bucket & conf->bucket_mask;
	struct found other = {};

	if (find(conf, hash, &other) && supersede(&other, tuple, index)) {
		change_word(other.at, entry_record(other.word), 0, ENTRY_EXACT);
		return -1;
	}
	if (claim(bucket, word, place) && claim(other_bucket(conf, bucket, hash.fingerprint), word, place))
		return -1;
	/* Another CPU may have put the same fingerprint in meanwhile. The one that a look-up finds stays. */
	if (find(conf, hash, &other) && other.place != *place) {
		remove_word(*place, index);
		return -1;
	}
	return 0;
}

static __always_inline int insert_entries(const struct config *conf, struct record *record, __u32 index)
{
	__u64 owner = (__u64)record->owner << ENTRY_OWNER_SHIFT;

	if (insert_entry(conf, &record->reply, owner | ENTRY_REPLY, index, &record->place[FLOW_REPLY]))
		return -1;
	if (insert_entry(conf, &record->original, owner, index, &record->place[FLOW_ORIGINAL])) {
		remove_word(record->place[FLOW_REPLY], index);
		return -1;
	}
	return 0;
}

/*
 * Both entries or none, and then the number is given back. The record is filled in but for its places and its state, which
 * is 0 until `begin_flow`: whoever finds an entry before that goes by the owner it names, and the sweep passes by.
 */
static __always_inline int place_flow(const struct config *conf, struct record *record, __u32 index)
{
	if (insert_entries(conf, record, index) == 0)
		return 0;
	give_back(index);
	return -1;
}

/* A flow that is placed is its owner's from now on. */
static __always_inline void begin_flow(struct record *record, __u32 index, __u8 owner, __u8 state)
{
	union status none, begun;
	int i;

	if (record->owner != owner)
		change_flow(record, index, ENTRY_OWNER_MASK, (__u64)owner << ENTRY_OWNER_SHIFT);
	for (i = 0; i < STATUS_TRIES; i++) {
		begun.word = none.word = *(volatile __u64 *)status_word(record);
		begun.owner = owner;
		begun.state = state;
		if (change_status(record, index, none, begun))
			break;
	}
}

/* As `place_flow`, for an owner that is known before. */
static __always_inline int insert_flow(const struct config *conf, struct record *record, __u32 index, __u8 state)
{
	if (place_flow(conf, record, index))
		return -1;
	begin_flow(record, index, record->owner, state);
	return 0;
}

#endif
