// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * live: both ends of the bench's wires, and the peers that are XDP or TC programs themselves.
 *
 *   generate          makes a frame of the next flow and sends it out of plan.out (test-run with live frames)
 *   generate_session  whole sessions, a phase (SYN, SYN-ACK, …) of a window of sessions after the other
 *   sink              at the generator's end: counts what comes back for the MAC it should, and drops it
 *   hub               a switch port: frames go where their destination MAC's last byte says, or are counted and dropped
 *   drop_all, pass_all, send_back, plain_xdp, plain_tc    the peers
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "../bench/traffic.h"

#define SESSION_WINDOW 1024 /* so far one packet of a session is behind the one before it */

BPF_ARRAY(bench_phases, struct bench_plan, BENCH_PHASES);
BPF_ARRAY(bench_walk, __u64, 1);
BPF_ARRAY(bench_phase_count, __u64, 1);

struct bench_wire {
	__u8 expected[6]; /* the MAC that deliveries carry */
	__u8 next_hop[6]; /* what the peers write */
	__u8 own[6];
	__u8 pad[6];
};
BPF_ARRAY(bench_wire, struct bench_wire, 1);

enum bench_arrival {
	ARRIVED_DELIVERED = 0,
	ARRIVED_OTHER = 1,
	ARRIVED_DROPPED = 2, /* at the gateway, by drop_all */
	ARRIVED_CUT = 3,     /* at the hub, as it was told to */
	ARRIVED_SECOND = 4,  /* at the hub's second destination */
};
struct bench_arrivals {
	__u64 frames[8];
};
BPF_TABLE("percpu_array", __u32, struct bench_arrivals, bench_arrivals, 1);

/* By the last byte of the destination MAC. `action` is an enum bench_arrival, or HUB_FORWARD to send to `ifindex`. */
#define HUB_FORWARD 100
struct bench_way {
	__u32 action;
	__u32 ifindex;
};
BPF_ARRAY(bench_ways, struct bench_way, 256);

struct bench_tuple {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u32 zero;
};
BPF_TABLE("hash", struct bench_tuple, __u64, bench_table, 1); /* the plain programs' own table; value: a next hop */

static __always_inline int arrived(__u32 how, int action)
{
	struct bench_arrivals *arrivals;
	__u32 zero = 0;

	arrivals = bench_arrivals.lookup(&zero);
	if (arrivals)
		arrivals->frames[how & 7]++;
	return action;
}

static __always_inline int emit(struct xdp_md *ctx, const struct bench_plan *plan, __u32 n, bool turn)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct bench_flow flow;

	if (data + BENCH_HEAD + 4 > end)
		return XDP_ABORTED;
	bench_copy_head(data, plan);
	*(__u32 *)(data + BENCH_HEAD) = *(const __u32 *)&plan->frame[BENCH_HEAD / 8];
	bench_flow_of(&flow, n, plan->shape, plan->public, turn);
	bench_fill(data, plan, &flow);
	return bpf_redirect(plan->out, 0);
}

int generate(struct xdp_md *ctx)
{
	struct bench_plan *plan;
	int zero = 0;
	__u64 *walk;
	bool turn;

	plan = bench_phases.lookup(&zero);
	walk = bench_walk.lookup(&zero);
	if (!plan || !walk)
		return XDP_ABORTED;
	turn = *walk >> 63;
	return emit(ctx, plan, bench_number(plan, walk), turn);
}

int generate_session(struct xdp_md *ctx)
{
	__u64 *walk, *phases, at, round;
	struct bench_plan *plan;
	int zero = 0, phase;

	walk = bench_walk.lookup(&zero);
	phases = bench_phase_count.lookup(&zero);
	if (!walk || !phases || !*phases)
		return XDP_ABORTED;
	at = *walk;
	*walk = at + 1;
	round = at / (SESSION_WINDOW * *phases);
	phase = at / SESSION_WINDOW % *phases;
	plan = bench_phases.lookup(&phase);
	if (!plan)
		return XDP_ABORTED;
	return emit(ctx, plan, plan->first + round * SESSION_WINDOW + at % SESSION_WINDOW, false);
}

int sink(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct bench_wire *wire;
	struct ethhdr *eth;
	int zero = 0;

	wire = bench_wire.lookup(&zero);
	if (!wire || parse_ethernet(&cursor, &eth) != be16(ETH_P_IP) || !same_mac(eth->h_dest, wire->expected))
		return arrived(ARRIVED_OTHER, XDP_DROP);
	return arrived(ARRIVED_DELIVERED, XDP_DROP);
}

int hub(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct bench_way *way;
	struct ethhdr *eth;
	int last;

	if (parse_ethernet(&cursor, &eth) != be16(ETH_P_IP))
		return arrived(ARRIVED_OTHER, XDP_DROP);
	last = eth->h_dest[5];
	way = bench_ways.lookup(&last);
	if (!way)
		return XDP_DROP;
	if (way->action == HUB_FORWARD)
		return bpf_redirect(way->ifindex, 0);
	return arrived(way->action, XDP_DROP);
}

int drop_all(struct xdp_md *ctx)
{
	(void)ctx;
	return arrived(ARRIVED_DROPPED, XDP_DROP);
}

int pass_all(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

static __always_inline int rewrite_macs(struct ethhdr *eth)
{
	struct bench_wire *wire;
	int zero = 0;

	wire = bench_wire.lookup(&zero);
	if (!wire)
		return -1;
	__builtin_memcpy(eth->h_source, wire->own, 6);
	__builtin_memcpy(eth->h_dest, wire->next_hop, 6);
	return 0;
}

int send_back(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct ethhdr *eth;

	if (parse_ethernet(&cursor, &eth) < 0 || rewrite_macs(eth))
		return XDP_DROP;
	return XDP_TX;
}

/* The Ethernet header of a packet whose flow is in the table, or none. */
static __always_inline struct ethhdr *known(struct cursor *cursor)
{
	struct bench_tuple tuple = {};
	struct ethhdr *eth;
	struct tcphdr *tcp;
	struct iphdr *ip;

	if (parse_ethernet(cursor, &eth) != be16(ETH_P_IP) || parse_ipv4(cursor, &ip) != IPPROTO_TCP ||
	    parse_tcp(cursor, &tcp) < 0)
		return 0;
	tuple.saddr = ip->saddr;
	tuple.daddr = ip->daddr;
	tuple.sport = tcp->source;
	tuple.dport = tcp->dest;
	return bench_table.lookup(&tuple) ? eth : 0;
}

int plain_xdp(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct ethhdr *eth = known(&cursor);

	if (!eth || rewrite_macs(eth))
		return XDP_PASS;
	return XDP_TX;
}

int plain_tc(struct __sk_buff *skb)
{
	struct cursor cursor = {(void *)(long)skb->data, (void *)(long)skb->data_end};
	struct ethhdr *eth = known(&cursor);

	if (!eth || rewrite_macs(eth))
		return TC_ACT_OK;
	return bpf_redirect(skb->ifindex, 0);
}
