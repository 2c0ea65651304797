// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mirror: TC ingress on an auxiliary's HA link, behind arp_take. Replica frames of the primary (docs/replication.md) are
 * verified and written into this node's own flow table, each record under the number it has on the primary: a table that
 * `steer` can go by the moment this node is promoted. Until then nothing else here changes it.
 * Writes buckets, records, watermark, tallies, arrived, mirrored; reads config.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "flow_state.h"
#include "journal.h"
#include "maps.h"
#include "parse.h"
#include "replica.h"

#define NSEC_PER_MSEC 1000000ull
#define LOCK_TRIES 4096 /* some ten microseconds: longer than a frame takes */

/* More than the stack has room for. */
BPF_TABLE("percpu_array", __u32, struct replica_work, frames, 1);

/* Frames are applied one at a time. Most come through one queue, and then nobody waits. */
static __always_inline bool lock(struct mirrored *state)
{
	int i;

#pragma nounroll
	for (i = 0; i < LOCK_TRIES; i++) {
		if (__sync_val_compare_and_swap(&state->lock, 0, 1) == 0)
			return true;
	}
	return false;
}

static __always_inline void unlock(struct mirrored *state)
{
	__sync_fetch_and_add(&state->lock, -1ull);
}

/* Nobody but who holds the lock changes a bucket here: no compare-and-swap is needed. */
static __always_inline void clear_place(__u32 place, __u32 index)
{
	__u64 *at = word_at(place);

	if (at && entry_record(*at) == index)
		*at = 0;
}

/* The flow goes from the table; its number is free. */
static __always_inline void remove_flow(struct record *record, __u32 index)
{
	union status was = {.word = *status_word(record)}, none = {};

	if (!is_in_use(was))
		return;
	clear_place(record->place[FLOW_ORIGINAL], index);
	clear_place(record->place[FLOW_REPLY], index);
	*status_word(record) = 0;
	count_change(was, none);
}

enum { PLACE_TAKEN = 0, PLACE_FREE = 1, PLACE_SAME = 2 };

static __always_inline __u64 is_not_zero(__u64 value)
{
	__u64 negative = -value;

	asm volatile("" : "+r"(negative)); /* clang must not see what this comes to: it would branch */
	return (value | negative) >> 63;
}

/* A free place, and that of the entry with this fingerprint. No branch inside: the verifier walks this 60 times. */
static __always_inline void look_through(struct replica_work *work, __u32 bucket, __u32 fingerprint)
{
	struct bucket *line = buckets.lookup(&bucket);
	__u64 word, kind;
	__u32 i;

	if (!line)
		return;
#pragma nounroll
	for (i = 0; i < BUCKET_ENTRIES; i++) {
		word = line->word[i];
		kind = 1 - is_not_zero(word);
		kind |= (1 - kind) * 2 * (1 - is_not_zero(word >> ENTRY_FINGERPRINT_SHIFT ^ fingerprint));
		work->seen[kind & 3] = bucket * BUCKET_ENTRIES + i + 1;
	}
}

/*
 * Two flows that share a tuple, or a fingerprint, never lived at a time on the primary. The one that stands later in its
 * journal is the one that does: the other makes room. False: that is not ours.
 */
static __always_inline bool make_room(struct replica_work *work, __u32 index, __u64 position)
{
	__u32 place = work->seen[PLACE_SAME] - 1, holder;
	__u64 *at = word_at(place);
	struct record *record;

	if (!at)
		return false;
	holder = entry_record(*at);
	if (holder == index) /* both its tuples are the same: no such session */
		return false;
	record = records.lookup(&holder);
	if (record && record->position > position + 1)
		return false;
	if (record)
		remove_flow(record, holder);
	*at = 0; /* also when it was nobody's */
	work->seen[PLACE_FREE] = place + 1;
	return true;
}

/* 0, or −1: a later flow has it, or there is no free place. */
static __always_inline int put_entry(const struct config *conf, struct replica_work *work, const struct tuple *tuple,
				     __u64 flags, __u32 index, __u64 position, __u32 *place)
{
	struct hash hash = hash_tuple(conf, tuple);
	__u64 word = (__u64)hash.fingerprint << ENTRY_FINGERPRINT_SHIFT | (__u64)index << ENTRY_RECORD_SHIFT | flags;
	__u32 bucket = hash.bucket & conf->bucket_mask, other = other_bucket(conf, bucket, hash.fingerprint);

	__u64 *at;

	work->seen[PLACE_FREE] = work->seen[PLACE_SAME] = 0;
	look_through(work, other, hash.fingerprint);
	look_through(work, bucket, hash.fingerprint); /* a free place here is the better one */
	if (work->seen[PLACE_SAME] && !make_room(work, index, position))
		return -1;
	at = work->seen[PLACE_FREE] ? word_at(work->seen[PLACE_FREE] - 1) : 0;
	if (!at) {
		count(REPLICA_NO_ROOM);
		return -1;
	}
	*at = word;
	*place = work->seen[PLACE_FREE] - 1;
	return 0;
}

