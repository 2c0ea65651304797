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

static __always_inline void ct_options_init(struct ct_options *options)
{
	__builtin_memset(options, 0, sizeof(*options));
	options->netns = -1;
	options->protocol = IPPROTO_TCP;
}

/* The kernel's form of an IPv4 tuple: 12 bytes, source first. */
static __always_inline void ct_key(struct bpf_sock_tuple *key, const struct tuple *tuple)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->ipv4.saddr = unmap_ipv4(tuple->saddr);
	key->ipv4.daddr = unmap_ipv4(tuple->daddr);
	key->ipv4.sport = tuple->sport;
	key->ipv4.dport = tuple->dport;
}

/* As the tuple goes, with its protocol. */
static __always_inline void ct_question(struct bpf_sock_tuple *key, struct ct_options *options, const struct tuple *tuple)
{
	ct_key(key, tuple);
	ct_options_init(options);
	options->protocol = tuple->protocol;
}

/* Gives the reference back. `assure`: a session that is under way, not one that early drop may take. */
static __always_inline void ct_hold(struct nf_conn *ct, __u32 timeout_s, bool assure)
{
	if (assure)
		ct_change_status(ct, ct_field(ct, __u32, AA_CT_STATUS) | IPS_SEEN_REPLY | IPS_ASSURED);
	ct_change_timeout(ct, timeout_s * 1000);
	ct_release(ct);
}

/* One direction of an entry; `base` is AA_CT_ORIGINAL or AA_CT_REPLY. */
#define ct_tuple(ct, base, out) \
	do { \
		map_ipv4((out)->saddr, ct_field(ct, __be32, (base) + AA_CT_SRC_ADDR)); \
		map_ipv4((out)->daddr, ct_field(ct, __be32, (base) + AA_CT_DST_ADDR)); \
		(out)->sport = ct_field(ct, __be16, (base) + AA_CT_SRC_PORT); \
		(out)->dport = ct_field(ct, __be16, (base) + AA_CT_DST_PORT); \
		(out)->protocol = IPPROTO_TCP; \
		(out)->family = 4; \
		(out)->zero = 0; \
	} while (0)

#endif
