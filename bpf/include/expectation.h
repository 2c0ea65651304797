/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sessions that a conntrack helper expects, known to the primary and to the node whose helper it is: their SYN goes to
 * that node, which lets it in without a block. Only where helpers are shared. What an auxiliary expects itself it keeps
 * apart from what the primary has told it of all nodes' (the map `expected`, for when it is promoted), which is older.
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

/*
 * A session with a helper begins here. Its packets are known by the tuple with which they leave this node, either way:
 * `original` as it came in, `translated` as it goes on.
 */
static __always_inline void note_control(const struct tuple *original, const struct tuple *translated)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct tuple answers;

	invert(&answers, original);
	controls.update(&answers, &now);
	controls.update(translated, &now);
}

static __always_inline bool is_control(const struct tuple *leaving)
{
	return controls.lookup(leaving) != 0;
}

/* A packet of a session with a helper, behind it: what does the helper expect? 0, or −1 when there is nothing. */
static __always_inline int read_expectation(struct __sk_buff *skb, const struct tuple *leaving, struct tuple *coming)
{
	struct tuple inverse;
	struct nf_conn *ct;
	int none;

	invert(&inverse, leaving); /* behind POSTROUTING a packet carries the reply tuple, inverted */
	ct = ct_find(skb, &inverse);
	if (!ct)
		return -1;
	none = ct_expectation(ct, coming);
	ct_release(ct);
	return none;
}

static __always_inline void expectation_key_init(struct expectation_key *key, const struct tuple *tuple)
{
	__builtin_memcpy(key->saddr, tuple->saddr, 16);
	__builtin_memcpy(key->daddr, tuple->daddr, 16);
	key->dport = tuple->dport;
	key->protocol = tuple->protocol;
	key->family = tuple->family;
}

static __always_inline __u64 expectation_end(void)
{
	return bpf_ktime_get_coarse_ns() + AA_EXPECTATION_NS;
}

/* Auxiliary: a helper of this node. `tuple`: of the packets to come; its source port is of no account, here and below. */
static __always_inline void expect_here(const struct tuple *tuple)
{
	__u64 until_ns = expectation_end();
	struct expectation_key key;

	expectation_key_init(&key, tuple);
	expecting.update(&key, &until_ns);
}

/* Auxiliary. Also when the session has begun: its SYN may be repeated. */
static __always_inline bool is_expected_here(const struct config *conf, const struct tuple *tuple)
{
	struct expectation_key key;
	__u64 *until_ns;

	if (!(conf->features & AA_FEATURE_SHARE_HELPERS))
		return false;
	expectation_key_init(&key, tuple);
	until_ns = expecting.lookup(&key);
	return until_ns && bpf_ktime_get_coarse_ns() < *until_ns;
}

/* Primary: a helper of that node. */
static __always_inline void expect(const struct tuple *tuple, __u8 owner)
{
	struct expectation expectation = {.until_ns = expectation_end(), .owner = owner};
	struct expectation_key key;

	expectation_key_init(&key, tuple);
	expected.update(&key, &expectation);
}

/* Primary: the session has begun. Another one of that tuple was not expected, whoever it is for. */
static __always_inline void expect_no_more(const struct tuple *tuple)
{
	struct expectation_key key;

	expectation_key_init(&key, tuple);
	expected.delete(&key);
}

/* Primary: the node that expects such a session, or 0. */
static __always_inline __u8 expecting_node(const struct tuple *tuple)
{
	struct expectation *expectation;
	struct expectation_key key;

	expectation_key_init(&key, tuple);
	expectation = expected.lookup(&key);
	return expectation && bpf_ktime_get_coarse_ns() < expectation->until_ns ? expectation->owner : 0;
}

#endif
