/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets in pieces. Only the first fragment carries ports; where it went is remembered for a moment, and the later ones
 * go there too. A place in the map is written anew by each first fragment: identifications come round again quickly.
 */
#ifndef AA_FRAGMENT_H
#define AA_FRAGMENT_H

#include "flow_table.h"
#include "maps.h"
#include "parse.h"

#ifndef AA_FRAGMENT_NS
#define AA_FRAGMENT_NS (2 * AA_NSEC_PER_SEC) /* the pieces of a packet come together or not at all */
#endif

/* How far a piece overtakes another. Fast hosts use all 65,536 identifications in seconds: the next packet of that one,
 * in order, must not follow this one into the stack. */
#ifndef AA_FRAGMENT_EARLY_NS
#define AA_FRAGMENT_EARLY_NS (AA_NSEC_PER_SEC / 5)
#endif

#define FRAGMENT_TO_STACK 0ull

/* Ports are of no account. */
static __always_inline void fragment_key_init(struct fragment_key *key, const struct tuple *tuple, __be32 id)
{
	__builtin_memcpy(key->saddr, tuple->saddr, 16);
	__builtin_memcpy(key->daddr, tuple->daddr, 16);
	key->id = id;
	key->protocol = tuple->protocol;
	key->family = tuple->family;
	key->zero = 0;
}

/* What is remembered of that packet, or null. */
static __always_inline struct fragment *recall(const struct fragment_key *key)
{
	struct fragment *known = fragments.lookup(key);

	if (!known)
		return 0;
	return bpf_ktime_get_coarse_ns() - known->seen_ns < (known->early ? AA_FRAGMENT_EARLY_NS : AA_FRAGMENT_NS) ? known : 0;
}

/* `word`: of its flow's entry, or FRAGMENT_TO_STACK. */
static __always_inline void remember(const struct fragment_key *key, __u64 word, bool early)
{
	struct fragment fragment = {.seen_ns = bpf_ktime_get_coarse_ns(),
				    .owner = entry_owner(word),
				    .early = early,
				    .reply = (word & ENTRY_REPLY) != 0,
				    .record = entry_record(word)};

	fragments.update(key, &fragment);
}

#endif
