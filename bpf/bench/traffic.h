/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bench's packets: a template with checksums summed over all that does not change, and a flow number that fills in
 * the rest. Flow n is the same for every program, table and peer (tools/bench/frames.py and flowtable.py follow it):
 *
 *   client 10.1.n[15:8].n[7:0] : 1024 + n mod 32768  →  server 10.2.0.1 + n / 32768 : 80, seen as plan.public after NAT
 *
 * Port and server together are unique, so that masquerading keeps every port. Over IPv6 these are the last four bytes of
 * 2001:db8::/96.
 */
#ifndef AA_BENCH_TRAFFIC_H
#define AA_BENCH_TRAFFIC_H

#include "types.h"
#include "parse.h"

#define BENCH_FRAME 192
#define BENCH_HEAD 56 /* Ethernet, IPv4 and TCP (or UDP) without options, as whole words … */
#define BENCH_HEAD_IPV6 80 /* … and with IPv6: all of the shortest frame */
#define BENCH_PREFIX be32(0x20010db8)
#define BENCH_PHASES 16
#define BENCH_SERVER_PORT be16(80)

enum bench_shape {
	SHAPE_ORIGINAL = 0, /* client → server */
	SHAPE_REPLY = 1,    /* server → public */
	SHAPE_LEAVING = 2,  /* public → server */
	SHAPE_BOTH = 3,     /* original and reply in turn */
	SHAPE_BLOCK = 4,    /* original, with a handoff block behind it */
	SHAPE_ARP_TARGET = 5,
	SHAPE_ARP_SENDER = 6,
};

struct bench_plan {
	__u64 frame[BENCH_FRAME / 8];
	__u32 length; /* of the frame, bytes */
	__u32 shape;
	__u32 ip_sum;  /* of the IPv4 header without addresses and checksum */
	__u32 tcp_sum; /* of the pseudo-header without the addresses' last words, the header without ports, the payload */
	__u32 first;   /* number of the first flow */
	__u32 mask;    /* flows − 1; flows is a power of two */
	__u32 linear;  /* in order, each once: for cases that use a flow up */
	__be32 public;
	__u32 out;  /* live frames: the interface they leave by */
	__u32 mark; /* of the skb */
	__u32 address; /* ARP: the first address, host order */
	__u8 family;
	__u8 protocol;
	__u8 headers; /* bytes, Ethernet to TCP or UDP */
	__u8 pad;
	__u64 key[2]; /* of the block's tag */
};

struct bench_flow {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
};

/*
 * A full-period linear congruence modulo 2^64 (Knuth's MMIX constants): its low k bits go through every k-bit number
 * once a period, so that no flow is seen twice before all others have been.
 */
static __always_inline __u32 bench_number(const struct bench_plan *plan, __u64 *walk)
{
	__u64 at = *walk;

	if (plan->linear) {
		*walk = at + 1;
		return plan->first + ((__u32)at & plan->mask);
	}
	*walk = at * 6364136223846793005ull + 1442695040888963407ull;
	return plan->first + ((__u32)at & plan->mask);
}

static __always_inline void bench_flow_of(struct bench_flow *flow, __u32 n, __u32 shape, __be32 public, bool turn)
{
	__be32 client = be32(0x0a010000 | (n & 0xffff)), server = be32(0x0a020001 + (n >> 15));
	__be16 port = be16(1024 + (n & 0x7fff));

	if (shape == SHAPE_REPLY || (shape == SHAPE_BOTH && turn)) {
		flow->saddr = server;
		flow->daddr = public;
		flow->sport = BENCH_SERVER_PORT;
		flow->dport = port;
		return;
	}
	flow->saddr = shape == SHAPE_LEAVING ? public : client;
	flow->daddr = server;
	flow->sport = port;
	flow->dport = BENCH_SERVER_PORT;
}

static __always_inline __u16 bench_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u32 bench_sum(const struct bench_flow *flow)
{
	return (flow->saddr & 0xffff) + (flow->saddr >> 16) + (flow->daddr & 0xffff) + (flow->daddr >> 16);
}

/* `head`: the transport header, the template already there. */
static __always_inline void bench_fill_transport(void *head, const struct bench_plan *plan, const struct bench_flow *flow)
{
	__u16 check = bench_fold(plan->tcp_sum + bench_sum(flow) + flow->sport + flow->dport);
	__u16 *word = head;

	word[0] = flow->sport;
	word[1] = flow->dport;
	if (plan->protocol == IPPROTO_UDP)
		word[3] = check ? check : 0xffff; /* RFC 768: zero is none */
	else
		word[8] = check;
}

/* `head`: the frame's first BENCH_HEAD bytes, the template already there. */
static __always_inline void bench_fill(void *head, const struct bench_plan *plan, const struct bench_flow *flow)
{
	struct iphdr *ip = head + ETH_HLEN;

	*(__u32 *)&ip->saddr = flow->saddr;
	*(__u32 *)&ip->daddr = flow->daddr;
	*(__u16 *)&ip->check = bench_fold(plan->ip_sum + bench_sum(flow));
	bench_fill_transport(ip + 1, plan, flow);
}

/* The same with IPv6, of BENCH_HEAD_IPV6 bytes. */
static __always_inline void bench_fill_ipv6(void *head, const struct bench_plan *plan, const struct bench_flow *flow)
{
	void *ip = head + ETH_HLEN;

	*(__u32 *)(ip + 20) = flow->saddr;
	*(__u32 *)(ip + 36) = flow->daddr;
	bench_fill_transport(ip + 40, plan, flow);
}

static __always_inline void bench_copy_head(void *head, const struct bench_plan *plan)
{
	__u64 *to = head;
	int i;

#pragma unroll
	for (i = 0; i < BENCH_HEAD / 8; i++)
		to[i] = plan->frame[i];
}

static __always_inline void bench_copy_head_ipv6(void *head, const struct bench_plan *plan)
{
	__u64 *to = head;
	int i;

#pragma unroll
	for (i = 0; i < BENCH_HEAD_IPV6 / 8; i++)
		to[i] = plan->frame[i];
}

/* As the product keeps addresses. */
static __always_inline void bench_address(__u8 out[16], const struct bench_plan *plan, __be32 last)
{
	__u32 *word = (__u32 *)out;

	if (plan->family == 4) {
		map_ipv4(out, last);
		return;
	}
	word[0] = BENCH_PREFIX;
	word[1] = word[2] = 0;
	word[3] = last;
}

/* Without NAT, as `flow` goes. */
static __always_inline void bench_tuple_of(struct tuple *tuple, const struct bench_plan *plan, const struct bench_flow *flow)
{
	bench_address(tuple->saddr, plan, flow->saddr);
	bench_address(tuple->daddr, plan, flow->daddr);
	tuple->sport = flow->sport;
	tuple->dport = flow->dport;
	tuple->protocol = plan->protocol;
	tuple->family = plan->family;
	tuple->zero = 0;
}

#endif
