// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * steer: XDP on the primary's data interfaces. A packet of a known flow goes to its owner by MAC rewrite, out of the
 * interface it came in on; everything else goes to the primary's own stack, which has an entry for every connection.
 * Reads flows, nodes, ports, config; follows each flow's handshake and end.
 */
#include <linux/bpf.h>

#include "conntrack.h"
#include "maps.h"
#include "parse.h"

#ifndef AA_SEEN_STEP_NS
#define AA_SEEN_STEP_NS (AA_NSEC_PER_SEC / 4)
#endif

/* The primary's entry holds the NAT port and sees no packet after the SYN: it must live as long as the session. */
static __always_inline void hold_entry(struct xdp_md *ctx, const struct tuple *original, __u32 timeout_ms, bool assure)
{
	struct bpf_sock_tuple key;
	struct ct_options options;
	struct nf_conn *ct;

	ct_key(&key, original);
	ct_options_init(&options);
	ct = xdp_ct_lookup(ctx, &key, sizeof(key.ipv4), &options, CT_OPTS_SIZE);
	if (!ct)
		return;
	if (assure)
		ct_change_status(ct, ct_field(ct, __u32, AA_CT_STATUS) | IPS_SEEN_REPLY | IPS_ASSURED);
	ct_change_timeout(ct, timeout_ms);
	ct_release(ct);
}

static __always_inline __u8 next_state(const struct flow *flow, const struct flow *peer, const struct tcphdr *tcp)
{
	if (tcp->rst)
		return FLOW_CLOSED;
	if (tcp->fin)
		return peer->ended ? FLOW_CLOSED : FLOW_CLOSING;
	if (flow->state == FLOW_SYN_SENT && flow->direction == FLOW_REPLY && tcp->syn && tcp->ack)
		return FLOW_SYN_RECV;
	if (flow->state == FLOW_SYN_RECV && flow->direction == FLOW_ORIGINAL && tcp->ack && !tcp->syn)
		return FLOW_ESTABLISHED;
	return flow->state;
}

/* Off the hot path: called for flags that end a flow, and until the handshake is complete. */
static __always_inline void follow(struct xdp_md *ctx, const struct config *conf, struct tuple *tuple,
				   struct flow *flow, const struct tcphdr *tcp, bool local)
{
	struct flow *peer = flows.lookup(&flow->peer);
	__u8 state;

	if (!peer)
		return;
	state = next_state(flow, peer, tcp);
	if (tcp->rst || tcp->fin)
		flow->ended = 1;
	if (state <= flow->state)
		return;
	flow->state = state;
	peer->state = state;
	if (local)
		return; /* the stack sees these packets itself */
	if (state == FLOW_ESTABLISHED)
		hold_entry(ctx, tuple, conf->established_ms, true);
	else if (state == FLOW_CLOSED)
		hold_entry(ctx, flow->direction == FLOW_ORIGINAL ? tuple : &flow->peer, conf->closing_ms, false);
}

int steer(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	const struct config *conf = configuration();
	const struct port *port = port_of(ctx->ingress_ifindex);
	const struct node *owner;
	struct tuple tuple;
	struct ethhdr *eth;
	struct tcphdr *tcp;
	struct iphdr *ip;
	struct flow *flow;
	__u64 now;
	int type;

	type = parse_ethernet(&cursor, &eth);
	if (type < 0)
		return verdict(XDP_PASS, STEER_MALFORMED);
	if (!port || !conf)
		return verdict(XDP_PASS, STEER_NOT_READY);
	if (!same_mac(eth->h_dest, port->virtual_mac))
		return verdict(XDP_PASS, STEER_NOT_OURS);
	if (type != be16(ETH_P_IP))
		return verdict(XDP_PASS, STEER_NOT_IPV4);
	type = parse_ipv4(&cursor, &ip);
	if (type < 0)
		return verdict(XDP_PASS, STEER_MALFORMED);
	if (ip->frag_off & IPV4_FRAGMENT_BITS)
		return verdict(XDP_PASS, STEER_FRAGMENT);
	if (type != IPPROTO_TCP)
		return verdict(XDP_PASS, STEER_NOT_TCP);
	if (ip->ihl != 5)
		return verdict(XDP_PASS, STEER_OPTIONS);
	if (parse_tcp(&cursor, &tcp) < 0)
		return verdict(XDP_PASS, STEER_MALFORMED);
	if (opens(tcp))
		return verdict(XDP_PASS, STEER_SYN);

	tuple_from_packet(&tuple, ip, tcp);
	flow = flows.lookup(&tuple);
	if (!flow)
		return verdict(XDP_PASS, STEER_MISS);
	owner = node_of(flow->owner);
	if (!owner || owner->hop == HOP_NONE)
		return verdict(XDP_PASS, STEER_NO_OWNER);

	now = bpf_ktime_get_coarse_ns();
	if (now - flow->seen_ns > AA_SEEN_STEP_NS)
		flow->seen_ns = now;
	if (flow->state < FLOW_ESTABLISHED || tcp->fin || tcp->rst)
		follow(ctx, conf, &tuple, flow, tcp, owner->hop == HOP_LOCAL);
	if (owner->hop == HOP_LOCAL)
		return verdict(XDP_PASS, STEER_LOCAL);

	/* The virtual MAC as source: a client's MAC must never be learned on the primary's switch port. */
	__builtin_memcpy(eth->h_source, port->virtual_mac, 6);
	__builtin_memcpy(eth->h_dest, mac_of(owner, port->slot), 6);
	return verdict(XDP_TX, STEER_TX);
}
