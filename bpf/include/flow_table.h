/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The flow table (docs/flow-table.md). Hot: buckets of one cache line, eight entries each; an entry is one 64-bit word, so
 * a reader sees all of it or none, and a steered packet touches one line. Cold: one record a flow, with both tuples whole.
 *
 *    63           32 31           10 9      4   3      2        1       0
 *   +---------------+---------------+--------+-------+---------+-------+---------+
 *   |  fingerprint  |    record     |  owner | reply | settled | exact | touched |
 *   +---------------+---------------+--------+-------+---------+-------+---------+
 *
 * An entry stands in the bucket its hash names, or, where that was full, in the other one that bucket and fingerprint
 * name together. Two live entries never share bucket pair and fingerprint: the later session stays on the primary, and
 * the earlier entry is marked exact. Zero is no entry: record 0 is never given out.
 */
#ifndef AA_FLOW_TABLE_H
#define AA_FLOW_TABLE_H

#include "maps.h"
#include "parse.h"
#include "types.h"

#define ENTRY_TOUCHED 1ull /* a packet came since the sweep last looked */
#define ENTRY_EXACT 2ull   /* another tuple shares the fingerprint: compare the whole tuple */
#define ENTRY_SETTLED 4ull /* the handshake is complete */
#define ENTRY_REPLY 8ull
#define ENTRY_OWNER_SHIFT 4
#define ENTRY_OWNER_MASK (63ull << ENTRY_OWNER_SHIFT)
#define ENTRY_RECORD_SHIFT 10
#define ENTRY_RECORD_MASK 0x3fffffull
#define ENTRY_FINGERPRINT_SHIFT 32

#ifndef AA_FINGERPRINT_MASK
#define AA_FINGERPRINT_MASK 0xffffffffu /* fewer bits only to test what happens when fingerprints collide */
#endif

#define BUCKET_ENTRIES 8
#define CHANGE_TRIES 8 /* a word changes under us only by a rare event on another CPU */

/* Per packet the search is worth its code; per session it is not. */
#ifdef AA_SEARCH_PER_PACKET
#define SEARCH_LOOP _Pragma("unroll")
#else
#define SEARCH_LOOP _Pragma("nounroll")
#endif

struct hash {
	__u32 fingerprint;
	__u32 bucket; /* not yet masked */
};

/* What a look-up found. `word` is 0 when nothing was; `place` is bucket × 8 + index. */
struct found {
	__u64 word;
	__u64 *at;
	__u32 place;
};

static __always_inline __u32 entry_record(__u64 word)
{
	return word >> ENTRY_RECORD_SHIFT & ENTRY_RECORD_MASK;
}

static __always_inline __u8 entry_owner(__u64 word)
{
	return (word & ENTRY_OWNER_MASK) >> ENTRY_OWNER_SHIFT;
}

/*
 * Keyed, strongly universal hashing (pair-multiply-shift: Thorup, "High Speed Hashing for Integers and Strings", 3.5):
 * Σ (a[2i] + x[2i+1]) (a[2i+1] + x[2i]) + a[last], upper half. Two independent sums give fingerprint and bucket. Nobody
 * outside sees a hash value, so nobody can aim at a bucket or a fingerprint.
 */
static __always_inline __u64 hash_pair(const __u64 *key, __u64 x, __u64 y)
{
	return (key[0] + y) * (key[1] + x);
}

/* Sums of neighbouring tuples lie on a lattice and fill buckets unevenly; one multiplication makes them as good as random. */
static __always_inline __u32 spread(__u64 sum)
{
	return ((sum ^ sum >> 32) * 0x9e3779b97f4a7c15ull) >> 32;
}

/* `first`: of the keys for the addresses. */
static __always_inline struct hash hash_words(const struct config *conf, int first, __be32 source, __be32 destination,
					      __be32 both_ports, __u32 rest)
{
	const __u64 *a = conf->hash_key, *b = conf->hash_key + AA_HASH_KEYS;
	struct hash hash;

	hash.fingerprint =
		(hash_pair(a + first, source, destination) + hash_pair(a + 8, both_ports, rest) + a[AA_HASH_KEYS - 1]) >>
			32 & AA_FINGERPRINT_MASK;
	hash.bucket = spread(hash_pair(b + first, source, destination) + hash_pair(b + 8, both_ports, rest) +
			     b[AA_HASH_KEYS - 1]);
	return hash;
}

static __always_inline struct hash hash_ipv4(const struct config *conf, __be32 source, __be32 destination, __be32 both_ports,
					     __u32 kind)
{
	return hash_words(conf, 0, source, destination, both_ports, kind);
}

