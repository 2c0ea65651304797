// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * steer: XDP on the primary's data interfaces. A packet of a known flow goes to its owner by MAC rewrite, out of the
 * interface it came in on; everything else goes to the primary's own stack, which has an entry for every connection.
 * Reads buckets, nodes, ports, config; records only for the packets that begin or end a flow, which it follows.
 */
#define AA_SEARCH_PER_PACKET
#include <linux/bpf.h>

#include "conntrack.h"
#include "flow_state.h"
#include "maps.h"
#include "parse.h"

/* The primary's entry holds the NAT port and sees no packet after the SYN: it must live as long as the session. */
static __always_inline void hold_entry(struct xdp_md *ctx, const struct tuple *original, __u32 timeout_s, bool assure)
{
	struct bpf_sock_tuple key;
	struct ct_options options;
	struct nf_conn *ct;

	ct_key(&key, original);
	ct_options_init(&options);
	ct = xdp_ct_lookup(ctx, &key, sizeof(key.ipv4), &options, CT_OPTS_SIZE);
	if (ct)
		ct_hold(ct, timeout_s, assure);
}

/* Called until the handshake is complete, and for flags that end a flow. */
static __always_inline void follow(struct xdp_md *ctx, const struct config *conf, __u64 word, struct record *record,
				   const struct tcphdr *tcp)
{
	const struct node *owner = node_of(entry_owner(word));
	__u8 state = advance(record, word & ENTRY_REPLY, tcp_flags(tcp));

	if (!state)
		return;
	if (state == FLOW_ESTABLISHED)
		change_flow(record, entry_record(word), 0, ENTRY_SETTLED);
	if (owner && owner->hop == HOP_LOCAL)
		return; /* the stack sees these packets itself */
	record->held_ns = bpf_ktime_get_coarse_ns();
	if (state == FLOW_ESTABLISHED)
		hold_entry(ctx, &record->original, conf->timeout_s[FLOW_ESTABLISHED], true);
	else if (state == FLOW_CLOSED)
		hold_entry(ctx, &record->original, conf->timeout_s[FLOW_CLOSED], false);
}

/*
 * The packets that matter, with the whole tuple compared: false when the entry is another session's, which from then on
 * has every packet compared.
 */
static __always_inline bool examine(struct xdp_md *ctx, const struct config *conf, const struct found *found,
				    const struct iphdr *ip, const struct tcphdr *tcp)
{
	struct record *record = record_of(found->word);
	struct tuple tuple;

	tuple_from_packet(&tuple, ip, tcp);
	if (!record || !is_exactly(found->word, record, &tuple)) {
		change_word(found->at, entry_record(found->word), 0, ENTRY_EXACT);
		return false;
	}
	if (!opens(tcp))
		follow(ctx, conf, found->word, record, tcp);
	return true;
}

int steer(struct xdp_md *ctx)
{
	struct cursor cursor = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	const struct config *conf = configuration();
	const struct port *port;
	const struct node *owner;
	struct found found = {};
	struct ethhdr *eth;
	struct tcphdr *tcp;
	struct iphdr *ip;
	int type;

	type = parse_ethernet(&cursor, &eth);
	if (type < 0)
		return verdict(XDP_PASS, STEER_MALFORMED);
	port = port_of(ctx->ingress_ifindex);
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

	if (!find(conf, hash_ipv4(conf, ip->saddr, ip->daddr, *(__be32 *)tcp, 4 << 8 | IPPROTO_TCP), &found))
		return verdict(XDP_PASS, opens(tcp) ? STEER_SYN : STEER_MISS);
	if (tcp_flags(tcp) & (TCP_SYN | TCP_FIN | TCP_RST) || (found.word & (ENTRY_SETTLED | ENTRY_EXACT)) != ENTRY_SETTLED) {
		if (!examine(ctx, conf, &found, ip, tcp))
			return verdict(XDP_PASS, STEER_COLLISION);
		if (opens(tcp))
			return verdict(XDP_PASS, STEER_SYN);
	}
	owner = node_of(entry_owner(found.word));
	if (!owner || owner->hop == HOP_NONE)
		return verdict(XDP_PASS, STEER_NO_OWNER);
	if (!(found.word & ENTRY_TOUCHED)) /* once between two looks of the sweep */
		change_word(found.at, entry_record(found.word), 0, ENTRY_TOUCHED);
	if (owner->hop == HOP_LOCAL)
		return verdict(XDP_PASS, STEER_LOCAL);

	/* The virtual MAC as source: a client's MAC must never be learned on the primary's switch port. */
	copy_mac(eth->h_source, port->virtual_mac);
	copy_mac(eth->h_dest, mac_of(owner, port->slot));
	return verdict(XDP_TX, STEER_TX);
}