static __always_inline __u64 entry_bits(union status status)
{
	return (__u64)(status.owner & (AA_MAX_NODES - 1)) << ENTRY_OWNER_SHIFT |
	       (status.state >= FLOW_ESTABLISHED ? ENTRY_SETTLED : 0);
}

static __always_inline int put_entries(const struct config *conf, struct replica_work *work, struct record *record,
				       __u32 index, __u64 position, union status status)
{
	__u64 bits = entry_bits(status);

	if (put_entry(conf, work, &record->reply, bits | ENTRY_REPLY, index, position, &record->place[FLOW_REPLY]))
		return -1;
	if (put_entry(conf, work, &record->original, bits, index, position, &record->place[FLOW_ORIGINAL])) {
		clear_place(record->place[FLOW_REPLY], index);
		return -1;
	}
	return 0;
}

static __always_inline void set_bits(__u32 place, __u32 index, __u64 bits)
{
	__u64 *at = word_at(place);

	if (at && entry_record(*at) == index)
		*at = (*at & ~ENTRY_OWNER_MASK) | bits;
}

static __always_inline void read_tuple(struct tuple *tuple, const struct replica_record *in, const __u8 *saddr,
				       const __u8 *daddr, __be16 sport, __be16 dport)
{
	__builtin_memcpy(tuple->saddr, saddr, 16);
	__builtin_memcpy(tuple->daddr, daddr, 16);
	tuple->sport = sport;
	tuple->dport = dport;
	tuple->protocol = in->protocol;
	tuple->family = in->family;
	tuple->zero = 0;
}

/* Compared in place: no room for two tuples beside the rest on the stack. */
static __always_inline bool has_tuples(const struct record *record, const struct replica_record *in)
{
	const __u64 *a = (const __u64 *)&record->original, *b = (const __u64 *)&record->reply;
	const __u64 *x = (const __u64 *)in->saddr, *y = (const __u64 *)in->reply_saddr;

	return ((a[0] ^ x[0]) | (a[1] ^ x[1]) | (a[2] ^ x[2]) | (a[3] ^ x[3]) | (b[0] ^ y[0]) | (b[1] ^ y[1]) |
		(b[2] ^ y[2]) | (b[3] ^ y[3])) == 0 &&
	       record->original.sport == in->sport && record->original.dport == in->dport &&
	       record->reply.sport == in->reply_sport && record->reply.dport == in->reply_dport &&
	       record->original.protocol == in->protocol && record->original.family == in->family;
}

static __always_inline void raise_watermark(__u32 index)
{
	int zero = 0;
	__u64 *highest = watermark.lookup(&zero);

	if (highest && *highest < index)
		*highest = index;
}

/* When a flow began says which one it is: that does not move with each frame's time on its way. */
static __always_inline void set_times(struct record *record, union status was, __u64 created_ns, __u64 seen_ns)
{
	if (!is_in_use(was) || created_ns > record->created_ns + AA_NSEC_PER_SEC)
		record->created_ns = created_ns;
	record->seen_ns = seen_ns;
}

static __always_inline void apply(const struct config *conf, struct mirrored *state, struct replica_work *work,
				  const struct replica_record *in, __u64 position, __u64 now)
{
	__u32 index = host32(in->number);
	struct record *record = records.lookup(&index);
	union status was, next;

	if (!record || !index || index > conf->flow_limit) {
		state->refused++;
		count(REPLICA_NO_ROOM);
		return;
	}
	if (record->position > position) {
		state->stale++;
		return;
	}
	raise_watermark(index);
	record->position = position + 1;
	state->records++;
	next.mark = host32(in->mark);
	next.owner = in->owner & (AA_MAX_NODES - 1);
	next.state = in->state;
	next.ended = in->ended;
	next.slot = in->slot;
	if (!is_in_use(next) || next.state > FLOW_DEAD || !has_tuples(record, in))
		remove_flow(record, index);
	if (!is_in_use(next) || next.state > FLOW_DEAD)
		return;
	was.word = *status_word(record);
	if (is_in_use(was)) {
		set_bits(record->place[FLOW_ORIGINAL], index, entry_bits(next));
		set_bits(record->place[FLOW_REPLY], index, entry_bits(next));
	} else {
		read_tuple(&record->original, in, in->saddr, in->daddr, in->sport, in->dport);
		read_tuple(&record->reply, in, in->reply_saddr, in->reply_daddr, in->reply_sport, in->reply_dport);
		record->held_ns = 0;
		was.word = 0;
		if (put_entries(conf, work, record, index, position, next)) {
			*status_word(record) = 0;
			state->refused++;
			return;
		}
	}
	set_times(record, was, now - host32(in->age_ms) * NSEC_PER_MSEC, now - host32(in->idle_ms) * NSEC_PER_MSEC);
	*status_word(record) = next.word;
	count_change(was, next);
}

