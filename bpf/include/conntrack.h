/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's conntrack functions for BPF (net/netfilter/nf_conntrack_bpf.c, nf_nat_bpf.c). bcc cannot link kernel
 * functions: each is a call to a number of its own, which the loader replaces by the function's BTF id
 * (dataplane/kfuncs.py has the same numbers). The AA_CT_* offsets come from the running kernel's BTF.
 */
#ifndef AA_CONNTRACK_H
#define AA_CONNTRACK_H

#include "parse.h"
#include "types.h"

#ifndef AA_CT_MARK /* only so that a plain syntax check can read this file */
#define AA_CT_MARK 0
#define AA_CT_STATUS 0
#define AA_CT_EXT 0
#define AA_CT_TCP_STATE 0
#define AA_CT_ORIGINAL 0
#define AA_CT_REPLY 0
#define AA_CT_SRC_ADDR 0
#define AA_CT_SRC_PORT 0
#define AA_CT_DST_ADDR 0
#define AA_CT_DST_PORT 0
#endif

#define IPS_EXPECTED (1u << 0)
#define IPS_SEEN_REPLY (1u << 1)
#define IPS_ASSURED (1u << 2)
#define IPS_CONFIRMED (1u << 3)
#define IPS_NAT_CLASH (1u << 12) /* lost a race of two datagrams that began one session, and lives for a second */
#define CT_TCP_NONE 0
#define CT_TCP_SYN_SENT 1
#define CT_TCP_TIME_WAIT 7 /* enum tcp_conntrack: this and above have ended */
#define CT_MANIP_SRC 0
#define CT_MANIP_DST 1
#define CT_OPTS_SIZE 12 /* accepted by every kernel that has these functions */

struct nf_conn;

struct ct_options {
	__s32 netns; /* −1: the one the packet is in */
	__s32 error;
	__u8 protocol;
	__u8 direction;
	__u8 reserved[2];
};
_Static_assert(sizeof(struct ct_options) == CT_OPTS_SIZE, "struct bpf_ct_opts as of 5.18");

union ct_address {
	__u32 word[4];
};

static struct nf_conn *(*xdp_ct_lookup)(struct xdp_md *, struct bpf_sock_tuple *, __u32, struct ct_options *,
					__u32) = (void *)0x7f000001;
static struct nf_conn *(*skb_ct_lookup)(struct __sk_buff *, struct bpf_sock_tuple *, __u32, struct ct_options *,
					__u32) = (void *)0x7f000002;
static struct nf_conn *(*skb_ct_alloc)(struct __sk_buff *, struct bpf_sock_tuple *, __u32, struct ct_options *,
				       __u32) = (void *)0x7f000003;
static struct nf_conn *(*ct_insert_entry)(struct nf_conn *) = (void *)0x7f000004;
static void (*ct_release)(struct nf_conn *) = (void *)0x7f000005;
static void (*ct_set_timeout)(struct nf_conn *, __u32) = (void *)0x7f000006;
static int (*ct_change_timeout)(struct nf_conn *, __u32) = (void *)0x7f000007;
static int (*ct_change_status)(struct nf_conn *, __u32) = (void *)0x7f000008;
static int (*ct_set_nat_info)(struct nf_conn *, union ct_address *, int, __u32) = (void *)0x7f000009;

#define ct_field(ct, type, offset) (*(type *)((void *)(ct) + (offset)))

/* What conntrack is asked: a tuple in the kernel's form, source first, 12 bytes for IPv4 and 36 for IPv6. */
struct ct_question {
	struct bpf_sock_tuple key;
	struct ct_options options; /* of an answer: the direction in which the tuple is the entry's */
	__u32 size;
};

static __always_inline void ct_question_init(struct ct_question *question, const struct tuple *tuple)
{
	__builtin_memset(question, 0, sizeof(*question));
	question->options.netns = -1;
	question->options.protocol = tuple->protocol;
	if (tuple->family == 4) {
		question->key.ipv4.saddr = unmap_ipv4(tuple->saddr);
		question->key.ipv4.daddr = unmap_ipv4(tuple->daddr);
		question->key.ipv4.sport = tuple->sport;
		question->key.ipv4.dport = tuple->dport;
		question->size = sizeof(question->key.ipv4);
		return;
	}
	__builtin_memcpy(question->key.ipv6.saddr, tuple->saddr, 16);
	__builtin_memcpy(question->key.ipv6.daddr, tuple->daddr, 16);
	question->key.ipv6.sport = tuple->sport;
	question->key.ipv6.dport = tuple->dport;
	question->size = sizeof(question->key.ipv6);
}

