// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * compose: TC egress on the primary's HA link. A packet that was sent there for that purpose (emit.h, flush.bpf.c) becomes
 * a replica frame: the records that the journal names next, as they are at this moment (docs/replication.md). Everything
 * else leaves as it is.
 * Writes replication; reads journal, records, nodes, config.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "flow_state.h"
#include "journal.h"
#include "maps.h"
#include "parse.h"
#include "replica.h"

#define NSEC_PER_MSEC 1000000ull
#define CLAIM_TRIES 4

/* How far behind the sender may fall, in entries, before what it has not sent is given up: some are being written. */
#define JOURNAL_SAFE (AA_JOURNAL - 1024)

/* More than the stack has room for. */
BPF_TABLE("percpu_array", __u32, struct replica_work, compositions, 1);

/* A clone of a SYN may wait for its checksum (CHECKSUM_PARTIAL): that ends when more is cut off than stands before the sum. */
#define CUT (ETH_HLEN + IPV4_LONGEST + 2)
#define CUT_FROM (ETH_HLEN + 40 + CUT) /* what is left must have the length of an IP header, IPv6's included */

/* Notes the numbers of up to `most` entries from `from` on; how many, the first that is missing ending it. */
static __always_inline __u32 gather(struct replica_work *work, __u64 from, __u32 most)
{
	__u32 at, i, count = 0;
	__u64 *slot;

#pragma nounroll
	for (i = 0; i < REPLICA_MOST; i++) {
		if (i >= most)
			break;
		at = (from + i) & (AA_JOURNAL - 1);
		slot = journal.lookup(&at);
		if (!slot || *(volatile __u64 *)slot >> 32 != (__u32)(from + i + 1))
			break;
		work->number[i] = *slot;
		count = i + 1;
	}
	return count;
}

/* Makes the next entries this CPU's to send; how many. */
static __always_inline __u32 claim_pending(struct replication *state, struct replica_work *work, __u64 *from)
{
	__u64 cursor, head;
	__u32 count;
	int i;

#pragma nounroll
	for (i = 0; i < CLAIM_TRIES; i++) {
		cursor = *(volatile __u64 *)&state->cursor;
		head = *(volatile __u64 *)&state->head;
		if (head > cursor + JOURNAL_SAFE) {
			if (__sync_val_compare_and_swap(&state->cursor, cursor, head - AA_JOURNAL / 2) == cursor)
				__sync_fetch_and_add(&state->skipped, head - AA_JOURNAL / 2 - cursor);
			continue;
		}
		count = gather(work, cursor, REPLICA_MOST);
		if (!count)
			return 0;
		if (__sync_val_compare_and_swap(&state->cursor, cursor, cursor + count) == cursor) {
			*from = cursor;
			return count;
		}
	}
	return 0;
}

/* How many records; for the verifier one number, however many ways led here. */
static __always_inline __u32 merged(const struct replica_work *work)
{
	return *(volatile __u32 *)&work->count & REPLICA_MOST;
}

static __always_inline __be32 age_ms(__u64 now, __u64 then)
{
	return be32(now > then ? (__u32)((now - then) / NSEC_PER_MSEC) : 0);
}

static __always_inline bool is_sent(const struct config *conf, union status status)
{
	return is_in_use(status) &&
	       (status.state >= FLOW_ESTABLISHED || !(conf->features & AA_FEATURE_REPLICATE_SETTLED));
}

/*
 * A number is given out again a second after its flow went, and is of no use meanwhile: a record that is in use before and
 * after its tuples were read has these tuples.
 */
static __always_inline void copy_record(const struct config *conf, struct replica_record *out, __u32 index, __u64 now)
{
	struct record *record = records.lookup(&index);
	union status before, after;

	__builtin_memset(out, 0, sizeof(*out));
	out->number = be32(index);
	if (!record)
		return;
	before.word = *(volatile __u64 *)status_word(record);
	if (!is_sent(conf, before))
		return;
	out->protocol = record->original.protocol;
	out->family = record->original.family;
	out->age_ms = age_ms(now, record->created_ns);
	out->idle_ms = age_ms(now, record->seen_ns);
	out->sport = record->original.sport;
	out->dport = record->original.dport;
	out->reply_sport = record->reply.sport;
	out->reply_dport = record->reply.dport;
	__builtin_memcpy(out->saddr, record->original.saddr, 16);
	__builtin_memcpy(out->daddr, record->original.daddr, 16);
	__builtin_memcpy(out->reply_saddr, record->reply.saddr, 16);
	__builtin_memcpy(out->reply_daddr, record->reply.daddr, 16);
	after.word = *(volatile __u64 *)status_word(record);
	if (!is_sent(conf, after))
		return;
	out->mark = be32(after.mark);
	out->owner = after.owner;
	out->state = after.state;
	out->ended = after.ended;
	out->slot = after.slot;
}

