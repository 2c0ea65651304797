// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * steer: XDP on the primary's data interfaces. A packet of a known flow goes to its owner by MAC rewrite, out of the
 * interface it came in on; so does an ICMP error about one, and each piece of a fragmented packet. Everything else goes to
 * the primary's own stack, which has an entry for every connection (docs/steering.md has the table of verdicts).
 * Reads buckets, nodes, ports, config; records only for the packets that begin or end a flow, which it follows.
 */
#define AA_SEARCH_PER_PACKET
#include <linux/bpf.h>

#include "conntrack.h"
#include "flow_state.h"
#include "fragment.h"
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

static __always_inline bool matters(__u64 word, const struct tcphdr *tcp)
{
	return tcp_flags(tcp) & (TCP_SYN | TCP_FIN | TCP_RST) ||
	       (word & (ENTRY_SETTLED | ENTRY_EXACT)) != ENTRY_SETTLED;
}

/* Once between two looks of the sweep. */
static __always_inline void touch(const struct found *found)
{
	if (!(found->word & ENTRY_TOUCHED))
		change_word(found->at, entry_record(found->word), 0, ENTRY_TOUCHED);
}

static __always_inline struct hash hash_ports(const struct config *conf, const struct iphdr *ip, const void *pair)
{
	return hash_ipv4(conf, ip->saddr, ip->daddr, *(const __be32 *)pair, 4 << 8 | IPPROTO_TCP);
}

/* The virtual MAC as source: a client's MAC must never be learned on the primary's switch port. */
static __always_inline int send_on(struct ethhdr *eth, const struct port *port, const struct node *owner, enum reason why)
{
	copy_mac(eth->h_source, port->virtual_mac);
	copy_mac(eth->h_dest, mac_of(owner, port->slot));
	return verdict(XDP_TX, why);
}

/* To the node of that id, for reason `sent`; for reason `local` to this node's stack. */
static __always_inline int send_to(struct ethhdr *eth, const struct port *port, __u8 id, enum reason sent,
				   enum reason local)
{
	const struct node *owner = node_of(id);

	if (!owner || owner->hop == HOP_NONE)
		return verdict(XDP_PASS, STEER_NO_OWNER);
	if (owner->hop == HOP_LOCAL)
		return verdict(XDP_PASS, local);
	return send_on(eth, port, owner, sent);
}

/* Whoever sends it may have made it up: it changes no state, keeps no flow alive, and is compared whole. */
static __always_inline int steer_icmp(const struct config *conf, const struct port *port, struct ethhdr *eth,
				      struct cursor *cursor)
{
	struct found found = {};
	struct record *record;
	struct tuple about;
	int kind = parse_icmp_error(cursor, &about);

	if (kind > 0)
		return verdict(XDP_PASS, STEER_NOT_TCP);
	if (kind < 0 || !find(conf, hash_tuple(conf, &about), &found))
		return verdict(XDP_PASS, STEER_ICMP_MISS);
	record = record_of(found.word);
	if (!record || !is_exactly(found.word, record, &about))
		return verdict(XDP_PASS, STEER_ICMP_MISS);
	return send_to(eth, port, entry_owner(found.word), STEER_ICMP, STEER_ICMP_LOCAL);
}

/*
 * Behind its first fragment. One that comes before it goes to the stack, and the first will follow it there, so that the
 * packet is put together in one place.
 */
static __always_inline int steer_later_fragment(const struct port *port, struct ethhdr *eth, const struct iphdr *ip)
{
	const struct fragment *first;
	struct fragment_key key;

	fragment_key_init(&key, ip);
	first = recall(&key);
	if (!first)
		remember(&key, FRAGMENT_TO_STACK, true);
	if (!first || first->owner == FRAGMENT_TO_STACK)
		return verdict(XDP_PASS, STEER_FRAGMENT);
	return send_to(eth, port, first->owner, STEER_FRAGMENT_LATER, STEER_FRAGMENT_LOCAL);
}

/* A first fragment that goes to the stack: forget where an earlier packet of the same identification went. */
static __always_inline int pass_fragment(const struct fragment_key *key, enum reason why)
{
	if (recall(key))
		remember(key, FRAGMENT_TO_STACK, false);
	return verdict(XDP_PASS, why);
}

/* One without flags is the stack's: a SYN could hide in it, which must go through the ruleset (RFC 1858, 3). */
static __always_inline int steer_first_fragment(struct xdp_md *ctx, const struct config *conf, const struct port *port,
						struct ethhdr *eth, const struct iphdr *ip, struct cursor *cursor)
{
	const struct fragment *known;
	struct found found = {};
	struct fragment_key key;
	struct tcphdr *tcp;