/* The same question may be asked again. Whoever gets an entry gives it back. */
#define ct_ask(skb, question) \
	skb_ct_lookup(skb, &(question)->key, (question)->size, &(question)->options, CT_OPTS_SIZE)

static __always_inline struct nf_conn *ct_find(struct __sk_buff *skb, const struct tuple *tuple)
{
	struct ct_question question;

	ct_question_init(&question, tuple);
	return ct_ask(skb, &question);
}

/* A new entry with that original tuple, not yet inserted. */
static __always_inline struct nf_conn *ct_make(struct __sk_buff *skb, const struct tuple *tuple)
{
	struct ct_question question;

	ct_question_init(&question, tuple);
	return skb_ct_alloc(skb, &question.key, question.size, &question.options, CT_OPTS_SIZE);
}

/* What the kernel has there goes, at once: the next look-up removes what has expired. Gives the reference back. */
static __always_inline void ct_expire(struct __sk_buff *skb, struct ct_question *question, struct nf_conn *ct)
{
	ct_change_timeout(ct, 0);
	ct_release(ct);
	ct = ct_ask(skb, question);
	if (ct)
		ct_release(ct);
}

static __always_inline void ct_address_of(union ct_address *out, const __u8 address[16], __u8 family)
{
	__builtin_memset(out, 0, sizeof(*out));
	if (family == 4)
		out->word[0] = unmap_ipv4(address);
	else
		__builtin_memcpy(out->word, address, 16);
}

/*
 * Both, also where nothing is translated: else this node's own NAT rules would decide. `reply`: the tuple of the answers,
 * so what the session's packets become, read backwards.
 */
static __always_inline void ct_translate(struct nf_conn *ct, const struct tuple *reply)
{
	union ct_address source, destination;

	ct_address_of(&destination, reply->saddr, reply->family);
	ct_address_of(&source, reply->daddr, reply->family);
	ct_set_nat_info(ct, &destination, host16(reply->sport), CT_MANIP_DST);
	ct_set_nat_info(ct, &source, host16(reply->dport), CT_MANIP_SRC);
}

/* Gives the reference back. `assure`: a session that is under way, not one that early drop may take. */
static __always_inline void ct_hold(struct nf_conn *ct, __u32 timeout_s, bool assure)
{
	if (assure)
		ct_change_status(ct, ct_field(ct, __u32, AA_CT_STATUS) | IPS_SEEN_REPLY | IPS_ASSURED);
	ct_change_timeout(ct, timeout_s * 1000);
	ct_release(ct);
}

/* An address stands in the entry as four words, of which IPv4 uses the first. */
#define ct_address(ct, offset, of_family, out) \
	do { \
		if ((of_family) == 4) { \
			map_ipv4(out, ct_field(ct, __be32, offset)); \
		} else { \
			((__u32 *)(out))[0] = ct_field(ct, __u32, offset); \
			((__u32 *)(out))[1] = ct_field(ct, __u32, (offset) + 4); \
			((__u32 *)(out))[2] = ct_field(ct, __u32, (offset) + 8); \
			((__u32 *)(out))[3] = ct_field(ct, __u32, (offset) + 12); \
		} \
	} while (0)

/* One direction of an entry; `base` is AA_CT_ORIGINAL or AA_CT_REPLY, `like` a tuple of its family and protocol. */
#define ct_tuple(ct, base, like, out) \
	do { \
		ct_address(ct, (base) + AA_CT_SRC_ADDR, (like)->family, (out)->saddr); \
		ct_address(ct, (base) + AA_CT_DST_ADDR, (like)->family, (out)->daddr); \
		(out)->sport = ct_field(ct, __be16, (base) + AA_CT_SRC_PORT); \
		(out)->dport = ct_field(ct, __be16, (base) + AA_CT_DST_PORT); \
		(out)->protocol = (like)->protocol; \
		(out)->family = (like)->family; \
		(out)->zero = 0; \
	} while (0)

/* Of TCP what conntrack knows of it; of UDP whether it was answered: the session is more than its first packet. */
#define ct_under_way(ct, of_protocol) \
	((of_protocol) == IPPROTO_UDP ? \
		 (ct_field(ct, __u32, AA_CT_STATUS) & IPS_SEEN_REPLY) != 0 : \
		 ct_field(ct, __u8, AA_CT_TCP_STATE) > CT_TCP_SYN_SENT && \
			 ct_field(ct, __u8, AA_CT_TCP_STATE) < CT_TCP_TIME_WAIT)

#endif
