// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * feeder: for BPF_PROG_TEST_RUN, which repeats one packet and gives a program its own rewritten packet back. Each run
 * writes a whole fresh frame of the next flow, puts skb fields back, and tail-calls the program under test. The empty
 * programs are fed by the same feeder; figures are net of them. Never attached to anything.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "block.h"
#include "conntrack.h"
#include "../bench/traffic.h"

BPF_ARRAY(bench_plan, struct bench_plan, 1);
BPF_ARRAY(bench_walk, __u64, 1);

struct bench_scratch {
	__u64 frame[BENCH_FRAME / 8];
	struct sealed_block sealed;
};
BPF_ARRAY(bench_scratch, struct bench_scratch, 1);
BPF_PROG_ARRAY(bench_xdp, 1); /* the program under test */
BPF_PROG_ARRAY(bench_skb, 1);

int feed_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct bench_plan *plan;
	struct bench_flow flow;
	int zero = 0;
	__u64 *walk;
	bool turn;

	plan = bench_plan.lookup(&zero);
	walk = bench_walk.lookup(&zero);
	if (!plan || !walk || data + BENCH_HEAD > end)
		return XDP_ABORTED;
	turn = *walk >> 63;
	bench_flow_of(&flow, bench_number(plan, walk), plan->shape, plan->public, turn);
	if (plan->family == 4) {
		bench_copy_head(data, plan);
		bench_fill(data, plan, &flow);
	} else {
		if (data + BENCH_HEAD_IPV6 > end)
			return XDP_ABORTED;
		bench_copy_head_ipv6(data, plan);
		bench_fill_ipv6(data, plan, &flow);
	}
	bench_xdp.call(ctx, 0);
	return XDP_ABORTED;
}

/* The template keeps the block on a word's edge: at BENCH_HEAD, or at BENCH_HEAD_IPV6. */
static __always_inline void fill_block(struct bench_scratch *scratch, const struct bench_plan *plan,
				       const struct bench_flow *flow)
{
	struct sealed_block *sealed = &scratch->sealed;
	struct handoff_block *block = &sealed->block;
	__u64 *words = (__u64 *)block, tag;
	int i;

	if (plan->family == 4) {
#pragma unroll
		for (i = 0; i < (int)sizeof(*block) / 8; i++)
			words[i] = plan->frame[BENCH_HEAD / 8 + i];
	} else {
#pragma unroll
		for (i = 0; i < (int)sizeof(*block) / 8; i++)
			words[i] = plan->frame[BENCH_HEAD_IPV6 / 8 + i];
	}
	block->source_port = flow->sport;
	block->destination_port = flow->dport;
	bench_address(block->source, plan, plan->public);
	bench_address(block->destination, plan, flow->daddr);
	bench_tuple_of(&sealed->original, plan, flow);
	sealed->sequence = plan->protocol == IPPROTO_TCP ? be32(1000) : 0;
	sealed->zero = 0;
	tag = block_tag(plan->key, sealed);
	__builtin_memcpy(block->tag, &tag, 8);
}

static __always_inline void fill_arp(struct bench_scratch *scratch, const struct bench_plan *plan, __u32 n)
{
	struct arp_ipv4 *arp = (void *)scratch->frame + ETH_HLEN;

	bench_copy_head(scratch->frame, plan);
	if (plan->shape == SHAPE_ARP_TARGET)
		arp->target_ip = be32(plan->address + n);
	else
		arp->sender_ip = be32(plan->address + n);
}

int feed_skb(struct __sk_buff *skb)
{
	struct bench_scratch *scratch;
	struct bench_plan *plan;
	struct bench_flow flow;
	__u32 length, shape, n;
	int zero = 0;
	__u64 *walk;
	bool turn;

	plan = bench_plan.lookup(&zero);
	walk = bench_walk.lookup(&zero);
	scratch = bench_scratch.lookup(&zero);
	if (!plan || !walk || !scratch)
		return TC_ACT_UNSPEC;
	length = plan->length;
	shape = plan->shape;
	if (skb->len != length && bpf_skb_change_tail(skb, length, 0))
		return TC_ACT_UNSPEC;
	skb->mark = plan->mark;
	skb->cb[0] = 0;
	turn = *walk >> 63;
	n = bench_number(plan, walk);
	bench_flow_of(&flow, n, shape, plan->public, turn);
	if (shape >= SHAPE_ARP_TARGET) {
		fill_arp(scratch, plan, n);
	} else if (plan->family == 4) {
		bench_copy_head(scratch->frame, plan);
		bench_fill(scratch->frame, plan, &flow);
	} else {
		bench_copy_head_ipv6(scratch->frame, plan);
		bench_fill_ipv6(scratch->frame, plan, &flow);
	}
	if (plan->family == 4 ? bpf_skb_store_bytes(skb, 0, scratch->frame, BENCH_HEAD, 0) :
				bpf_skb_store_bytes(skb, 0, scratch->frame, BENCH_HEAD_IPV6, 0))
		return TC_ACT_UNSPEC;
	if (shape == SHAPE_BLOCK) { /* over what is behind the headers */
		fill_block(scratch, plan, &flow);
		if (bpf_skb_store_bytes(skb, plan->headers, &scratch->sealed.block, sizeof(struct handoff_block), 0))
			return TC_ACT_UNSPEC;
	}
	bench_skb.call(skb, 0);
	return TC_ACT_UNSPEC;
}

/* Fills conntrack with the flows of the plan, masqueraded, as the primary's netfilter would have. One a run. */
int fill_conntrack(struct __sk_buff *skb)
{
	struct tuple original, reply;
	struct bench_plan *plan;
	struct bench_flow flow;
	struct nf_conn *ct;
	int zero = 0;
	__u64 *walk;

	plan = bench_plan.lookup(&zero);
	walk = bench_walk.lookup(&zero);
	if (!plan || !walk)
		return TC_ACT_UNSPEC;
	bench_flow_of(&flow, bench_number(plan, walk), SHAPE_ORIGINAL, plan->public, false);
	bench_tuple_of(&original, plan, &flow);
	ct = ct_make(skb, &original);
	if (!ct)
		return TC_ACT_UNSPEC;
	invert(&reply, &original);
	bench_address(reply.daddr, plan, plan->public);
	ct_translate(ct, &reply);
	ct_set_timeout(ct, 3600000);
	ct = ct_insert_entry(ct);
	if (!ct)
		return TC_ACT_UNSPEC;
	ct_release(ct);
	return TC_ACT_OK;
}

int empty_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

int empty_skb(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_OK;
}

/* What growing a frame by a block, and the feeder's shrinking it again, cost by themselves. */
int grow_skb(struct __sk_buff *skb)
{
	return bpf_skb_change_tail(skb, skb->len + sizeof(struct handoff_block), 0) ? TC_ACT_UNSPEC : TC_ACT_OK;
}