static __always_inline void write_frame(const struct config *conf, struct replica_work *work, __u32 count, __u64 from,
					__u64 head, __u8 target)
{
	struct replica_head *out = (struct replica_head *)work->word;
	__u64 now = bpf_ktime_get_coarse_ns();
	struct ethhdr *eth = (struct ethhdr *)(work->ethernet + ETHERNET_AT);
	__u32 i;

	if (target)
		copy_mac(eth->h_dest, node_of(target)->ha_mac);
	else
		__builtin_memset(eth->h_dest, 0xff, 6);
	copy_mac(eth->h_source, conf->ha_mac);
	eth->h_proto = be16(ETH_P_HL);
	hl_fill(&out->common, conf, HL_KIND_REPLICA, target, (replica_words(count) + 1) * 8);
	out->count = count;
	__builtin_memset(out->zero, 0, 3);
	out->position = swap64(from);
	out->head = swap64(head);
#pragma nounroll
	for (i = 0; i < REPLICA_MOST; i++) {
		if (i >= count)
			break;
		copy_record(conf, (struct replica_record *)&work->word[replica_words(i)], work->number[i], now);
	}
	count = merged(work);
	work->word[replica_words(count)] =
		siphash24_long(conf->replica_key, work->word, replica_words(count), REPLICA_WORDS);
}

static __always_inline int drop_partial_checksum(struct __sk_buff *skb)
{
	if (skb->len < CUT_FROM && bpf_skb_change_tail(skb, CUT_FROM, 0))
		return -1;
	return bpf_skb_adjust_room(skb, -CUT, BPF_ADJ_ROOM_MAC, 0);
}

static __always_inline int put_frame(struct __sk_buff *skb, struct replica_work *work, __u32 count, bool of_a_packet)
{
	__u32 length = ETH_HLEN + (replica_words(count) + 1) * 8;

	if (of_a_packet && drop_partial_checksum(skb))
		return -1;
	return bpf_skb_change_tail(skb, length, 0) ||
	       bpf_skb_store_bytes(skb, 0, work->ethernet + ETHERNET_AT, length, BPF_F_INVALIDATE_HASH);
}

int compose(struct __sk_buff *skb)
{
	__u32 what = skb->cb[0], zero = 0, count, most;
	struct replication *state;
	struct replica_work *work;
	const struct config *conf;
	__u64 from, head;
	__u8 target = 0;

	if (what != COMPOSE_SYN && what != COMPOSE_PENDING && what != COMPOSE_RANGE)
		return verdict(TC_ACT_UNSPEC, REPLICA_OUT);
	skb->cb[0] = 0;
	conf = configuration();
	state = replication_state();
	work = compositions.lookup(&zero);
	if (!conf || !state || !work)
		return verdict(TC_ACT_SHOT, REPLICA_FAILED);
	if (what == COMPOSE_RANGE) {
		from = skb->cb[2] | (__u64)skb->cb[3] << 32;
		target = skb->cb[1] & (AA_MAX_NODES - 1);
		most = skb->cb[4];
		count = gather(work, from, most);
	} else {
		count = claim_pending(state, work, &from);
	}
	work->count = count;
	count = merged(work);
	if (!count)
		return verdict(TC_ACT_SHOT, what == COMPOSE_RANGE ? REPLICA_GONE : REPLICA_NOTHING);
	head = *(volatile __u64 *)&state->head;
	write_frame(conf, work, count, from, head, target);
	if (put_frame(skb, work, count, what == COMPOSE_SYN))
		return verdict(TC_ACT_SHOT, REPLICA_FAILED);
	__sync_fetch_and_add(&state->frames, 1);
	if (what == COMPOSE_RANGE) {
		__sync_fetch_and_add(&state->again, count);
	} else {
		__sync_fetch_and_add(&state->records, count);
		state->sent_ns = bpf_ktime_get_ns();
	}
	return verdict(TC_ACT_OK, REPLICA_SENT);
}