	fragment_key_init(&key, ip);
	if (parse_tcp(cursor, &tcp) < 0)
		return pass_fragment(&key, STEER_MALFORMED);
	if (!find(conf, hash_ports(conf, ip, tcp), &found))
		return pass_fragment(&key, opens(tcp) ? STEER_SYN : STEER_MISS);
	if (matters(found.word, tcp)) {
		if (!examine(ctx, conf, &found, ip, tcp))
			return pass_fragment(&key, STEER_COLLISION);
		if (opens(tcp))
			return pass_fragment(&key, STEER_SYN);
	}
	touch(&found);
	known = recall(&key);
	if (known && known->early)
		return verdict(XDP_PASS, STEER_FRAGMENT_EARLY);
	remember(&key, entry_owner(found.word), false);
	return send_to(eth, port, entry_owner(found.word), STEER_FRAGMENT_FIRST, STEER_FRAGMENT_LOCAL);
}

/* A whole segment behind VLAN tags or IP options. */
static __always_inline int steer_segment(struct xdp_md *ctx, const struct config *conf, const struct port *port,
					 struct ethhdr *eth, const struct iphdr *ip, struct cursor *cursor)
{
	struct found found = {};
	struct tcphdr *tcp;

	if (parse_tcp(cursor, &tcp) < 0)
		return verdict(XDP_PASS, STEER_MALFORMED);
	if (!find(conf, hash_ports(conf, ip, tcp), &found))
		return verdict(XDP_PASS, opens(tcp) ? STEER_SYN : STEER_MISS);
	if (matters(found.word, tcp)) {
		if (!examine(ctx, conf, &found, ip, tcp))
			return verdict(XDP_PASS, STEER_COLLISION);
		if (opens(tcp))
			return verdict(XDP_PASS, STEER_SYN);
	}
	touch(&found);
	return send_to(eth, port, entry_owner(found.word), ip->ihl != 5 ? STEER_OPTIONS_TX : STEER_TAGGED, STEER_LOCAL);
}

/* All that is not a plain segment, parsed anew, so that the plain segment pays for none of it. */
static __always_inline int steer_uncommon(struct xdp_md *ctx, const struct config *conf, const struct port *port,
					  struct ethhdr *eth)
{
	struct cursor cursor = {eth + 1, (void *)(long)ctx->data_end};
	int type = eth->h_proto;
	struct iphdr *ip;

	if (is_tag(type))
		type = parse_tag(&cursor);
	if (is_tag(type))
		type = parse_tag(&cursor);
	if (type < 0)
		return verdict(XDP_PASS, STEER_MALFORMED);
	if (type != be16(ETH_P_IP))
		return verdict(XDP_PASS, STEER_NOT_IPV4);
	type = parse_ipv4_options(&cursor, &ip);
	if (type < 0)
		return verdict(XDP_PASS, STEER_MALFORMED);
	if (type == IPPROTO_ICMP && !(ip->frag_off & IPV4_FRAGMENT_BITS))
		return steer_icmp(conf, port, eth, &cursor);
	if (type != IPPROTO_TCP)
		return verdict(XDP_PASS, STEER_NOT_TCP);
	if (ip->frag_off & IPV4_OFFSET_BITS)
		return steer_later_fragment(port, eth, ip);
	if (ip->frag_off & IPV4_FRAGMENT_BITS)
		return steer_first_fragment(ctx, conf, port, eth, ip, &cursor);
	return steer_segment(ctx, conf, port, eth, ip, &cursor);
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
	if (type != be16(ETH_P_IP) || parse_ipv4(&cursor, &ip) != IPPROTO_TCP || (ip->frag_off & IPV4_FRAGMENT_BITS) ||
	    ip->ihl != 5 || parse_tcp(&cursor, &tcp) < 0)
		return steer_uncommon(ctx, conf, port, eth);

	if (!find(conf, hash_ports(conf, ip, tcp), &found))
		return verdict(XDP_PASS, opens(tcp) ? STEER_SYN : STEER_MISS);
	if (matters(found.word, tcp)) {
		if (!examine(ctx, conf, &found, ip, tcp))
			return verdict(XDP_PASS, STEER_COLLISION);
		if (opens(tcp))
			return verdict(XDP_PASS, STEER_SYN);
	}
	owner = node_of(entry_owner(found.word));
	if (!owner || owner->hop == HOP_NONE)
		return verdict(XDP_PASS, STEER_NO_OWNER);
	touch(&found);
	if (owner->hop == HOP_LOCAL)
		return verdict(XDP_PASS, STEER_LOCAL);
	return send_on(eth, port, owner, STEER_TX);
}
