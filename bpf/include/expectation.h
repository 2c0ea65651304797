/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sessions that a conntrack helper expects, known to the primary and to the node whose helper it is: their SYN goes to
 * that node, which lets it in without a block. Only where helpers are shared.
 */
#ifndef AA_EXPECTATION_H
#define AA_EXPECTATION_H

#include "block.h"
#include "maps.h"

/* Long enough for a client to follow what its control session was told. */
#ifndef AA_EXPECTATION_NS
#define AA_EXPECTATION_NS (300 * AA_NSEC_PER_SEC)
#endif

static __always_inline void expectation_key_init(struct expectation_key *key, const struct tuple *tuple)
{
	__builtin_memcpy(key->saddr, tuple->saddr, 16);
	__builtin_memcpy(key->daddr, tuple->daddr, 16);
	key->dport = tuple->dport;
	key->protocol = tuple->protocol;
	key->family = tuple->family;
}

/* `tuple`: of the packets to come; its source port is of no account. */
static __always_inline void expect(const struct tuple *tuple, __u8 owner)
{
	struct expectation expectation = {.until_ns = bpf_ktime_get_coarse_ns() + AA_EXPECTATION_NS, .owner = owner};
	struct expectation_key key;

	expectation_key_init(&key, tuple);
	expected.update(&key, &expectation);
}

/* The node that expects such a session, or 0. */
static __always_inline __u8 expecting_node(const struct config *conf, const struct tuple *tuple)
{
	struct expectation *expectation;
	struct expectation_key key;

	if (!(conf->features & AA_FEATURE_SHARE_HELPERS))
		return 0;
	expectation_key_init(&key, tuple);
	expectation = expected.lookup(&key);
	return expectation && bpf_ktime_get_coarse_ns() < expectation->until_ns ? expectation->owner : 0;
}

static __always_inline bool is_expected(const struct config *conf, const struct tuple *tuple)
{
	return expecting_node(conf, tuple) != 0;
}

#endif