/* What has come is noted by position, so that what has not can be asked for. */
static __always_inline void note_arrival(struct mirrored *state, __u64 from, __u32 count, __u64 head)
{
	__u64 *slot;
	__u32 at, i;

#pragma nounroll
	for (i = 0; i < REPLICA_MOST; i++) {
		if (i >= count)
			break;
		at = (from + i) & (AA_JOURNAL - 1);
		slot = arrived.lookup(&at);
		if (slot && *slot < from + i + 1) /* never back to what stood there a round before */
			*slot = from + i + 1;
	}
	if (from > state->next) {
		state->gaps++;
		wake(&state->armed, EVENT_GAP);
	}
	if (from + count > state->next)
		state->next = from + count;
	if (head > state->head)
		state->head = head;
	state->heard_ns = bpf_ktime_get_ns();
	state->frames++;
}

/* REPLICA_TAKEN stands for "nothing wrong". */
static __always_inline enum reason inspect(const struct config *conf, const struct replica_head *in, __u32 length)
{
	const struct hl_head *common = &in->common;

	if (common->version != HL_VERSION_1 || in->count < 1 || in->count > REPLICA_MOST ||
	    host16(common->length) != (replica_words(in->count) + 1) * 8 || host16(common->length) + ETH_HLEN > length)
		return REPLICA_MALFORMED;
	if (common->cluster_id != be16(conf->cluster_id) || common->sender != conf->primary ||
	    common->sender == conf->self || (common->target && common->target != conf->self))
		return REPLICA_STRANGER;
	return common->generation == be32(conf->generation) ? REPLICA_TAKEN : REPLICA_OLD;
}

/* The records and the tag. */
static __always_inline long load_records(struct __sk_buff *skb, struct replica_work *work, __u32 count)
{
	__u64 length = count * sizeof(struct replica_record);

	asm volatile("" : "+r"(length)); /* else clang makes an "or" of the "+", whose limits the verifier does not know */
	return bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct replica_head), &work->word[REPLICA_HEAD_WORDS],
				  length + 8);
}

static __always_inline bool is_sealed(const struct config *conf, const struct replica_work *work, __u32 count)
{
	return work->word[replica_words(count)] ==
	       siphash24_long(conf->replica_key, work->word, replica_words(count), REPLICA_WORDS);
}

int mirror(struct __sk_buff *skb)
{
	const struct config *conf = configuration();
	struct replica_head *head;
	struct replica_work *work;
	struct mirrored *state;
	__u64 from, now;
	enum reason why;
	__u32 place = 0, count, i;
	int zero = 0;

	if (skb->protocol != be16(ETH_P_HL))
		return verdict(TC_ACT_UNSPEC, REPLICA_OTHER);
	work = frames.lookup(&place);
	state = mirrored.lookup(&zero);
	if (!conf || !work || !state || !conf->self)
		return verdict(TC_ACT_SHOT, REPLICA_NOT_READY);
	head = (struct replica_head *)work->word;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, work->word, sizeof(struct replica_head)) || head->common.magic != HL_MAGIC)
		return verdict(TC_ACT_SHOT, REPLICA_MALFORMED);
	if (head->common.kind != HL_KIND_REPLICA)
		return verdict(TC_ACT_UNSPEC, REPLICA_OTHER);
	why = inspect(conf, head, skb->len);
	if (why != REPLICA_TAKEN)
		return verdict(TC_ACT_SHOT, why);
	count = head->count;
	asm volatile("" : "+r"(count));
	count &= REPLICA_MOST; /* inspected before; this is for the verifier */
	if (load_records(skb, work, count))
		return verdict(TC_ACT_SHOT, REPLICA_MALFORMED);
	if (!is_sealed(conf, work, count))
		return verdict(TC_ACT_SHOT, REPLICA_TAG);

	from = swap64(head->position);
	now = bpf_ktime_get_coarse_ns();
	if (!lock(state))
		return verdict(TC_ACT_SHOT, REPLICA_BUSY);
	if (*(volatile __u64 *)&state->closed) {
		unlock(state);
		return verdict(TC_ACT_SHOT, REPLICA_NOT_READY);
	}
#pragma nounroll
	for (i = 0; i < REPLICA_MOST; i++) {
		if (i >= count)
			break;
		apply(conf, state, work, (const struct replica_record *)&work->word[replica_words(i)], from + i,
		      now);
	}
	note_arrival(state, from, count, swap64(head->head));
	unlock(state);
	return verdict(TC_ACT_SHOT, REPLICA_TAKEN);
}
