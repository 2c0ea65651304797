// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * flood: a SYN of a random source (address, port, sequence number) with right checksums, for a test-run with live frames,
 * which spends a fraction of what a packet socket does. Between frames it waits by dropping what it is given. Never
 * attached to anything.
 */
#include <linux/bpf.h>

#include "parse.h"

#define FLOOD_FRAME 60

/* `frame` with zeros for what is random and for the checksums; `ip_sum` and `tcp_sum`: what those words add up to as they
 * lie there, the pseudo header's included. `first` and `sources`: the addresses, in host order. */
struct flood_plan {
	__u64 frame[8];
	__u32 ip_sum;
	__u32 tcp_sum;
	__u32 first;
	__u32 sources;
	__u32 out;
	__u32 spurt; /* nanoseconds that frames may go ahead of their time, so that many are made at once */
	__u64 interval; /* nanoseconds from frame to frame */
	__u64 due;
	__u64 ahead;
	__u64 sent;
};
BPF_ARRAY(flood_plan, struct flood_plan, 1);

/* What could not go in time within 10 ms is not made up for. */
static __always_inline bool is_due(struct flood_plan *plan)
{
	__u64 now = bpf_ktime_get_ns();

	if (plan->due > now + plan->ahead) {
		plan->ahead = 0;
		return false;
	}
	if (plan->due + 10000000 < now)
		plan->due = now;
	plan->ahead = plan->spurt;
	plan->due += plan->interval;
	return true;
}

static __always_inline __u32 words(__u32 value)
{
	return (value & 0xffff) + (value >> 16);
}

/* RFC 1071. */
static __always_inline __u16 checksum(__u32 sum)
{
	return ~words(words(sum));
}

int flood(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 source, sequence = bpf_get_prandom_u32();
	int i, zero = 0;
	struct flood_plan *plan = flood_plan.lookup(&zero);
	struct iphdr *ip = data + ETH_HLEN;
	struct tcphdr *tcp = (void *)(ip + 1);
	__u16 port;

	if (!plan || data + FLOOD_FRAME > end)
		return XDP_ABORTED;
	if (!is_due(plan))
		return XDP_DROP;
	plan->sent++;
#pragma unroll
	for (i = 0; i < FLOOD_FRAME / 8; i++)
		((__u64 *)data)[i] = plan->frame[i];
	*(__u32 *)(data + FLOOD_FRAME - 4) = plan->frame[FLOOD_FRAME / 8];
	source = be32(plan->first + bpf_get_prandom_u32() % plan->sources);
	port = be16(1024 + bpf_get_prandom_u32() % (65536 - 1024));
	ip->saddr = source;
	ip->check = checksum(plan->ip_sum + words(source));
	tcp->source = port;
	tcp->seq = sequence;
	tcp->check = checksum(plan->tcp_sum + words(source) + port + words(sequence));
	return bpf_redirect(plan->out, 0);
}
