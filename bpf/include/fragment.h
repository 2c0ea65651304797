/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets in pieces. Only the first fragment carries ports; where it went is remembered for a moment, and the later ones
 * go there too. A place in the map is written anew by each first fragment: identifications come round again quickly.
 */
#ifndef AA_FRAGMENT_H
#define AA_FRAGMENT_H

#include "maps.h"
#include "parse.h"

#ifndef AA_FRAGMENT_NS
#define AA_FRAGMENT_NS (5 * AA_NSEC_PER_SEC) /* the pieces of a packet come together or not at all */
#endif

#define FRAGMENT_TO_STACK 0

static __always_inline void fragment_key_init(struct fragment_key *key, const struct iphdr *ip)
{
	map_ipv4(key->saddr, ip->saddr);
	map_ipv4(key->daddr, ip->daddr);
	key->id = ip->id;
	key->protocol = ip->protocol;
	key->family = 4;
	key->zero = 0;
}

/* What is remembered of that packet, or null. */
static __always_inline struct fragment *recall(const struct fragment_key *key)
{
	struct fragment *known = fragments.lookup(key);

	return known && bpf_ktime_get_coarse_ns() - known->seen_ns < AA_FRAGMENT_NS ? known : 0;
}

static __always_inline void remember(const struct fragment_key *key, __u8 owner, bool early)
{
	struct fragment fragment = {.seen_ns = bpf_ktime_get_coarse_ns(), .owner = owner, .early = early};

	fragments.update(key, &fragment);
}

#endif
