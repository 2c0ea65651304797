/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sessions that a conntrack helper expects, known to the primary and to the node whose helper it is: their SYN goes to
 * that node, which lets it in without a block. Only where helpers are shared.
 */
#ifndef AA_EXPECTATION_H
#define AA_EXPECTATION_H

#include "block.h"
#include "helper.h"
#include "maps.h"

/* Long enough for a client to follow what its control session was told. */
#ifndef AA_EXPECTATION_NS
#define AA_EXPECTATION_NS (300 * AA_NSEC_PER_SEC)
#endif

#ifndef AA_CT_EXPECT_NODE /* only so that a plain syntax check can read this file */
#define AA_CT_EXPECT_NODE 0
#define AA_CT_EXPECT_TUPLE 0
#define AA_CT_EXPECT_MASK 0
#define AA_CT_DST_PROTOCOL 0
#endif

/* struct nf_conntrack_man: the family stands behind the port. */
#define CT_FAMILY (AA_CT_SRC_PORT + 2)
#define CT_FAMILY_IPV6 10

static __always_inline bool read_kernel(void *to, __u32 size, __u64 from)
{
	return bpf_probe_read_kernel(to, size, (const void *)from) == 0;
}

/*
 * What the helper of an entry expects next (net/netfilter/nf_conntrack_expect.h): the youngest of its expectations, which
 * stands first. 0, or −1 when there is none that our key can say: from one address, any source port.
 */
static __always_inline int ct_expectation(struct nf_conn *ct, struct tuple *tuple)
{
	__u64 help = ct_help_of(ct), first = help ? kernel_pointer(help, AA_CT_HELP_EXPECTATIONS) : 0, inside;
	__u32 mask[4] = {};
	__u16 family = 0;

	if (!first)
		return -1;
	inside = first - AA_CT_EXPECT_NODE + AA_CT_EXPECT_TUPLE;
	if (!read_kernel(mask, sizeof(mask), first - AA_CT_EXPECT_NODE + AA_CT_EXPECT_MASK) ||
	    !read_kernel(&family, sizeof(family), inside + CT_FAMILY) ||
	    (family == CT_FAMILY_IPV6 ? mask[0] & mask[1] & mask[2] & mask[3] : mask[0]) != 0xffffffff ||
	    !read_kernel(tuple->saddr, sizeof(tuple->saddr), inside + AA_CT_SRC_ADDR) ||
	    !read_kernel(tuple->daddr, sizeof(tuple->daddr), inside + AA_CT_DST_ADDR) ||
	    !read_kernel(&tuple->dport, sizeof(tuple->dport), inside + AA_CT_DST_PORT) ||
	    !read_kernel(&tuple->protocol, sizeof(tuple->protocol), inside + AA_CT_DST_PROTOCOL))
		return -1;
	tuple->family = family == CT_FAMILY_IPV6 ? 6 : 4;
	if (tuple->family == 4) {
		map_ipv4(tuple->saddr, *(__be32 *)tuple->saddr);
		map_ipv4(tuple->daddr, *(__be32 *)tuple->daddr);
	}
	tuple->sport = 0;
	tuple->zero = 0;
	return 0;
}

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

/*
 * The session has begun: another one of that tuple was not expected, whoever it is for. Its repeated SYN still belongs
 * where it went.
 */
static __always_inline void use_expectation(const struct tuple *tuple)
{
	struct expectation *expectation;
	struct expectation_key key;

	expectation_key_init(&key, tuple);
	expectation = expected.lookup(&key);
	if (expectation)
		expectation->used = 1;
}

/* Such a session was expected, and has begun. */
static __always_inline bool was_expected(const struct tuple *tuple)
{
	struct expectation *expectation;
	struct expectation_key key;

	expectation_key_init(&key, tuple);
	expectation = expected.lookup(&key);
	return expectation && expectation->used;
}

/* The node that expects such a session, or 0. `under_way`: there is a flow of that tuple which has not ended. */
static __always_inline __u8 expecting_node(const struct config *conf, const struct tuple *tuple, bool under_way)
{
	struct expectation *expectation;
	struct expectation_key key;

	if (!(conf->features & AA_FEATURE_SHARE_HELPERS))
		return 0;
	expectation_key_init(&key, tuple);
	expectation = expected.lookup(&key);
	if (!expectation || bpf_ktime_get_coarse_ns() >= expectation->until_ns || (expectation->used && !under_way))
		return 0;
	return expectation->owner;
}

static __always_inline bool is_expected(const struct config *conf, const struct tuple *tuple)
{
	return expecting_node(conf, tuple, false) != 0;
}

#endif