/*
 * `source`, `destination`: 16 bytes each, where the packet has them. The first twelve of both become one word, which goes
 * into the two sums with the kind: seven multiplications in place of ten.
 */
static __always_inline struct hash hash_ipv6(const struct config *conf, const __u32 *source, const __u32 *destination,
					     __be32 both_ports, __u32 kind)
{
	const __u64 *a = conf->hash_key;
	__u32 network = (hash_pair(a, source[0], destination[0]) + hash_pair(a + 2, source[1], destination[1]) +
			 hash_pair(a + 4, source[2], destination[2])) >> 32;

	return hash_words(conf, 6, source[3], destination[3], both_ports, network ^ kind);
}

static __always_inline __u32 tuple_kind(const struct tuple *tuple)
{
	return (__u32)tuple->family << 8 | tuple->protocol;
}

/* Any tuple: the same as of its packets. */
static __always_inline struct hash hash_tuple(const struct config *conf, const struct tuple *tuple)
{
	const __u32 *source = (const __u32 *)tuple->saddr, *destination = (const __u32 *)tuple->daddr;
	__u32 both_ports = (__u32)tuple->sport | (__u32)tuple->dport << 16;

	if (tuple->family == 4)
		return hash_ipv4(conf, source[3], destination[3], both_ports, tuple_kind(tuple));
	return hash_ipv6(conf, source, destination, both_ports, tuple_kind(tuple));
}

/* The other bucket of an entry; its own inverse. */
static __always_inline __u32 other_bucket(const struct config *conf, __u32 bucket, __u32 fingerprint)
{
	return (bucket ^ (fingerprint | 1)) & conf->bucket_mask;
}

static __always_inline bool search(__u32 bucket, __u32 fingerprint, struct found *found)
{
	struct bucket *line = buckets.lookup(&bucket);
	__u64 word;
	int i;

	if (!line)
		return false;
	SEARCH_LOOP
	for (i = 0; i < BUCKET_ENTRIES; i++) {
		word = line->word[i];
		if (word >> ENTRY_FINGERPRINT_SHIFT == fingerprint && word) {
			found->word = word;
			found->at = &line->word[i];
			found->place = bucket * BUCKET_ENTRIES + i;
			return true;
		}
	}
	return false;
}

static __always_inline bool find(const struct config *conf, struct hash hash, struct found *found)
{
	__u32 bucket = hash.bucket & conf->bucket_mask;

	return search(bucket, hash.fingerprint, found) ||
	       search(other_bucket(conf, bucket, hash.fingerprint), hash.fingerprint, found);
}

static __always_inline struct record *record_of(__u64 word)
{
	__u32 index = entry_record(word);

	return records.lookup(&index);
}

/* The record's tuple of that direction. */
static __always_inline struct tuple *side(struct record *record, bool reply)
{
	return reply ? &record->reply : &record->original;
}

/* Is the entry that of this very tuple? */
static __always_inline bool is_exactly(__u64 word, struct record *record, const struct tuple *tuple)
{
	return same_tuple(side(record, word & ENTRY_REPLY), tuple);
}

/* Sets and clears bits of an entry as long as it is that record's. */
static __always_inline void change_word(__u64 *at, __u32 index, __u64 clear, __u64 set)
{
	__u64 old, now;
	int i;

#pragma nounroll
	for (i = 0; i < CHANGE_TRIES; i++) {
		old = *at;
		if (entry_record(old) != index)
			return;
		now = (old & ~clear) | set;
		if (now == old || __sync_val_compare_and_swap(at, old, now) == old)
			return;
	}
}

static __always_inline __u64 *word_at(__u32 place)
{
	__u32 bucket = place / BUCKET_ENTRIES;
	struct bucket *line = buckets.lookup(&bucket);

	return line ? &line->word[place & (BUCKET_ENTRIES - 1)] : 0;
}

/* The same change to both entries of a flow. */
static __always_inline void change_flow(struct record *record, __u32 index, __u64 clear, __u64 set)
{
	__u64 *original = word_at(record->place[FLOW_ORIGINAL]), *reply = word_at(record->place[FLOW_REPLY]);

	if (original)
		change_word(original, index, clear, set);
	if (reply)
		change_word(reply, index, clear, set);
}

static __always_inline void remove_word(__u32 place, __u32 index)
{
	__u64 *at = word_at(place), old;
	int i;

	if (!at)
		return;
#pragma nounroll
	for (i = 0; i < CHANGE_TRIES; i++) {
		old = *at;
		if (entry_record(old) != index || __sync_val_compare_and_swap(at, old, 0) == old)
			return;
	}
}

#endif
